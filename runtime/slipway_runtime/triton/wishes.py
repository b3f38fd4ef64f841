"""What a service asks of Triton: its options and arguments and the operator's environment, as values. Pure.

The word `serve` stands where a runtime's arguments end and those of a service begin: after it there is no say in what
is the administrator's to choose, such as whether code of a model's folder may run, or which program is Triton.
"""

import argparse
import math
import os
import re
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

from slipway_runtime.errors import BadConfig
from slipway_runtime.models import overrides
from slipway_runtime.models.overrides import MOST_BATCH, MOST_DELAY_S, MOST_INSTANCES, VERSIONS, Overrides, Tensor
from slipway_runtime.settings import Parser
from slipway_runtime.tensors import DATATYPES
from slipway_runtime.triton.layout import WANTED

MIB = 1 << 20
CACHE_BYTES = 64 * MIB


@dataclass(frozen=True, slots=True)
class Wishes:
    """Of the service's own model. None, "", 0 and () = nothing was said."""

    max_batch_size: int | None = None
    preferred_batch_sizes: tuple[int, ...] = ()
    max_queue_delay_us: int | None = None
    instances: int | None = None
    device: str = ""
    inputs: tuple[Tensor, ...] = ()
    outputs: tuple[Tensor, ...] = ()
    versions: str = ""
    response_cache: bool | None = None
    cache_bytes: int = 0
    warm_up: bool | None = None


@dataclass(frozen=True, slots=True)
class Settings:
    """`timeout_s`, `max_queue` and `concurrency` are the operator's; the last two are 0 where it says nothing."""

    model: Path
    name: str
    format: str
    wishes: Wishes
    concurrency: int
    max_queue: int
    timeout_s: float
    drain_timeout_s: float
    allow_code: bool
    triton: str
    work: Path
    host: str
    http_port: int
    grpc_port: int
    metrics_port: int
    print: bool
    """Write the config and stop."""


Reader = Callable[[str], Any]


def _whole(low: int, high: int) -> Reader:
    def read(text: str) -> int:
        value = int(text)
        if not low <= value <= high:
            raise ValueError(text)
        return value

    return _told(read, f"a whole number from {low} to {high}")


def _seconds(high: float) -> Reader:
    def read(text: str) -> float:
        value = float(text)
        if not (math.isfinite(value) and 0 <= value <= high):
            raise ValueError(text)
        return value

    return _told(read, f"a number of seconds from 0 to {high:g}")


def _matching(pattern: str, allowed: str, into: Reader = str) -> Reader:
    def read(text: str) -> Any:
        if not re.fullmatch(pattern, text):
            raise ValueError(text)
        return into(text)

    return _told(read, allowed)


def _told(read: Reader, allowed: str) -> Reader:
    """`read`, with a sentence for what it does not take."""

    def reader(text: str) -> Any:
        try:
            return read(text)
        except ValueError as exc:
            raise argparse.ArgumentTypeError(f"'{text[:80]}' must be {allowed}") from exc

    return reader


def _wholes(text: str) -> tuple[int, ...]:
    return tuple(int(part) for part in text.split(","))


def _tensor(text: str) -> Tensor:
    name, datatype, dims = text.rsplit(":", 2)
    if datatype not in DATATYPES:
        raise ValueError(text)
    return Tensor(name, datatype, tuple(int(size) for size in dims.split("x")))


_BOOL = _matching("true|false|1|0", "true or false", lambda text: text in ("true", "1"))
_TENSOR = _matching(
    r".{1,200}:[A-Z0-9]+:(-1|[1-9]\d{0,8})(x(-1|[1-9]\d{0,8})){0,31}",
    "NAME:DATATYPE:SIZES, such as x:FP32:4 or image:FP32:3x-1x-1, without the batch",
    _tensor,
)
_PORT = _whole(1, 65535)
_FORMAT = _matching("|".join(WANTED), f"one of {', '.join(WANTED)}")


SERVE = "serve"


