"""Who the agent says it is."""

from pathlib import Path

import pytest

from slipway.kube.pod import NotInPod, PodServer
from tests.gateway.certificates import certificate


def test_a_token_that_is_renewed_is_read_within_a_minute(tmp_path: Path) -> None:
    certificate(tmp_path / "ca.crt", tmp_path / "key.pem", "localhost")
    (tmp_path / "token").write_text("first\n")
    server = PodServer.load({"KUBERNETES_SERVICE_HOST": "fd00::1"}, tmp_path)
    assert server.url == "https://[fd00::1]:443"
    assert server.token(now=0.0) == "first"
    (tmp_path / "token").write_text("second")
    assert server.token(now=59.0) == "first"
    assert server.token(now=60.0) == "second"
    (tmp_path / "token").unlink()
    assert server.token(now=200.0) == "second"
    assert "second" not in repr(server)


def test_outside_a_pod_it_says_what_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotInPod, match="KUBERNETES_SERVICE_HOST"):
        PodServer.load({}, tmp_path)
    with pytest.raises(NotInPod, match="cannot be read"):
        PodServer.load({"KUBERNETES_SERVICE_HOST": "10.0.0.1"}, tmp_path)
