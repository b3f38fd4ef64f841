"""docs/scaling.md says what is: fields, reasons and options are the code's, its table is what the command prints."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from pydantic import BaseModel

from slipway import cli
from slipway.api.conditions import Reason
from slipway.api.scaling import Percentiles, Scaling
from slipway.api.status import ScalingStatus
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.decide.scaling import spec

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "scaling.md").read_text()
EXAMPLE = yaml.safe_load((ROOT / "examples" / "scaling.yaml").read_text())


def names(model: type[BaseModel]) -> Iterator[str]:
    """Of all fields, those of the fields' own models included."""
    for name, field in model.model_fields.items():
        yield field.alias or name
        for kind in (field.annotation, *getattr(field.annotation, "__args__", ())):
            for inner in (kind, *getattr(kind, "__args__", ())):
                if isinstance(inner, type) and issubclass(inner, BaseModel):
                    yield from names(inner)


@pytest.mark.parametrize("name", sorted({*names(Scaling), *names(Percentiles)}))
def test_every_field_is_told(name: str) -> None:
    table = PAGE.partition("## Fields of `spec.scaling`\n")[2].partition("\n## ")[0]
    assert re.search(rf"\b{name}\b", table)


def test_reasons_and_fields_of_status_are_those_of_the_code() -> None:
    reasons = {reason.value for reason in Reason}
    table = PAGE.partition("## What stands in the way\n")[2].partition("\n## ")[0]
    told = {
        row.rsplit("|", 2)[1].split("`")[1]
        for row in table.splitlines()
        if row.startswith("| ") and "`" in row.rsplit("|", 2)[1]
    }
    assert told - {"ScalingActive"} <= reasons
    assert {"MetricsDegraded", "NoSignal", "CapacityLimited", "LaunchFailed", "AutoscalerConflict"} <= told
    fields = re.search(r"# (desired, .*)", PAGE)
    assert fields is not None
    assert set(fields[1].split(", ")) <= {field.alias or name for name, field in ScalingStatus.model_fields.items()}


def test_the_example_and_the_first_block_are_honoured() -> None:
    block = yaml.safe_load(re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)[0])
    for scaling in (EXAMPLE["spec"]["scaling"], block["spec"]["scaling"]):
        found = InferenceServiceSpec.model_validate(EXAMPLE["spec"] | {"scaling": scaling}, extra="forbid")
        assert spec.flaw(found, "team") == ""
        assert spec.wanted(found)[""].min_replicas == 0


def test_the_table_of_a_replay_is_what_the_command_prints(capsys: pytest.CaptureFixture[str]) -> None:
    block = re.findall(r"```console\n\$ slipway (simulate.*?)```", PAGE, re.DOTALL)[0]
    command, *shown = block.splitlines()
    with pytest.raises(SystemExit):
        cli.main(shlex.split(command))
    printed = capsys.readouterr().out.splitlines()
    assert [line for line in shown if line != "..." and line not in printed] == []


def test_every_option_named_is_one(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        cli.main(["simulate", "--help"])
    known = capsys.readouterr().out
    assert [option for option in re.findall(r"(?<!-)--[a-z][a-z-]+", PAGE) if option not in known] == []
