"""Models of scikit-learn, XGBoost and LightGBM: they answer as their libraries do, and no file of theirs is code."""

import json
import os
import pickle
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import joblib
import lightgbm
import numpy as np
import pandas as pd
import pytest
import skops.io
import xgboost
from sklearn.compose import make_column_transformer
from sklearn.datasets import load_iris
from sklearn.ensemble import RandomForestClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import FunctionTransformer, OneHotEncoder, StandardScaler

from slipway_runtime.errors import BadConfig, BadModel, Failure, RequestError
from slipway_runtime.models.artifacts import find
from slipway_runtime.models.call import OwnCall
from slipway_runtime.models.load import LoadedModel, LoadOptions, load
from slipway_runtime.tensors import Array, TensorSpec

pytestmark = pytest.mark.timeout(300)  # each library takes seconds to import on a machine that does other things

CPU = LoadOptions(device="cpu")
X, LABELS = load_iris(return_X_y=True)
NAMES = np.array(["setosa", "versicolor", "virginica"])
Save = Callable[[Path], Any]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One model of each kind, with what it answers to all rows beside it."""
    folder = tmp_path_factory.mktemp("tabular")
    booster = xgboost.train(
        {"objective": "multi:softprob", "num_class": 3, "max_depth": 3}, xgboost.DMatrix(X, LABELS), num_boost_round=4
    )
    for suffix in ("ubj", "json"):
        _put(folder / suffix / f"model.{suffix}", booster.save_model)
        np.save(folder / suffix / "expected.npy", booster.predict(xgboost.DMatrix(X)))
    trees = lightgbm.train({"objective": "multiclass", "num_class": 3, "verbosity": -1}, lightgbm.Dataset(X, LABELS), 4)
    _put(folder / "txt" / "model.txt", trees.save_model)
    np.save(folder / "txt" / "expected.npy", trees.predict(X))
    for name, model in (("line", make_pipeline(StandardScaler(), LogisticRegression())), ("forest", forest())):
        model.fit(X, NAMES[LABELS] if name == "line" else LABELS)
        _put(folder / name / "model.skops", partial(skops.io.dump, model))
        np.save(folder / name / "expected.npy", model.predict(X))
    return folder


def forest() -> RandomForestClassifier:
    return RandomForestClassifier(4, random_state=1)


def _put(path: Path, save: Save) -> None:
    path.parent.mkdir(exist_ok=True)
    save(path)


def opened(folder: Path, options: LoadOptions = CPU, **files: Any) -> LoadedModel:
    """`files` by the first part of their names: config is config.json, slipway is slipway.yaml."""
    names = {"config": "config.json", "slipway": "slipway.yaml"}
    for name, content in files.items():
        (folder / names[name]).write_text(json.dumps(content))  # which is YAML too
    return load(find(str(folder)), options)


def answers(model: LoadedModel, *inputs: Array) -> list[Array]:
    (answer,) = model.runners[0].run([OwnCall(list(inputs), len(inputs[0]))])
    assert not isinstance(answer, RequestError), answer
    return answer


@pytest.mark.parametrize(
    ("name", "kind", "takes", "gives"),
    [
        pytest.param("ubj", "xgboost", "FP32", ("FP32", (-1, 3)), id="XGBoost, UBJSON"),
        pytest.param("json", "xgboost", "FP32", ("FP32", (-1, 3)), id="XGBoost, JSON"),
        pytest.param("txt", "lightgbm", "FP64", ("FP64", (-1, 3)), id="LightGBM"),
        pytest.param("line", "sklearn", "FP64", ("BYTES", (-1,)), id="scikit-learn, labels that are text"),
        pytest.param("forest", "sklearn", "FP64", ("INT64", (-1,)), id="scikit-learn, trees"),
    ],
)
def test_a_model_tells_its_signature_and_answers_as_its_library_does(
    made: Path, name: str, kind: str, takes: str, gives: tuple[str, tuple[int, ...]]
) -> None:
    model = opened(made / name)
    assert model.artifact.format == model.metadata.platform == kind
    assert model.metadata.inputs == (TensorSpec("x", takes, (-1, 4)),)
    assert model.metadata.outputs == (TensorSpec("predict", *gives),)
    assert model.warm_up()
    (given,) = answers(model, X.astype("f4" if takes == "FP32" else "f8"))
    expected = np.load(made / name / "expected.npy")
    if kind == "sklearn":
        assert [one.decode() if isinstance(one, bytes) else one for one in given] == expected.tolist()
    else:
        np.testing.assert_allclose(given, expected, rtol=1e-6)


def test_requests_share_a_batch_and_other_outputs_are_named_by_the_config(made: Path) -> None:
    tensors = {
        "max_batch_size": 8,
        "input": [{"name": "rows", "data_type": "TYPE_FP32", "dims": [4]}],
        "output": [
            {"name": "predict_proba", "data_type": "TYPE_FP32", "dims": [3]},
            {"name": "predict", "data_type": "TYPE_INT64", "dims": [1]},
        ],
    }
    model = opened(made / "forest", config=tensors)
    (made / "forest" / "config.json").unlink()
    calls = [OwnCall([X[rows].astype("f4")], 2) for rows in (slice(0, 2), slice(100, 102))]
    first, second = model.runners[0].run(calls)
    assert not isinstance(first, RequestError)
    assert not isinstance(second, RequestError)
    assert [array.shape for array in first] == [(2, 3), (2, 1)]
    assert [array.dtype for array in second] == [np.float32, np.int64]
    assert first[1].tolist() == [[0], [0]]
    assert second[1].tolist() == [[2], [2]]


def test_columns_come_by_name_and_numbers_stand_beside_texts(tmp_path: Path) -> None:
    table = pd.DataFrame({"size": X[:, 0], "shade": np.where(LABELS == 0, "light", "dark")})
    ready = make_column_transformer((StandardScaler(), ["size"]), (OneHotEncoder(), ["shade"]))
    fitted = make_pipeline(ready, LogisticRegression()).fit(table, LABELS == 0)
    skops.io.dump(fitted, tmp_path / "model.skops")
    columns = [
        {"name": "shade", "datatype": "BYTES", "shape": [-1, 1]},
        {"name": "size", "datatype": "FP64", "shape": [-1, 1]},
    ]
    # Zeros would be a shade that it has never seen.
    described = {"format": "sklearn", "inputs": columns, "example": {"shade": [["light"]], "size": [[5.0]]}}
    model = opened(tmp_path, slipway=described)
    assert model.warm_up()
    shades = np.array([[b"light"], [b"dark"]], object)
    assert answers(model, shades, np.array([[5.0], [5.0]]))[0].tolist() == [True, False]
    with pytest.raises(
        BadModel, match="has the columns size, shade, but its config, or what lies beside it, says size, tint"
    ):
        opened(tmp_path, slipway={"inputs": [columns[1], columns[0] | {"name": "tint"}]})


class _Touch:
    def __init__(self, path: Path) -> None:
        self._path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return Path.touch, (self._path,)


def _pickle(folder: Path, canary: Path) -> None:
    (folder / "model.pkl").write_bytes(pickle.dumps(_Touch(canary)))


def _joblib(folder: Path, canary: Path) -> None:
    joblib.dump(_Touch(canary), folder / "model.joblib", compress=3)


def _pickled_skops(folder: Path, canary: Path) -> None:
    """A pickle under the name of a safe file."""
    (folder / "model.skops").write_bytes(pickle.dumps(_Touch(canary)))


def _function(folder: Path, canary: Path) -> None:
    skops.io.dump(FunctionTransformer(os.system), folder / "model.skops")
    assert not canary.exists()


def _bomb(folder: Path, canary: Path) -> None:
    assert not canary.exists()
    with zipfile.ZipFile(folder / "model.skops", "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("schema.json", b"{}")
        archive.writestr("1.npy", bytes(80 << 20))


EVIL: dict[str, tuple[Callable[[Path, Path], None], str]] = {
    "a pickle": (_pickle, "is a pickle, which can run any code when it is loaded; save the model with skops.io.dump"),
    "a pickle of joblib": (_joblib, "is a pickle, which can run any code"),
    "a pickle that says to be skops": (_pickled_skops, "is a pickle made by torch.save, which can run any code"),
    "a function of the system": (_function, "has parts that are not known to be data: posix.system"),
    "a bomb": (_bomb, "which only a bomb does"),
}


@pytest.mark.parametrize(("make", "words"), EVIL.values(), ids=EVIL)
def test_what_would_run_code_is_refused_and_has_not_run(
    tmp_path: Path, make: Callable[[Path, Path], None], words: str
) -> None:
    make(tmp_path, canary := tmp_path / "canary")
    with pytest.raises(Failure) as told:
        opened(tmp_path)
    assert words in str(told.value)
    assert not canary.exists()


def test_a_pickle_is_loaded_where_code_is_allowed(tmp_path: Path) -> None:
    """Or nothing would be shown by its not having run."""
    _joblib(tmp_path, canary := tmp_path / "canary")
    with pytest.raises(BadModel, match="holds a NoneType, which has none of predict"):
        opened(tmp_path, LoadOptions(device="cpu", allow_code=True))
    assert canary.exists()


def test_a_class_that_the_administrator_allows_is_loaded(tmp_path: Path) -> None:
    skops.io.dump(xgboost.XGBClassifier(n_estimators=2).fit(X, LABELS), tmp_path / "model.skops")
    with pytest.raises(
        BadModel, match=r"xgboost\.core\.Booster, xgboost\.sklearn\.XGBClassifier; have the administrator"
    ):
        opened(tmp_path)
    allowed = LoadOptions(device="cpu", allowed_classes=("xgboost.*",))
    assert answers(opened(tmp_path, allowed), X[:1])[0].tolist() == [0]


@pytest.mark.parametrize(
    ("name", "part", "words"),
    [
        pytest.param("ubj", 0.8, "cannot be loaded as xgboost", id="UBJSON"),
        pytest.param("json", 0.4, "cannot be loaded as xgboost", id="JSON"),
        pytest.param("txt", 0.5, "is damaged or cut short: its trees have no end", id="text"),
        pytest.param("forest", 0.5, "is damaged or cut short", id="skops"),
    ],
)
def test_a_file_that_was_cut_is_told(made: Path, tmp_path: Path, name: str, part: float, words: str) -> None:
    (whole,) = (made / name).glob("model.*")
    data = whole.read_bytes()
    (tmp_path / whole.name).write_bytes(data[: int(len(data) * part)])
    with pytest.raises(BadModel, match=words):
        opened(tmp_path)


def test_a_reader_that_dies_does_not_take_the_server_along(made: Path, tmp_path: Path) -> None:
    """LightGBM aborts the process that has it read a tree that is not where it should be."""
    text = (made / "txt" / "model.txt").read_text()
    (tmp_path / "model.txt").write_text(
        text.replace("tree_sizes=", "tree_sizes=9999999999 ").replace("leaf_value=", "x=")
    )
    with pytest.raises(BadModel, match=r"is damaged: reading it ended|cannot be loaded as lightgbm"):
        opened(tmp_path)


def test_a_reader_that_takes_too_much_memory_is_ended(made: Path, tmp_path: Path) -> None:
    """A few bytes that ask for 16 GB; the machine need not have them for this to be told."""
    text = (made / "json" / "model.json").read_text()
    assert '"num_feature":"4"' in text
    (tmp_path / "model.json").write_text(text.replace('"num_feature":"4"', '"num_feature":"4000000000"'))
    with pytest.raises(BadModel, match=r"needs more than \d+ MiB of memory to be read"):
        opened(tmp_path)


def test_a_part_of_a_skops_file_that_takes_too_much_memory_is_ended(tmp_path: Path) -> None:
    """XGBoost's reader again, which the administrator allowed."""
    skops.io.dump(xgboost.XGBClassifier(n_estimators=2).fit(X, LABELS), tmp_path / "whole")
    old, new = (b"num_featureSL" + len(one).to_bytes(8) + one for one in (b"4", b"4000000000"))
    with zipfile.ZipFile(tmp_path / "whole") as whole, zipfile.ZipFile(tmp_path / "model.skops", "w") as made:
        parts = {name: whole.read(name) for name in whole.namelist()}
        assert any(old in part for part in parts.values())
        for name, part in parts.items():
            made.writestr(name, part.replace(old, new))
    with pytest.raises(BadModel, match=r"within \d+ MiB of memory|needs more than \d+ MiB of memory to be read"):
        opened(tmp_path, LoadOptions(device="cpu", allowed_classes=("xgboost.*",)))


