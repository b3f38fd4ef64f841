"""The runtime's settings: every one a flag and a variable, the flag wins. The only place defaults live.

Refuses what is out of range with a sentence that names the flag, the value and what is allowed (exit 78).
"""

import argparse
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, NoReturn

from slipway_runtime import __version__, export_options
from slipway_runtime.errors import BadConfig
from slipway_runtime.export_options import ExportOptions
from slipway_runtime.models.formats import FORMATS, MLFLOW
from slipway_runtime.readers import flag, name, one_of, seconds, weights, whole, words
from slipway_runtime.reserved import ordered

MIB = 1 << 20


@dataclass(frozen=True, slots=True)
class Settings:
    model: str
    """A file, a folder that holds one, or sample://NAME."""
    repository: str
    """A folder of models, each in a folder of its own; in place of `model`."""
    load_models: tuple[str, ...]
    """Those of the repository to load at the start; empty = all."""
    model_control: str
    """Whether clients may load and unload models: "none" or "explicit"."""
    name: str
    """The model's name in URLs; empty = from its config.json, else from the path."""
    format: str
    model_options: str
    """What is said of `model` over its own config, as JSON (models/overrides.py)."""
    host: str
    """Address to listen on; empty = all, IPv4 and IPv6."""
    http_port: int
    grpc_port: int
    metrics_port: int
    """One more port for /metrics; 0 = none. It is on the HTTP port in any case."""
    grpc_backend: str
    """"own", or "grpcio": grpc.aio on the same handlers."""
    workers: int
    """Processes that answer on the same ports, each with its own copy of every model."""
    concurrency: int
    """Requests with the model at once; 0 = as many as make a batch."""
    max_queue: int
    """Requests that may wait for a model; one more is refused."""
    max_queue_bytes: int
    full_status: int
    """HTTP status for a full queue: 503 as Triton has it, or 429."""
    max_delay_s: float
    """A batch may wait this long for more requests, while that pays. A model's own config goes before."""
    tenant_header: str
    """Header that names who asks; requests of different tenants take turns."""
    tenant_weights: dict[str, int]
    """Shares of tenants; 1 for who is not named."""
    cache_bytes: int
    """For the answers of each model whose config enables response_cache."""
    timeout_s: float
    """Longest time for one request, waiting included."""
    max_body_bytes: int
    max_held_bytes: int
    """Of all requests that are arriving or being answered."""
    max_connections: int
    idle_timeout_s: float
    """A connection on which nothing is asked for this long is closed."""
    drain_timeout_s: float
    """After SIGTERM: the longest time until the process ends, whatever is still running."""
    drain_idle_s: float
    """After SIGTERM: it ends earlier once nothing has been asked for this long."""
    device: str
    allow_code: bool
    """Whether model.py of a model's folder may be run: it can do whatever this process may."""
    allowed_classes: tuple[str, ...]
    """Patterns of "module:Class" that weights may be loaded into."""
    threads: int
    """CPU threads of one forward pass; 0 = this worker's share of the container's CPU limit, less one for itself."""
    access_log: bool
    tracing: bool
    """OpenTelemetry spans, sent where the OTEL_* variables say."""
    debug: bool
    """Serve /debug: what every task and thread is doing."""
    log_level: str
    log_format: str


@dataclass(frozen=True, slots=True)
class Option:
    flag: str
    env: str
    default: Any
    read: Callable[[str], Any]
    allowed: str
    help: str


