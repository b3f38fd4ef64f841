"""A first reading of a model whose reader is C++ that trusts its input, in a process with limits, which may fail.

A file that was cut or made to hurt has such readers take all memory, run for ever, or die; whoever serves must not.

    python -m slipway_runtime.models.reading    an Artifact and allowed classes, pickled by its parent, on its input
"""

import os
import pickle
import resource
import subprocess
import sys
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from slipway_runtime.errors import BadConfig, BadModel, Failure
from slipway_runtime.memory import limit_bytes
from slipway_runtime.models.artifacts import Artifact

LEAST_BYTES, PER_BYTE = {"xgboost": 1 << 30, "lightgbm": 1 << 30, "sklearn": 2 << 30}, 16
"""Memory of the process: for the libraries, which may bring torch along, and for each byte of the file."""
_OURS_BYTES = 256 << 20
"""What the server itself takes of its container."""
_CPU_S, _BYTES_PER_S = 60, 1 << 20
_SINGLE = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_KINDS = {kind.exit_code: kind for kind in (BadModel, BadConfig)}


def try_reading(artifact: Artifact, allowed_classes: Sequence[str]) -> None:
    """Raises BadModel when the file cannot be read within the limits."""
    if artifact.format == "sklearn" and not allowed_classes:
        return  # numbers in arrays, or code
    most_bytes = _most_bytes(artifact)
    environment = os.environ | dict.fromkeys(_SINGLE, "1") | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    ran = subprocess.run(  # noqa: S603
        [sys.executable, "-P", "-m", "slipway_runtime.models.reading", str(most_bytes)],
        input=pickle.dumps((artifact, allowed_classes)),
        capture_output=True,
        env=environment,
        check=False,
    )
    if ran.returncode == 0:
        return
    if (kind := _KINDS.get(ran.returncode)) is not None:
        raise kind(ran.stdout.decode(errors="replace"))
    ended = f"by signal {-ran.returncode}" if ran.returncode < 0 else f"with exit code {ran.returncode}"
    raise BadModel(
        f"model file '{artifact.path}' is damaged: reading it ended {ended}, within {most_bytes >> 20} MiB of memory; "
        "save it again, or give the model more memory if it is large"
    )


def _most_bytes(artifact: Artifact) -> int:
    most = LEAST_BYTES[artifact.format] + PER_BYTE * artifact.path.stat().st_size
    limit = limit_bytes()
    return most if limit is None else min(most, max(limit - _OURS_BYTES, limit // 2))


def main() -> int:
    # Written by our own parent, over a pipe that nobody else has.
    artifact, allowed_classes = pickle.loads(sys.stdin.buffer.read())  # noqa: S301
    with suppress(OSError):  # the kernel takes this one first
        Path("/proc/self/oom_score_adj").write_text("1000", encoding="ascii")
    most_bytes, most_s = int(sys.argv[1]), _CPU_S + artifact.path.stat().st_size // _BYTES_PER_S
    resource.setrlimit(resource.RLIMIT_DATA, (most_bytes, most_bytes))
    resource.setrlimit(resource.RLIMIT_CPU, (most_s, most_s))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    from slipway_runtime.models.estimators import read  # noqa: PLC0415 - within the limits
    from slipway_runtime.models.tabular import signature  # noqa: PLC0415

    try:
        signature(read(artifact, 1, allow_code=False, allowed_classes=allowed_classes), artifact)
    except MemoryError:
        said = f"model file '{artifact.path}' needs more than {most_bytes >> 20} MiB of memory to be read; "
        sys.stdout.write(said + "it is damaged, or the model needs a larger limit")
        return BadModel.exit_code
    except Failure as failure:
        sys.stdout.write(str(failure))
        return failure.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