def tensor(name: str, datatype: str, *shape: int) -> dict[str, Any]:
    return {"name": name, "datatype": datatype, "shape": list(shape)}


@pytest.mark.parametrize(
    ("name", "said", "words"),
    [
        (
            "ubj",
            {"inputs": [tensor("x", "FP32", -1, 5)]},
            "takes 4 features, but its config, or what lies beside it, says 5",
        ),
        ("ubj", {"inputs": [tensor("x", "BYTES", -1, 4)]}, "is BYTES, which xgboost cannot take"),
        ("txt", {"inputs": [tensor("x", "FP32", -1, 2, 2)]}, "must be rows of features"),
        (
            "txt",
            {"outputs": [tensor("scores", "FP32", -1, 3)]},
            "gives predict, margin, contributions; correct its config",
        ),
        ("forest", {"outputs": [tensor("predict_proba", "INT64", -1, 3)]}, "is INT64 [-1, 3], but it is FP64 [-1, 3]"),
        ("ubj", {"example": {"x": [[1, 2, 3]]}}, "has shape [1, 3] for 'x', but the model takes [-1, 4]"),
        ("ubj", {"example": {"x": [["a", "b", "c", "d"]]}}, "is no FP32 for 'x'"),
        ("ubj", {"format": "lightgbm"}, "says that the model is lightgbm, but"),
    ],
)
def test_what_contradicts_the_model_is_told(
    made: Path, tmp_path: Path, name: str, said: dict[str, Any], words: str
) -> None:
    (whole,) = (made / name).glob("model.*")
    (tmp_path / whole.name).write_bytes(whole.read_bytes())
    with pytest.raises(BadModel) as told:
        opened(tmp_path, slipway=said)
    assert words in str(told.value)


def test_they_are_not_for_gpus(made: Path) -> None:
    with pytest.raises(BadConfig, match="is xgboost, which runs on CPUs here; leave the device out"):
        load(find(str(made / "ubj")), LoadOptions(device="cuda"))
