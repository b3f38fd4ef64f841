"""Reads models of scikit-learn, XGBoost and LightGBM into functions of a table. Their libraries are loaded when needed.

Nothing here unpickles, unless the administrator allows code: scikit-learn's models come as skops writes them, with
types that are known to hold data only, XGBoost's as JSON or UBJSON, LightGBM's as text. The last two are read by C++
that trusts what it reads: `reading` has a process of its own try them first.
"""

import zipfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from slipway_runtime.errors import BadConfig, BadModel, cause
from slipway_runtime.models.artifacts import PICKLES, Artifact

Method = Callable[[Any], Any]
_METHODS = ("predict", "predict_proba", "decision_function", "transform", "score_samples")
"""Of scikit-learn's models, the usual one first."""
_TRUSTED = (
    "collections:OrderedDict",
    "sklearn.calibration:_CalibratedClassifier",
    "sklearn.calibration:_SigmoidCalibration",
    "sklearn.ensemble._hist_gradient_boosting.predictor:TreePredictor",
    "sklearn.gaussian_process.kernels:*",
    "sklearn.metrics._dist_metrics:EuclideanDistance*",
    "sklearn.neighbors._ball_tree:BallTree",
    "sklearn.neighbors._kd_tree:KDTree",
    "sklearn.neural_network._stochastic_optimizers:AdamOptimizer",
    "sklearn.neural_network._stochastic_optimizers:SGDOptimizer",
    "sklearn.tree._tree:Tree",
    "sklearn.utils._bunch:Bunch",
)
"""Beside those that skops trusts itself: parts of scikit-learn's models, which hold numbers and call nothing."""
_BOMB_RATIO, _BOMB_BYTES = 200, 64 << 20


@dataclass(frozen=True, slots=True)
class Estimator:
    """`features` 0 = not known; `columns` are their names, where it has any. `methods` are by output, the usual first.

    `as_frame`: it wants columns by their names, as a DataFrame of pandas. `datatype` is of what it takes best.
    """

    platform: str
    datatype: str
    methods: Mapping[str, Method]
    features: int = 0
    columns: tuple[str, ...] = ()
    as_frame: bool = False


def read(artifact: Artifact, threads: int, *, allow_code: bool, allowed_classes: Sequence[str] = ()) -> Estimator:
    """Raises BadModel, BadConfig."""
    try:
        match artifact.format:
            case "xgboost":
                return _xgboost(artifact.path, threads)
            case "lightgbm":
                return _lightgbm(artifact.path, threads)
        return _sklearn(artifact.path, threads, allow_code=allow_code, allowed_classes=allowed_classes)
    except ModuleNotFoundError as exc:
        raise BadConfig(
            f"model file '{artifact.path}' is {artifact.format}, but {exc.name or 'what runs it'} is not installed; "
            "pip install 'slipway[sklearn]'"
        ) from exc
    except (BadModel, BadConfig):
        raise
    except Exception as exc:  # the readers meet foreign bytes; whatever they raise means they are bad
        raise BadModel(
            f"model file '{artifact.path}' cannot be loaded as {artifact.format}: {_why(exc)}; it is "
            "damaged or made by another version, save it again"
        ) from exc


def _why(exc: Exception) -> str:
    """XGBoost tells the cause on its first line, behind a time, and a stack after it."""
    if type(exc).__name__ == "XGBoostError":
        return str(exc).strip().partition("\n")[0].rpartition("] ")[2][:400]
    return f"{type(exc).__name__}: {cause(exc)}"


