"""Options of a model: what the server is told of them, and which of them a runtime cannot honour."""

import json
import re
from pathlib import Path
from typing import Any, get_args

import pytest
import yaml

from slipway.api.conditions import Reason
from slipway.api.model import Model
from slipway.api.options import OptionName, Options
from slipway.api.v1alpha1 import Predictor, RuntimeContainer, ServingRuntimeSpec
from slipway.decide import options, resources
from slipway.decide.revision import choice
from slipway.decide.runtimes import Runtime, parse
from slipway_runtime.repository import OPTIONS
from slipway_runtime.triton.wishes import FLAGS

ROOT = Path(__file__).parents[2]
TENSOR = {"name": "x", "datatype": "FP32", "shape": [3, -1]}


def model(*args: str, **said: Any) -> Model:
    return Model.model_validate(
        {"modelFormat": {"name": "onnx"}, "storageUri": "sample://x", "args": args, "options": said}
    )


def runtime(**options: str | None) -> Runtime:
    spec = ServingRuntimeSpec.model_validate(
        {
            "supportedModelFormats": [{"name": "onnx"}],
            "container": {"image": "i"},
            "options": [{"name": name} | ({"arg": arg} if arg else {}) for name, arg in options.items()],
        }
    )
    return Runtime("ClusterServingRuntime", "triton", spec)


def environment(given: Model) -> dict[str, str]:
    container = RuntimeContainer.model_validate({"image": "i"})
    made = resources.pod_template("shop", Predictor(model=given), container, "i", "f")
    return {var["name"]: var["value"] for var in made["spec"]["containers"][0]["env"]}


def test_every_option_can_be_named_by_a_runtime() -> None:
    fields = {str(field.alias or name) for name, field in Options.model_fields.items()}
    assert fields == set(get_args(OptionName))


def test_the_server_is_told_what_is_said_and_nothing_else() -> None:
    said = {"maxBatchSize": 0, "warmUp": False, "inputs": [TENSOR], "preferredBatchSizes": []}
    told = json.loads(environment(model(**said))["SLIPWAY_MODEL_OPTIONS"])
    assert told == {"maxBatchSize": 0, "warmUp": False, "inputs": [TENSOR]}
    assert "SLIPWAY_MODEL_OPTIONS" not in environment(model())


def test_an_option_makes_another_revision_and_none_makes_the_same() -> None:
    plain = Model.model_validate({"modelFormat": {"name": "onnx"}, "storageUri": "sample://x"})
    assert "options" not in choice(Predictor(model=plain))["model"]
    assert choice(Predictor(model=model(dtype="float16"))) != choice(Predictor(model=model(dtype="bfloat16")))


def test_what_a_runtime_takes_is_taken() -> None:
    assert options.check(model(dtype="float16", instances=2), runtime(dtype=None, instances="--instances")) is None
    assert options.check(model(), runtime()) is None


@pytest.mark.parametrize(
    ("given", "words"),
    [
        pytest.param(
            model(compile=True),
            "compile: ClusterServingRuntime/triton does not take it; it takes: "
            "maxBatchSize, preferredBatchSizes, inputs",
            id="one that the runtime has not",
        ),
        pytest.param(
            model("--max-batch-size", "8", maxBatchSize=8),
            "maxBatchSize and the argument --max-batch-size say the same; keep one of them",
            id="one that an argument says too",
        ),
        pytest.param(
            model("--max-batch-size=8", maxBatchSize=8),
            "maxBatchSize and the argument --max-batch-size say the same; keep one of them",
            id="one that an argument of one word says too",
        ),
        pytest.param(
            model(maxBatchSize=4, preferredBatchSizes=[2, 8]),
            "preferredBatchSizes has 8, more than maxBatchSize, which is 4",
            id="a preferred batch that is none",
        ),
        pytest.param(model(inputs=[TENSOR, TENSOR]), "inputs has 'x' twice; name each once", id="an input twice"),
    ],
)
def test_what_cannot_be_honoured_is_refused(given: Model, words: str) -> None:
    found = options.check(given, runtime(maxBatchSize="--max-batch-size", preferredBatchSizes=None, inputs=None))
    assert found is not None
    assert (found.reason, found.message) == (Reason.OPTION_NOT_SUPPORTED, f"spec.predictor.model.options.{words}")


def test_a_runtime_without_options_says_so() -> None:
    found = options.check(model(device="gpu"), runtime())
    assert found is not None
    assert found.message.endswith("does not take it; it takes: no options")


def shipped() -> dict[str, Runtime]:
    """The runtimes that the chart installs."""
    lines = re.findall(
        r"- '(.*\"kind\":\"ClusterServingRuntime\".*)'", (ROOT / "tests/golden/chart-cluster.yaml").read_text()
    )
    return {runtime.name: runtime for line in lines if (runtime := parse(json.loads(line))) is not None}


def test_a_shipped_runtime_names_what_its_server_takes() -> None:
    found = {name: {option.name: option.arg for option in one.spec.options} for name, one in shipped().items()}
    assert found["slipway-triton"] == FLAGS
    assert found["slipway-pytorch"].keys() == set(OPTIONS)
    refused = {"device", "dtype", "quantization", "compile", "batchBuckets"}
    assert found["slipway-sklearn-xgboost"].keys() == set(OPTIONS) - refused


def test_the_page_says_which_server_takes_what() -> None:
    table = (ROOT / "docs/options.md").read_text().partition("| option |")[2].partition("\n\n")[0]
    rows = [line.split("|")[1:6] for line in table.splitlines()[2:]]
    for at, name in ((2, "slipway-pytorch"), (3, "slipway-triton"), (4, "slipway-sklearn-xgboost")):
        told = {word for row in rows if row[at].strip().startswith("yes") for word in re.findall(r"`(\w+)`", row[0])}
        assert told == {option.name for option in shipped()[name].spec.options}
    assert {word for row in rows for word in re.findall(r"`(\w+)`", row[0])} == set(get_args(OptionName))


def test_the_example_is_taken_by_triton() -> None:
    spec = yaml.safe_load((ROOT / "examples/options.yaml").read_text())["spec"]
    assert options.check(Predictor.model_validate(spec["predictor"]).model, shipped()["slipway-triton"]) is None
