import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from slipway_runtime import errors
from slipway_runtime.fetch.__main__ import main
from tests.runtime.fetching.buckets import KEY, SECRET
from tests.runtime.fetching.stand_in import Store, serving


@pytest.fixture
def store() -> Iterator[Store]:
    with serving(Store()) as made:
        yield made


@dataclass(frozen=True)
class Outcome:
    code: int
    reason: str
    """Of the termination message; empty: it went well."""
    message: str
    log: str
    files: dict[str, bytes]
    """What the server would see."""

    @property
    def model(self) -> dict[str, bytes]:
        """Without the fetcher's own mark."""
        return {name: data for name, data in self.files.items() if name != ".slipway-fetched"}


S3_KEYS = {"SLIPWAY_SECRET_AWS_ACCESS_KEY_ID": KEY, "SLIPWAY_SECRET_AWS_SECRET_ACCESS_KEY": SECRET}
Fetch = Callable[..., Outcome]


@pytest.fixture
def fetch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], store: Store) -> Fetch:
    """Fetches as the init container does. Each call is another start of it, with the volume of its pod."""
    log = tmp_path / "termination-log"
    monkeypatch.setattr(errors, "TERMINATION_LOG", log)

    def run(
        uri: str, *, env: dict[str, str] | None = None, inside: bool = True, pod: str = "volume", **settings: Any
    ) -> Outcome:
        dest = tmp_path / pod
        log.write_text("")
        hosts = {"insideHosts": [f"127.0.0.1:{store.port}"]} if inside else {}
        given = {**settings, "policy": {**hosts, **settings.get("policy", {})}}
        code = main([uri, str(dest)], {"SLIPWAY_FETCH": json.dumps(given), **(env or {})})
        told = json.loads(log.read_text() or "{}")
        files = {str(path.relative_to(dest)): path.read_bytes() for path in dest.rglob("*") if path.is_file()}
        seen = {name: data for name, data in files.items() if not name.startswith(".slipway-fetch/")}
        return Outcome(code, told.get("reason", ""), told.get("message", ""), capsys.readouterr().err, seen)

    return run