def _xgboost(path: Path, threads: int) -> Estimator:
    import xgboost  # noqa: PLC0415 - an extra

    booster = xgboost.Booster()
    # By its bytes: from a file the suffix would say how to read it.
    booster.load_model(bytearray(path.read_bytes()))
    booster.set_param({"nthread": threads, "device": "cpu"})

    def table(rows: Any) -> Any:
        return xgboost.DMatrix(rows, nthread=threads, feature_names=booster.feature_names)

    return Estimator(
        platform="xgboost",
        datatype="FP32",
        methods={
            "predict": lambda rows: booster.predict(table(rows)),
            "margin": lambda rows: booster.predict(table(rows), output_margin=True),
            "contributions": lambda rows: booster.predict(table(rows), pred_contribs=True),
        },
        features=int(booster.num_features()),
        columns=tuple(booster.feature_names or ()),
    )


def _lightgbm(path: Path, threads: int) -> Estimator:
    import lightgbm  # noqa: PLC0415 - an extra

    text = path.read_text()
    if "\nend of trees\n" not in text.replace("\r\n", "\n"):
        raise BadModel(f"model file '{path}' is damaged or cut short: its trees have no end; upload it again")
    booster = lightgbm.Booster(model_str=text)
    predict = partial(booster.predict, num_threads=threads)
    return Estimator(
        platform="lightgbm",
        datatype="FP64",
        methods={
            "predict": predict,
            "margin": partial(predict, raw_score=True),
            "contributions": partial(predict, pred_contrib=True),
        },
        features=int(booster.num_feature()),
        columns=tuple(booster.feature_name()),
    )


def _sklearn(path: Path, threads: int, *, allow_code: bool, allowed_classes: Sequence[str]) -> Estimator:
    from threadpoolctl import threadpool_limits  # noqa: PLC0415 - an extra

    if path.suffix in PICKLES:
        model = _unpickled(path, allow_code=allow_code)
    else:
        model = _of_skops(path, allow_code=allow_code, allowed_classes=allowed_classes)
    threadpool_limits(threads)
    methods = {name: getattr(model, name) for name in _METHODS if callable(getattr(model, name, None))}
    if not methods:
        raise BadModel(
            f"model file '{path}' holds a {type(model).__name__}, which has none of {', '.join(_METHODS)}; save a model"
        )
    columns = tuple(map(str, getattr(model, "feature_names_in_", ())))
    features = int(getattr(model, "n_features_in_", 0))
    return Estimator("sklearn", "FP64", methods, features, columns, as_frame=bool(columns))


def _unpickled(path: Path, *, allow_code: bool) -> Any:
    if not allow_code:
        raise BadModel(
            f"model file '{path}' is a pickle, which can run any code when it is loaded; save the model with "
            "skops.io.dump(model, 'model.skops'), or have the administrator allow code"
        )
    import joblib  # noqa: PLC0415 - an extra

    return joblib.load(path)


def _of_skops(path: Path, *, allow_code: bool, allowed_classes: Sequence[str]) -> Any:
    _check_size(path)
    from skops.io import get_untrusted_types, load  # noqa: PLC0415 - an extra

    found = get_untrusted_types(file=path)
    patterns = (*_TRUSTED, *allowed_classes)
    if not allow_code and (strange := [name for name in found if not _is_among(name, patterns)]):
        raise BadModel(
            f"model file '{path}' has parts that are not known to be data: {', '.join(strange)[:400]}; have the "
            "administrator allow them with --allowed-classes (as module:Class), or save the model without them"
        )
    return load(path, trusted=found)


def _is_among(name: str, patterns: Sequence[str]) -> bool:
    module, _, kind = name.rpartition(".")
    return any(fnmatchcase(f"{module}:{kind}", pattern) for pattern in patterns)


def _check_size(path: Path) -> None:
    with zipfile.ZipFile(path) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > max(_BOMB_BYTES, _BOMB_RATIO * path.stat().st_size):
        raise BadModel(f"model file '{path}' unpacks to {size >> 20} MiB, which only a bomb does; save it again")


def text_of(values: Any) -> Any:
    """What a model gave, as an array; labels that are text as objects."""
    if hasattr(values, "toarray"):  # scipy's sparse matrices
        values = values.toarray()
    array = np.asarray(values)
    return array.astype(object) if array.dtype.kind in "US" else array
