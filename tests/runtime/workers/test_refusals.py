"""What several workers cannot do, and what they share."""

import pytest

from slipway_runtime.errors import BadConfig, BadModel
from slipway_runtime.models.config_reader import config_of
from slipway_runtime.repository import load_options, plan_of
from slipway_runtime.settings import read_settings


@pytest.mark.parametrize("flags", [("--device", "cuda"), ("--grpc-backend", "grpcio")], ids=["a GPU", "grpcio"])
def test_what_needs_one_process_is_refused_with_more(flags: tuple[str, str]) -> None:
    with pytest.raises(BadConfig, match=f"{' '.join(flags)} needs --workers 1, got --workers 2"):
        read_settings(["serve", "--model", "m", "--workers", "2", *flags], {})


def test_a_model_with_sequences_is_refused_by_several_workers() -> None:
    config = config_of({"sequence_batching": {}}, "the config")
    with pytest.raises(BadModel, match="model 'm': sequence_batching needs --workers 1"):
        plan_of("m", config, read_settings(["serve", "--model", "m", "--workers", "2"], {}))


def test_workers_share_the_cpus_and_bind_instances_to_none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("slipway_runtime.repository.cpu_limit", lambda: 8)
    shared = [load_options(read_settings(["serve", "--model", "m", "--workers", str(n)], {})) for n in (1, 2, 8)]
    assert [options.threads for options in shared] == [7, 3, 1]
    assert [options.own_cores for options in shared] == [True, False, False]