OPTIONS: dict[str, Option] = {
    "model": Option("--model", "SLIPWAY_MODEL_PATH", "", str, "a path", "file, folder, or sample://NAME"),
    "repository": Option(
        "--repository", "SLIPWAY_MODEL_REPOSITORY", "", str, "a path", "folder of models, in place of --model"
    ),
    "load_models": Option(
        "--load-models", "SLIPWAY_LOAD_MODELS", (), words, "names, with commas", "of the repository; default: all"
    ),
    "model_control": Option(
        "--model-control",
        "SLIPWAY_MODEL_CONTROL",
        "none",
        *one_of("none", "explicit"),
        "may clients load and unload models",
    ),
    "name": Option("--name", "SLIPWAY_MODEL_NAME", "", name, "a name without '/'", "name of the model in URLs"),
    "format": Option("--format", "SLIPWAY_MODEL_FORMAT", "auto", *one_of("auto", *FORMATS, MLFLOW), "kind of file"),
    "model_options": Option(
        "--model-options", "SLIPWAY_MODEL_OPTIONS", "", str, "a JSON object", "of --model, over its own config"
    ),
    "host": Option("--host", "SLIPWAY_HOST", "", str, "an address", "address to listen on (default: all)"),
    "http_port": Option("--http-port", "SLIPWAY_HTTP_PORT", 8080, *whole(0, 65535), "REST; 0 = any free port"),
    "grpc_port": Option("--grpc-port", "SLIPWAY_GRPC_PORT", 8001, *whole(0, 65535), "gRPC; 0 = any free port"),
    "metrics_port": Option(
        "--metrics-port", "SLIPWAY_METRICS_PORT", 0, *whole(0, 65535), "one more port for /metrics; 0 = none"
    ),
    "grpc_backend": Option(
        "--grpc-backend", "SLIPWAY_GRPC_BACKEND", "own", *one_of("own", "grpcio"), "who speaks gRPC"
    ),
    "workers": Option("--workers", "SLIPWAY_WORKERS", 1, *whole(1, 64), "processes that serve on the same ports"),
    "concurrency": Option(
        "--concurrency", "SLIPWAY_CONTAINER_CONCURRENCY", 0, *whole(0, 100_000), "requests with the model at once"
    ),
    "max_queue": Option("--max-queue", "SLIPWAY_MAX_QUEUE", 1000, *whole(0, 1_000_000), "requests that may wait"),
    "max_queue_bytes": Option(
        "--max-queue-bytes", "SLIPWAY_MAX_QUEUE_BYTES", 512 * MIB, *whole(1, 2**40), "bytes that may wait"
    ),
    "full_status": Option(
        "--full-status",
        "SLIPWAY_FULL_STATUS",
        503,
        lambda text: int(one_of("503", "429")[0](text)),
        "503 or 429",
        "HTTP status for a full queue",
    ),
    "max_delay_s": Option(
        "--max-delay", "SLIPWAY_MAX_DELAY_S", 0.0, *seconds(0, 10), "seconds a batch may wait for more requests"
    ),
    "tenant_header": Option(
        "--tenant-header", "SLIPWAY_TENANT_HEADER", "x-slipway-tenant", name, "a header's name", "names who asks"
    ),
    "tenant_weights": Option(
        "--tenant-weights", "SLIPWAY_TENANT_WEIGHTS", {}, weights, "NAME=1..1000, with commas", "shares of tenants"
    ),
    "cache_bytes": Option(
        "--cache-bytes", "SLIPWAY_CACHE_BYTES", 64 * MIB, *whole(0, 2**40), "of answers kept, per model that wants it"
    ),
    "timeout_s": Option("--timeout", "SLIPWAY_TIMEOUT_S", 60.0, *seconds(0.001, 86_400), "seconds for one request"),
    "max_body_bytes": Option(
        "--max-body-bytes", "SLIPWAY_MAX_BODY_BYTES", 64 * MIB, *whole(1, 2**31 - 1), "largest request"
    ),
    "max_held_bytes": Option(
        "--max-held-bytes", "SLIPWAY_MAX_HELD_BYTES", 1024 * MIB, *whole(1, 2**40), "of all requests together"
    ),
    "max_connections": Option(
        "--max-connections", "SLIPWAY_MAX_CONNECTIONS", 10_000, *whole(1, 1_000_000), "one more is closed"
    ),
    "idle_timeout_s": Option(
        "--idle-timeout", "SLIPWAY_IDLE_TIMEOUT_S", 75.0, *seconds(0.1, 86_400), "close quiet connections after"
    ),
    "drain_timeout_s": Option(
        "--drain-timeout", "SLIPWAY_DRAIN_TIMEOUT_S", 30.0, *seconds(0, 86_400), "after SIGTERM, end within"
    ),
    "drain_idle_s": Option(
        "--drain-idle", "SLIPWAY_DRAIN_IDLE_S", 1.0, *seconds(0, 3_600), "after SIGTERM, end when quiet for"
    ),
    "device": Option("--device", "SLIPWAY_DEVICE", "auto", *one_of("auto", "cpu", "cuda"), "where the model runs"),
    "allow_code": Option(
        "--allow-code", "SLIPWAY_ALLOW_CODE", False, flag, "true or false", "run model.py of a model's folder"
    ),
    "allowed_classes": Option(
        "--allowed-classes",
        "SLIPWAY_ALLOWED_CLASSES",
        (),
        words,
        "module:Class patterns, with commas",
        "classes that weights may be loaded into",
    ),
    "threads": Option(
        "--threads",
        "SLIPWAY_THREADS",
        0,
        *whole(0, 1024),
        "CPU threads; 0 = the container's limit, or a worker's share of it, less one",
    ),
    "access_log": Option(
        "--access-log", "SLIPWAY_ACCESS_LOG", False, flag, "true or false", "a line for every request"
    ),
    "tracing": Option(
        "--tracing", "SLIPWAY_TRACING", False, flag, "true or false", "OpenTelemetry spans, as OTEL_* variables say"
    ),
    "debug": Option("--debug", "SLIPWAY_DEBUG", False, flag, "true or false", "serve /debug"),
    "log_level": Option(
        "--log-level", "SLIPWAY_LOG_LEVEL", "info", *one_of("debug", "info", "warning", "error"), "least severity"
    ),
    "log_format": Option("--log-format", "SLIPWAY_LOG_FORMAT", "json", *one_of("json", "text"), "form of the log"),
}


