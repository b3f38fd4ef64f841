"""The fetcher and its peers, each as its users run it, against a real S3 server on loopback."""

import json
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from e2e.bench.runtime.environments import ensure
from e2e.cluster import build
from e2e.cluster.shell import ClusterError
from slipway_runtime.fetch import nodecache

OURS, RCLONE, AWS, KSERVE = "slipway", "rclone", "aws s3 cp", "KServe"
FIRST, SECOND = "slipway, into the node's cache too", "slipway, from the node's cache"
PEERS = (RCLONE, AWS, KSERVE)
KEY, SECRET = "AKIABENCHMARK00", "not-a-secret-but-long-enough"
PORT, CACHE_PORT = 9311, 9312
ENDPOINT = f"http://127.0.0.1:{PORT}"
_KSERVE = "import sys; from kserve_storage import Storage; Storage.download(sys.argv[1], sys.argv[2])"
_LIMIT_S = 900


@dataclass(frozen=True, slots=True)
class Run:
    seconds: float
    """Until all of it is on disk: each is followed by a `sync` of the folder's filesystem, ours does it itself."""
    cpu_s: float
    rss_mib: float


def rclone() -> Path:
    return build.built(Path(__file__).with_name("rclone"), (".",), "building rclone from its Go module") / "rclone"


def available() -> dict[str, str]:
    """Peer -> why it cannot be run; empty: it can."""
    found = {RCLONE: ""}
    for peer, lock in ((AWS, "awscli"), (KSERVE, "kserve-storage")):
        try:
            ensure(lock)
            found[peer] = ""
        except ClusterError as error:
            found[peer] = str(error).splitlines()[-1]
    return found


@contextmanager
def serving(folder: Path) -> Iterator[None]:
    """rclone's S3 server, with the folders in `folder` as buckets."""
    options = ["--addr", f"127.0.0.1:{PORT}", "--auth-key", f"{KEY},{SECRET}", "--no-checksum", "--etag-hash", ""]
    command = [str(rclone()), "serve", "s3", *options, "--config", os.devnull, str(folder)]
    with _server("rclone's S3 server", command, PORT):
        yield


@contextmanager
def caching(folder: Path) -> Iterator[None]:
    """The node's cache, empty."""
    shutil.rmtree(folder, ignore_errors=True)
    command = [sys.executable, "-m", "e2e.bench.fetch.node", str(folder), str(CACHE_PORT)]
    with _server("the node's cache", command, CACHE_PORT):
        yield


@contextmanager
def _server(name: str, command: list[str], port: int) -> Iterator[None]:
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            _wait_for(name, server, port)
            yield
        finally:
            server.terminate()


def _wait_for(name: str, server: "subprocess.Popen[bytes]", port: int) -> None:
    for _ in range(200):
        if server.poll() is not None:
            raise ClusterError(f"{name} does not start")
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return
        time.sleep(0.05)
    raise ClusterError(f"{name} does not listen")


def run(tool: str, bucket: str, folder: str, dest: Path) -> Run:
    """Fetch all below a folder of a bucket to `dest`, which is made anew."""
    shutil.rmtree(dest, ignore_errors=True)
    dest.mkdir(parents=True)
    command, env = _command(tool, bucket, folder, dest)
    begin = time.monotonic()
    with subprocess.Popen(command, env=os.environ | env, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as child:
        assert child.stderr is not None
        words = child.stderr.read()
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if child.returncode:
        raise ClusterError(f"{tool} ended with {child.returncode}: {words.decode(errors='replace').strip()[-400:]}")
    if (tool == SECOND) is not (b"from the node's cache" in words):
        raise ClusterError(f"{tool}: {words.decode(errors='replace').strip()[-400:]}")
    if tool in PEERS:
        subprocess.run(["sync", "--file-system", str(dest)], check=True)
    return Run(time.monotonic() - begin, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024)


def _command(tool: str, bucket: str, folder: str, dest: Path) -> tuple[list[str], dict[str, str]]:
    aws = {
        "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET,
        "AWS_DEFAULT_REGION": "us-east-1",
        "AWS_ENDPOINT_URL": ENDPOINT,
        "AWS_ENDPOINT_URL_S3": ENDPOINT,
        "AWS_CONFIG_FILE": os.devnull,
        "S3_USE_HTTPS": "0",
        "S3_VERIFY_SSL": "0",
    }
    uri = f"s3://{bucket}/{folder}"
    if tool in (OURS, FIRST, SECOND):
        told = {
            "policy": {"insideHosts": [f"127.0.0.1:{PORT}"]},
            "storage": {"endpoint": ENDPOINT, "secretName": "bench"},
        }
        env = {f"SLIPWAY_SECRET_{name}": aws[name] for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY")}
        env["SLIPWAY_FETCH"] = json.dumps(told)
        if tool != OURS:
            token = dest.with_name("token")
            token.write_text("true")
            env |= {nodecache.ADDRESS: f"http://127.0.0.1:{CACHE_PORT}", nodecache.TOKEN: str(token)}
        return [sys.executable, "-m", "slipway_runtime.fetch", uri, str(dest)], env
    match tool:
        case "rclone":
            remote = [
                "--s3-provider",
                "Other",
                "--s3-endpoint",
                ENDPOINT,
                "--s3-access-key-id",
                KEY,
                "--config",
                os.devnull,
            ]
            ways = ["--transfers", "16", "--multi-thread-streams", "8", "--s3-secret-access-key", SECRET]
            return [str(rclone()), "copy", f":s3:{bucket}/{folder}", str(dest), *remote, *ways], {}
        case "aws s3 cp":
            aws_program = str(ensure("awscli") / "bin" / "aws")
            return [aws_program, "s3", "cp", "--recursive", "--only-show-errors", uri, str(dest)], aws
        case _:
            python = str(ensure("kserve-storage") / "bin" / "python")
            return [python, "-c", _KSERVE, uri, str(dest)], aws
