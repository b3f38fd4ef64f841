"""The stand-in for the hub, held to Hugging Face's own client: what that client fetches from it, ours does too."""

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.runtime.stores import programs
from tests.runtime.stores.hub import Hub

pytestmark = pytest.mark.timeout(300)  # the client may have to be installed first
_CLIENT = """
import sys
from huggingface_hub import snapshot_download
from huggingface_hub.errors import RepositoryNotFoundError
try:
    snapshot_download("org/" + sys.argv[1], local_dir=sys.argv[2])
except RepositoryNotFoundError:
    sys.exit(44)
"""
MODEL = {"config.json": b'{"a": 1}', "model.safetensors": os.urandom(300_000), "sub/x y.txt": b"x"}


@pytest.fixture(scope="module")
def hub(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Hub]:
    folder = tmp_path_factory.mktemp("hub")
    with Hub.serving(folder) as made:
        files = {}
        for number, (name, data) in enumerate(MODEL.items()):
            files[name] = folder / str(number)
            files[name].write_bytes(data)
        made.put("name", files)
        made.large_at = f"localhost:{made.upstream.port}"  # as in life another host, which the client asks nothing of
        yield made


def downloaded(hub: Hub, name: str, folder: Path, token: str) -> tuple[int, dict[str, bytes]]:
    env = os.environ | {"HF_ENDPOINT": hub.url, "HF_TOKEN": token, "HF_HOME": str(folder / "home")}
    command = (programs.hub_client(), "-c", _CLIENT, name, folder / "got")
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode in (0, 44), done.stderr
    files = {path for path in (folder / "got").rglob("*") if path.is_file()}
    found = {str(path.relative_to(folder / "got")): path.read_bytes() for path in files}
    return done.returncode, {path: data for path, data in found.items() if not path.startswith(".cache/")}


def test_the_hubs_own_client_fetches_the_same_files(hub: Hub, tmp_path: Path) -> None:
    assert downloaded(hub, "name", tmp_path, "hf_canary") == (0, MODEL)


@pytest.mark.parametrize(("name", "token"), [("none", "hf_canary"), ("name", "hf_another")])
def test_the_hubs_own_client_finds_nothing_that_is_not_there_or_not_its_to_read(
    hub: Hub, tmp_path: Path, name: str, token: str
) -> None:
    assert downloaded(hub, name, tmp_path, token) == (44, {})
