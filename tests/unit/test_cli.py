"""What `slipway` hands on to others."""

import pytest

from slipway import cli


def test_export_is_done_by_the_model_server_with_its_exit_code(capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        cli.main(["export", "shop.models:Net", "out", "--to", "pickle"])
    assert ended.value.code == 78
    assert "--to is 'pickle', must be one of torch-export, torchscript, onnx" in capfd.readouterr().err