def read(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> Settings:
    """Raises BadConfig."""
    parser, words = _parser(env), list(argv)
    end = words.index(SERVE) if SERVE in words else len(words)
    before, after = words[:end], words[end + 1 :]
    given = parser.parse_args([*before, *after])
    for flag in (word.partition("=")[0] for word in after):
        if flag.startswith("--") and flag not in _service_flags():
            raise BadConfig(f"argument {flag} is the runtime's to give, not a service's")
    if not given.model or not given.name:
        raise BadConfig("no model is named; give --model PATH and --name NAME (or SLIPWAY_MODEL_PATH and _NAME)")
    said = overrides.read(env.get(overrides.VARIABLE, ""))
    _check_said(said, {word.partition("=")[0] for word in (after if SERVE in words else before)})
    names = ("name", "concurrency", "max_queue", "allow_code", "triton", "work", "host", "print")
    ports = ("http_port", "grpc_port", "metrics_port")
    return Settings(
        model=Path(given.model),
        format=given.format,
        wishes=_with_options(_wishes(given), said),
        timeout_s=given.timeout,
        drain_timeout_s=given.drain_timeout,
        **{name: getattr(given, name) for name in (*names, *ports)},
    )


def _wishes(given: argparse.Namespace) -> Wishes:
    return Wishes(
        max_batch_size=given.max_batch_size,
        preferred_batch_sizes=given.preferred_batch_sizes,
        max_queue_delay_us=None if given.max_queue_delay is None else round(given.max_queue_delay * 1e6),
        instances=given.instances,
        device=given.device or "",
        inputs=tuple(given.input),
        outputs=tuple(given.output),
        versions=given.versions or "",
        response_cache=True if given.cache_bytes else None,
        cache_bytes=given.cache_bytes,
        warm_up=given.warm_up,
    )


FLAGS: Mapping[str, str] = {
    "maxBatchSize": "--max-batch-size",
    "preferredBatchSizes": "--preferred-batch-sizes",
    "maxQueueDelayMicroseconds": "--max-queue-delay",
    "instances": "--instances",
    "device": "--device",
    "inputs": "--input",
    "outputs": "--output",
    "versions": "--versions",
    "responseCache": "--cache-bytes",
    "warmUp": "--warm-up",
}
"""Option of the model -> the argument that says the same."""


def _check_said(said: Overrides, flags: Collection[str]) -> None:
    """Raises BadConfig for an option that Triton has not, or that a service gives twice (`flags`: its arguments)."""
    said.only(FLAGS, "Triton")
    if twice := [name for name in said.given if FLAGS[name] in flags]:
        raise BadConfig(f"option {twice[0]} of the model and argument {FLAGS[twice[0]]} say the same; keep one of them")


def _with_options(wishes: Wishes, said: Overrides) -> Wishes:
    """What the options say goes before what a runtime's arguments do."""
    names = {field.name for field in fields(Wishes)} & {field.name for field in fields(Overrides)}
    told = {name: value for name in names if (value := getattr(said, name)) not in (None, "", ())}
    return replace(wishes, **told)


def _parser(env: Mapping[str, str]) -> Parser:
    parser = Parser(
        prog="python -m slipway_runtime.triton",
        description="Serve a model by Triton.",
        usage="python -m slipway_runtime.triton [options] [serve [options of a service]]",
        allow_abbrev=False,
    )
    add = parser.add_argument
    # What the operator says, of the service.
    add("--model", default=env.get("SLIPWAY_MODEL_PATH", ""), help="file or folder")
    name = _matching(r"[A-Za-z0-9][-A-Za-z0-9._]{0,252}", "letters, digits and - . _")
    add("--name", type=name, default=env.get("SLIPWAY_MODEL_NAME") or None, help="in URLs")
    add("--format", type=_FORMAT, default=env.get("SLIPWAY_MODEL_FORMAT", "auto"), help=", ".join(WANTED))
    told: tuple[tuple[str, str, str, Reader, str], ...] = (
        ("--concurrency", "SLIPWAY_CONTAINER_CONCURRENCY", "0", _whole(0, 100_000), "requests at once; 0 = any"),
        ("--max-queue", "SLIPWAY_MAX_QUEUE", "0", _whole(0, 1_000_000), "requests that may wait; 0 = any"),
        ("--timeout", "SLIPWAY_TIMEOUT_S", "60", _seconds(86_400), "longest wait of a request"),
        ("--drain-timeout", "SLIPWAY_DRAIN_TIMEOUT_S", "30", _seconds(86_400), "after SIGTERM, end within"),
    )
    for flag, variable, default, kind, words in told:
        add(flag, type=kind, default=env.get(variable) or default, help=f"{words} [{variable}]")
    _add_wishes(parser)
    # What a runtime says.
    add("--allow-code", type=_BOOL, default=False, help="run model.py and libraries of a model's folder")
    add("--triton", default="", help="folder of Triton [default: /opt/tritonserver]")
    add("--work", type=Path, default=Path("/tmp/triton"), help="folder to write to")  # noqa: S108
    add("--host", default="0.0.0.0", help="address to listen on")  # noqa: S104 - a pod's
    for flag, default_port in (("--http-port", 8080), ("--grpc-port", 8001), ("--metrics-port", 8002)):
        add(flag, type=_PORT, default=default_port, help=f"default: {default_port}")
    add("--print", action="store_true", help="print the configs that Triton would get, and stop")
    return parser


def _service_flags() -> set[str]:
    parser = Parser(add_help=False)
    _add_wishes(parser)
    return {flag for action in parser._actions for flag in action.option_strings}


def _add_wishes(parser: Parser) -> None:
    """What a service says. Each wins over the model's own config."""
    add = parser.add_argument
    add("--max-batch-size", type=_whole(0, MOST_BATCH), help="rows of a batch; 0 = the model does not batch")
    sizes = _matching(r"[1-9]\d{0,6}(,[1-9]\d{0,6}){0,31}", "sizes with commas, such as 4,8", _wholes)
    add("--preferred-batch-sizes", type=sizes, default=(), help="sizes with commas, such as 4,8")
    add("--max-queue-delay", type=_seconds(MOST_DELAY_S), help="seconds that a batch may wait for more requests")
    add("--instances", type=_whole(1, MOST_INSTANCES), help="copies of the model, on each GPU where there are some")
    add("--device", type=_matching("auto|cpu|gpu", "auto, cpu or gpu"), help="auto, cpu or gpu")
    add("--input", type=_TENSOR, action="append", default=[], help="NAME:DATATYPE:SIZES, as x:FP32:3x224x224")
    add("--output", type=_TENSOR, action="append", default=[], help="NAME:DATATYPE:SIZES")
    versions = _matching(VERSIONS, "all, latest:N or 1,3")
    add("--versions", type=versions, help="all, latest:N or numbers with commas")
    add("--cache-bytes", type=_whole(0, 1 << 40), default=0, help="keep answers of the model, in so many bytes")
    add("--warm-up", type=_BOOL, help="true: ask the model for zeros before it is ready")
