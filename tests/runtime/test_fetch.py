"""The fetcher as the init container runs it: what is copied, what is refused, with which code and last line."""

import json
import os
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from slipway_runtime import errors
from slipway_runtime.errors import BadModel
from slipway_runtime.fetch import local
from slipway_runtime.fetch.__main__ import main
from slipway_runtime.models import sources
from tests.runtime.process import environment


@pytest.fixture
def volume(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """What is mounted at /mnt/pvc."""
    monkeypatch.setattr(sources, "PVC_MOUNT", tmp_path / "pvc")
    folder = tmp_path / "pvc" / "models" / "m"
    (folder / "sub").mkdir(parents=True)
    (folder / "model.pt").write_bytes(b"weights")
    (folder / "sub" / "labels.txt").write_bytes(b"a\nb\n")
    return folder


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str]:
    """Exit code and last line on stderr."""
    code = main([str(argument) for argument in arguments])
    return code, capsys.readouterr().err.splitlines()[-1]


def tree(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}


MODEL = {"model.pt": b"weights", "sub/labels.txt": b"a\nb\n"}


@pytest.mark.parametrize("exists", [True, False], ids=["into a mount point", "into a new folder"])
def test_a_folder_of_a_claim_is_copied(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], exists: bool
) -> None:
    dest = tmp_path / "dest"
    if exists:
        dest.mkdir()
    code, last = run(capsys, "pvc://claim/models/m", dest)
    assert (code, tree(dest)) == (0, MODEL)
    assert "11 bytes copied" in last


