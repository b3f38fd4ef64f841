"""docs/rollout.md says what is: fields, reasons, commands and metrics are the code's, its blocks are applied."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import get_args

import pytest
import yaml
from prometheus_client import CollectorRegistry
from pydantic import BaseModel

from slipway.api.conditions import Phase, Reason
from slipway.api.progress import Pause
from slipway.api.rollout import Rollout
from slipway.api.v1alpha1 import InferenceServiceSpec
from slipway.control.releases import ReleaseMetrics
from slipway.decide import scene, traffic
from slipway.decide.commands import VERBS
from slipway.decide.turn import PauseReason
from tests.control.releases import NEW, Releases
from tests.control.world import KEY

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "rollout.md").read_text()
STATUS = (ROOT / "docs" / "status.md").read_text()


def section(title: str) -> str:
    return PAGE.partition(f"## {title}\n")[2].partition("\n## ")[0]


def fields(model: type[BaseModel], path: str = "") -> Iterator[str]:
    for name, field in model.model_fields.items():
        kind = field.annotation
        if isinstance(kind, type) and issubclass(kind, BaseModel) and name not in ("latency",):
            yield from fields(kind, f"{path}{field.alias or name}.")
        else:
            yield f"{path}{field.alias or name}"


def test_every_field_is_in_the_table() -> None:
    text = section("Fields")
    missing = [path for path in fields(Rollout) if path.rpartition(".")[2] not in text]
    assert missing == []


def test_every_phase_is_in_the_picture() -> None:
    assert [phase for phase in Phase if phase not in section("What happens")] == []


def test_every_reason_for_a_pause_is_in_the_table() -> None:
    told = re.findall(r"^\| `(\w+)` \| ", section("What is seen"), re.MULTILINE)
    assert sorted(told) == sorted(get_args(PauseReason))
    description = Pause.model_fields["reason"].description or ""
    assert all(reason in description for reason in told)


def test_every_command_is_in_the_table() -> None:
    told = re.findall(r"^\| (.*?) \| ", section("Commands"), re.MULTILINE)
    verbs = {verb for cell in told for verb in re.findall(r"`([a-z-]+) ID`|^(abort)$", cell)}
    assert {one or other for one, other in verbs} == set(VERBS)


def test_the_annotations_shown_are_commands() -> None:
    shown = re.findall(r"--overwrite (\S+)=\"(.*)\"", section("Commands"))
    found = scene.commands({"metadata": {"annotations": dict(shown)}})
    assert [(command.verb, command.id) for command in found] == [("abort", "2"), ("promote", "1")]


def test_every_metric_is_in_the_table() -> None:
    registry = CollectorRegistry()
    ReleaseMetrics(registry)
    names = {metric.name for metric in registry.collect()}
    told = set(re.findall(r"^\| `(\w+)\{", section("Metrics"), re.MULTILINE))
    assert {name.removesuffix("_total") for name in told} == names


def test_every_reason_is_documented() -> None:
    assert [reason for reason in Reason if f"`{reason}`" not in STATUS + PAGE] == []


@pytest.mark.parametrize("block", re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL))
def test_every_block_can_be_honoured(block: str) -> None:
    spec = {"predictor": {"model": {"modelFormat": {"name": "a"}, "storageUri": "sample://a"}}}
    wanted = InferenceServiceSpec.model_validate(spec | yaml.safe_load(block)["spec"], extra="forbid")
    assert traffic.check(wanted, "team") is None


async def test_the_example_is_released() -> None:
    example = yaml.safe_load((ROOT / "examples" / "rollout.yaml").read_text())
    example["metadata"]["namespace"] = KEY[0]
    world = Releases()
    world.user_applies(example)
    await world.live(60)
    example["spec"]["predictor"]["model"]["storageUri"] = NEW
    world.user_applies(example)
    await world.live(5)
    await world.live(300, until=lambda: world.phase == "Healthy")
    assert world.uri(world.status["stable"]) == NEW
    assert world.witness.faults == []