class Parser(argparse.ArgumentParser):
    """Wrong arguments are a BadConfig as any other wrong setting, not an exit of argparse's own."""

    def error(self, message: str) -> NoReturn:
        raise BadConfig(f"{message}; '{self.prog} --help' lists what there is")


@dataclass(frozen=True, slots=True)
class Command:
    """What is to be done: "serve", "check", "bench" or "export"; all but the first have words of their own."""

    name: str
    settings: Settings
    json: bool = False
    inputs: tuple[str, ...] = ()
    seconds: float = 0.5
    max_batch: int = 0
    compile: bool = True
    output: str = ""
    export: ExportOptions | None = None


# Of the settings, those that say how one model is loaded.
OF_ONE_MODEL = ("name", "format", "device", "allow_code", "allowed_classes", "threads", "log_level", "log_format")
_ASIDE: dict[str, Any] = {"log_level": "warning", "log_format": "text"}
"""Defaults of `check` and `bench`, which talk to a person."""
_SECONDS = Option("--seconds", "", 0.5, *seconds(0.01, 600), "for each line of the table")
_MAX_BATCH = Option("--max-batch", "", 0, *whole(0, 65536), "largest batch to try; 0 = the config's, at least 64")
_COMPILE = Option("--compile", "", True, flag, "true or false", "try torch.compile where the model allows it")
_OUTPUT = Option("--output", "", "", str, "a path", "write the recommended config.json there")