def test_a_single_file_keeps_its_name(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run(capsys, f"file://{volume}/model.pt", tmp_path / "dest")[0] == 0
    assert tree(tmp_path / "dest") == {"model.pt": b"weights"}


def test_fetching_again_replaces_what_an_interrupted_fetch_left(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    dest = tmp_path / "dest"
    (dest / local.STAGING / "half").mkdir(parents=True)
    (dest / "sub").mkdir()
    (dest / "sub" / "stale").write_text("old")
    (dest / "model.pt").write_text("old")
    assert run(capsys, "pvc://claim/models/m", dest)[0] == 0
    assert tree(dest) == MODEL


def test_links_inside_the_model_become_files(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (volume / "alias.pt").symlink_to("model.pt")
    (volume.parent / "latest").symlink_to("m")
    assert run(capsys, "pvc://claim/models/latest", tmp_path / "dest")[0] == 0
    copied = tmp_path / "dest" / "alias.pt"
    assert (copied.read_bytes(), copied.is_symlink()) == (b"weights", False)


def test_hidden_and_odd_names_are_copied(volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name in (".hidden", "ünï", "with space", "-rf"):
        (volume / name).write_text(name)
    assert run(capsys, "pvc://claim/models/m", tmp_path / "dest")[0] == 0
    assert tree(tmp_path / "dest") == tree(volume)


def link_out(volume: Path) -> None:
    (volume / "x").symlink_to("/etc/hostname")


def link_up(volume: Path) -> None:
    (volume.parent / "secret").write_text("s")
    (volume / "sub" / "x").symlink_to("../../secret")


def link_to_folder(volume: Path) -> None:
    (volume / "x").symlink_to("sub")


def link_loop(volume: Path) -> None:
    (volume / "x").symlink_to("x")


def link_nowhere(volume: Path) -> None:
    (volume / "x").symlink_to("gone")


def pipe(volume: Path) -> None:
    os.mkfifo(volume / "x")


def unix_socket(volume: Path) -> None:
    with socket.socket(socket.AF_UNIX) as listener:
        os.chdir(volume)
        listener.bind("x")


def model_is_a_link_out(volume: Path) -> None:
    for path in (volume / "sub" / "labels.txt", volume / "model.pt"):
        path.unlink()
    (volume / "sub").rmdir()
    volume.rmdir()
    volume.symlink_to("/etc")


@pytest.mark.parametrize(
    ("spoil", "sentence"),
    [
        (link_out, "a link that leaves the model's folder"),
        (link_up, "a link that leaves the model's folder"),
        (link_to_folder, "a link to a folder"),
        (link_loop, "a link that leads nowhere"),
        (link_nowhere, "a link that leads nowhere"),
        (pipe, "neither a file nor a folder"),
        (unix_socket, "neither a file nor a folder"),
        (model_is_a_link_out, "a link that leaves the model's folder"),
    ],
)
def test_what_could_leave_the_source_is_refused_and_nothing_is_written(
    volume: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    spoil: Callable[[Path], None],
    sentence: str,
) -> None:
    monkeypatch.chdir(tmp_path)
    spoil(volume)
    code, last = run(capsys, "pvc://claim/models/m", tmp_path / "dest")
    assert (code, sentence in last) == (65, True), last
    assert not (tmp_path / "dest").exists()


@pytest.mark.parametrize(
    ("uri", "code", "sentence"),
    [
        ("pvc://claim/../etc", 78, "climbs out of its folder"),
        ("pvc://claim/models/%2e%2e/%2e%2e/etc", 78, "climbs out of its folder"),
        ("pvc://../etc", 78, "climbs out of its folder"),
        ("pvc:///models", 78, "must be pvc://CLAIM/PATH"),
        ("pvc://claim/models/gone", 66, "'/models/gone' does not exist on the volume of claim 'claim'"),
        ("file://host/etc", 78, "must be file:///ABSOLUTE/PATH"),
        ("file://", 78, "must be file:///ABSOLUTE/PATH"),
        ("file:///nowhere/at/all", 66, "file '/nowhere/at/all' does not exist"),
        ("ftp://host/key", 78, "is not understood; use one of s3://, gs://, az://"),
        ("/plain/path", 78, "is not understood"),
        ("", 78, "is not understood"),
        ("sample://a/b", 78, "must be sample://NAME"),
        ("sample://nope", 66, "sample 'nope' does not exist; there are: add-sub, hello"),
        ("file:///etc?x=1", 78, "has a query"),
    ],
)
def test_a_wrong_address_is_refused_in_one_sentence(
    volume: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    *,
    uri: str,
    code: int,
    sentence: str,
) -> None:
    for name in ("hello", "add-sub"):
        (tmp_path / "samples" / name).mkdir(parents=True)
    monkeypatch.setenv("SLIPWAY_SAMPLES_DIR", str(tmp_path / "samples"))
    got, last = run(capsys, uri, tmp_path / "dest")
    assert (got, sentence in last) == (code, True), last
    assert not (tmp_path / "dest").exists()


def test_without_samples_it_is_told_how_to_make_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SLIPWAY_SAMPLES_DIR", str(tmp_path / "none"))
    code, last = run(capsys, "sample://hello", tmp_path / "dest")
    assert code == 66
    assert "make them with 'python -m slipway_runtime.samples FOLDER' and set SLIPWAY_SAMPLES_DIR=FOLDER" in last


def test_a_model_above_the_limit_is_refused_before_it_is_copied(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    code, last = run(capsys, "pvc://claim/models/m", tmp_path / "dest", "--max-bytes", 10)
    assert code == 65
    assert "has 11 bytes, more than the 10 bytes allowed" in last
    assert not (tmp_path / "dest").exists()


def test_a_model_larger_than_the_disk_is_refused_before_it_is_copied(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with (volume / "model.pt").open("r+b") as file:
        file.truncate(1 << 42)  # a hole: takes no space here
    code, last = run(capsys, "pvc://claim/models/m", tmp_path / "dest", "--max-bytes", 1 << 50)
    assert code == 73
    assert "give the pod more disk" in last


def test_an_empty_folder_is_no_model(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "empty").mkdir()
    code, last = run(capsys, f"file://{tmp_path}/empty", tmp_path / "dest")
    assert (code, "there is no model in it" in last) == (65, True)


def test_it_runs_as_a_module_without_torch(volume: Path, tmp_path: Path) -> None:
    program = (
        "import sys, slipway_runtime.fetch.__main__ as f; code = f.main(sys.argv[1:]); "
        "sys.exit(code or 100 * bool({'torch', 'numpy', 'grpc'} & set(sys.modules)))"
    )
    command = [sys.executable, "-W", "error", "-c", program, f"file://{volume}", str(tmp_path / "dest")]
    done = subprocess.run(command, env=environment(tmp_path), capture_output=True, text=True, check=False)  # noqa: S603
    assert (done.returncode, tree(tmp_path / "dest")) == (0, MODEL), done.stderr


def test_a_long_copy_says_how_far_it_is(
    volume: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(local, "PROGRESS_EVERY_S", 0.0)
    monkeypatch.setattr(local, "CHUNK", 4)
    main(["pvc://claim/models/m", str(tmp_path / "dest")])
    assert "pvc://claim/models/m: 4 bytes of 11 bytes" in capsys.readouterr().err


def test_a_source_that_grows_meanwhile_cannot_pass_the_limit(tmp_path: Path) -> None:
    files = [(tmp_path / "model.pt", Path("model.pt"))]
    files[0][0].write_bytes(b"0123456789")
    with pytest.raises(BadModel, match="changed while it was copied"):
        local.copy_all(files, tmp_path / "staging", local.Progress("file:///m", total=9))


@pytest.mark.parametrize(
    ("arguments", "env", "sentence"),
    [
        pytest.param([], None, "the following arguments are required: URI, DEST", id="none"),
        pytest.param(["a", "b", "--max-bytes", "many"], None, "--max-bytes: invalid int value: 'many'", id="flag"),
        pytest.param(["a", "b"], "many", "--max-bytes: invalid int value: 'many'", id="variable"),
    ],
)
def test_wrong_arguments_are_named(
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
    arguments: list[str],
    env: str | None,
    sentence: str,
) -> None:
    if env:
        monkeypatch.setenv("SLIPWAY_FETCH_MAX_BYTES", env)
    code, last = run(capsys, *arguments)
    assert (code, sentence in last) == (78, True), last


@pytest.mark.parametrize(
    ("uri", "reason"),
    [
        ("ftp://host/key", "StorageUriInvalid"),
        ("file://host/etc", "ConfigurationInvalid"),
        ("file:///nowhere", "ModelNotFound"),
        ("file:///dev/null", "ModelInvalid"),
    ],
)
def test_the_last_words_stand_where_kubernetes_looks(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, *, uri: str, reason: str
) -> None:
    monkeypatch.setattr(errors, "TERMINATION_LOG", tmp_path / "termination-log")
    (tmp_path / "termination-log").touch()
    _, last = run(capsys, uri, tmp_path / "dest")
    told = json.loads((tmp_path / "termination-log").read_text())
    assert told == {"reason": reason, "message": last}
