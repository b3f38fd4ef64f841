"""Models of scikit-learn and XGBoost from a store: the format is enough, and what lies beside a model is believed."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import pytest

from e2e.support import store as stores
from e2e.support.api import Manifest
from e2e.support.installation import Installation
from e2e.support.manifests import service
from e2e.support.store import Store
from e2e.support.team import Team

RUNTIME = "slipway-sklearn-xgboost"
SIZE = {"requests": {"cpu": "50m", "memory": "128Mi"}, "limits": {"memory": "1Gi"}}
READY_S = 180


@dataclass(frozen=True, slots=True)
class Made:
    """`rows` are a request, `answers` what each model says to it where it was made."""

    store: Store
    rows: list[list[float]]
    answers: dict[str, list[float]]

    @property
    def team(self) -> Team:
        return self.store.team


@pytest.fixture(scope="module")
def made(sklearn: Team, shared_slipway: Installation) -> Iterator[Made]:
    from e2e.support import tabular  # noqa: PLC0415 - no other scenario needs what it brings

    shared_slipway.upgrade("--set", f"fetch.policy.insideHosts={{{stores.INSIDE}}}")
    found = stores.start(sklearn, tabular.models())
    sklearn.apply(of(found, "line", "sklearn"), of(found, "trees", "xgboost"))
    for name in ("line", "trees"):
        sklearn.wait_settled(name, within_s=READY_S)
    yield Made(found, tabular.ROWS.tolist(), tabular.expected())
    shared_slipway.upgrade()


def of(store: Store, name: str, form: str, model: str = "") -> Manifest:
    there = {"endpoint": store.endpoint, "secretName": "reader"}
    uri = f"s3://models/{model or name}/"
    return service(name, uri, modelFormat={"name": form}, storage=there, resources=SIZE)


def asked(team: Team, name: str, body: Any) -> list[float]:
    answer = team.site.api.call("POST", f"{team.path_of(name)}/v2/models/{name}/infer", body)
    values: list[float] = answer["outputs"][0]["data"]
    return values


def test_a_model_of_scikit_learn_answers_as_where_it_was_made(made: Made) -> None:
    assert made.team.status("line")["runtime"] == f"ClusterServingRuntime/{RUNTIME}"
    values = [value for row in made.rows for value in row]
    tensor = {"name": "x", "datatype": "FP64", "shape": [len(made.rows), 4], "data": values}
    assert asked(made.team, "line", {"inputs": [tensor]}) == made.answers["line"]


def test_a_model_of_xgboost_tells_a_request_that_it_answers_as_where_it_was_made(made: Made) -> None:
    about = made.team.site.api.call("GET", f"{made.team.path_of('trees')}/v2/models/trees")
    assert about["inputs"] == [{"name": "flowers", "datatype": "FP32", "shape": [-1, 4]}]
    assert asked(made.team, "trees", about["example"]) == pytest.approx(made.answers["trees"], rel=1e-5)


@pytest.mark.parametrize(
    ("name", "form", "model", "words"),
    [
        ("other", "lightgbm", "trees", "the service says that its format is lightgbm, but"),
        ("pickled", "sklearn", "pickle", "is a pickle, which can run any code when it is loaded"),
    ],
)
def test_what_is_not_as_it_is_said_or_would_run_code_is_told(
    made: Made, name: str, form: str, model: str, words: str
) -> None:
    made.team.apply(of(made.store, name, form, model))
    told = made.team.wait(name, "ModelLoaded", "False", reason="ModelInvalid", within_s=READY_S)
    assert words in told["message"]
    made.team.delete_service(name)