def read_settings(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> Settings:
    """Settings from the arguments after the program's name, `serve` first. Raises BadConfig."""
    return read_command(argv, env).settings


def read_command(argv: Sequence[str], env: Mapping[str, str] = os.environ) -> Command:
    """What the arguments after the program's name ask for.

    Raises:
        BadConfig: for anything unknown or out of range.
    """
    parsed, unknown = _parser().parse_known_args(ordered(argv))
    given = vars(parsed)
    name: str = given["command"]
    if unknown:
        hint = "" if unknown[0].startswith("-") else "name a model by --model; "
        raise BadConfig(f"unknown argument '{unknown[0]}'; {hint}'slipway-runtime {name} --help' lists what there is")
    if name == "export":
        return Command(name, _settings(given, env, (), _ASIDE), export=export_options.read(given))
    if name == "serve":
        return Command(name, _checked(_settings(given, env, OPTIONS)))
    settings = _settings(given, env, OF_ONE_MODEL, {**_ASIDE, "model": given["MODEL"]})
    inputs = tuple(given["input"] or ())
    if name == "check":
        return Command(name, settings, given["json"], inputs)
    return Command(
        name,
        settings,
        given["json"],
        inputs,
        seconds=_value(_SECONDS, given["seconds"], {}),
        max_batch=_value(_MAX_BATCH, given["max_batch"], {}),
        compile=_value(_COMPILE, given["compile"], {}),
        output=_value(_OUTPUT, given["output"], {}),
    )


def _parser() -> Parser:
    about = "Serve PyTorch, ONNX and Python models by the Open Inference Protocol."
    parser = Parser(prog="slipway-runtime", description=about)
    parser.add_argument("--version", action="version", version=f"%(prog)s {__version__}")
    commands = parser.add_subparsers(required=True, metavar="COMMAND", dest="command")
    serve = _subcommand(commands, "serve", "serve a model, or a folder of models", "[options]")
    for key, option in OPTIONS.items():
        _add(serve, key, option)
    about = "load a model as serve would, ask it, say what is wrong"
    check = _subcommand(commands, "check", about, "[options] MODEL")
    about = "measure which batch sizes and threads pay, print a config.json"
    bench = _subcommand(commands, "bench", about, "[options] MODEL")
    for command in (check, bench):
        command.add_argument("MODEL", help="file, folder, or sample://NAME")
        for key in OF_ONE_MODEL:
            option = OPTIONS[key]
            _add(command, key, replace(option, default=_ASIDE.get(key, option.default)))
        about = "an input that the model does not tell, as NAME:DATATYPE:4 or NAME:DATATYPE:3x224x224, without batch"
        command.add_argument("--input", action="append", metavar="INPUT", help=about)
        command.add_argument("--json", action="store_true", help="print JSON, for machines")
    for option in (_SECONDS, _MAX_BATCH, _COMPILE, _OUTPUT):
        _add(bench, option.flag.strip("-").replace("-", "_"), option)
    about = "make a model out of a module of yours, and look whether it answers alike"
    export_options.add_arguments(_subcommand(commands, "export", about, "[options] MODULE:NAME FOLDER"))
    return parser


def _subcommand(commands: Any, name: str, about: str, usage: str) -> argparse.ArgumentParser:
    """With a usage of one line: thirty flags are told below it, each on its own."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name, help=about, description=about.capitalize() + ".", usage=f"slipway-runtime {name} {usage}"
    )
    return parser


def _add(parser: argparse.ArgumentParser, key: str, option: Option) -> None:
    default = str(option.default).lower() if isinstance(option.default, bool) else option.default
    told = [option.allowed, option.env, f"default: {default}" if default not in ("", ()) else ""]
    parser.add_argument(
        option.flag, dest=key, metavar=key.upper(), help=f"{option.help} [{'; '.join(filter(None, told))}]"
    )


def _settings(
    given: Mapping[str, Any], env: Mapping[str, str], keys: Iterable[str], fixed: Mapping[str, Any] | None = None
) -> Settings:
    """Those of `keys` as they were given, the others as in `fixed` or by default."""
    values = {key: option.default for key, option in OPTIONS.items()} | dict(fixed or {})
    for key in keys:
        option = OPTIONS[key]
        values[key] = _value(replace(option, default=values[key]), given[key], env)
    return Settings(**values)


def _checked(settings: Settings) -> Settings:
    if not settings.model and not settings.repository:
        raise BadConfig("no model is named; give --model PATH (or SLIPWAY_MODEL_PATH), or --repository PATH")
    if settings.model and settings.repository:
        raise BadConfig("--model and --repository are both given; name one model or one folder of models")
    if settings.model_options and not settings.model:
        raise BadConfig("--model-options are of one model; name it by --model, or leave them out")
    if settings.workers > 1:
        _check_workers(settings)
    return settings


def _check_workers(settings: Settings) -> None:
    wrong = {"--device cuda": settings.device == "cuda", "--grpc-backend grpcio": settings.grpc_backend == "grpcio"}
    if refused := [flag for flag, given in wrong.items() if given]:
        raise BadConfig(f"{refused[0]} needs --workers 1, got --workers {settings.workers}")


def _value(option: Option, given: str | None, env: Mapping[str, str]) -> Any:
    where, text = (option.flag, given) if given is not None else (option.env, env.get(option.env))
    if text is None or (text == "" and given is None):
        return option.default
    try:
        return option.read(text)
    except ValueError:
        raise BadConfig(f"{where} is '{text[:80]}', must be {option.allowed}") from None
