"""Loads a model of any kind into runners, warms it up, gives its memory back. Imports torch for PyTorch models only.

What runs code of the model's author (model.py, a class by name, native code of AOTInductor) is refused unless the
administrator allowed it: the options say so, not the model.
"""

from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from slipway_runtime.engine.job import Runner
from slipway_runtime.errors import BadConfig, BadModel, RequestError
from slipway_runtime.memory import give_back
from slipway_runtime.models import warmup
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.call import OwnCall, WithControls
from slipway_runtime.models.config import ModelConfig
from slipway_runtime.models.formats import TABULAR
from slipway_runtime.models.options import Options, options_of
from slipway_runtime.tensors import Metadata, TensorSpec

_CODE = {
    "python": "is Python code",
    "aotinductor": "is an AOTInductor package, which is native code",
}


@dataclass(frozen=True, slots=True)
class Shard:
    """One of the processes that hold an instance together: the device of each, and which of them this one is.

    `store` is a file descriptor that all of them have; they find each other by it.
    """

    rank: int
    devices: tuple[str, ...]
    store: int = -1


@dataclass(frozen=True, slots=True)
class LoadOptions:
    """The administrator's word. `allowed_classes` are patterns like "my.models:*" for parameters.class."""

    device: str = "auto"
    threads: int = 1
    allow_code: bool = False
    allowed_classes: tuple[str, ...] = ()
    instance: int = 0
    """The number of the first instance; for processes, which hold one each."""
    shard: Shard | None = None
    """For the process of one."""
    own_cores: bool = True
    """Whether instances may be bound to cores: not where other workers would bind theirs to the same."""


@dataclass(slots=True)
class LoadedModel:
    """One version of a model. `metadata` changes once where a first answer tells what the outputs are."""

    artifact: Artifact
    config: ModelConfig
    metadata: Metadata
    options: Options
    runners: list[Runner] = field(default_factory=list)
    decoupled: bool = False

    @classmethod
    def empty(cls, artifact: Artifact) -> "LoadedModel":
        """To be filled in by whoever loads it."""
        return cls(artifact, artifact.config, Metadata("", (), ()), Options())

    @property
    def is_torch(self) -> bool:
        """PyTorch runs it, whose way with a batch that fails is to try each request alone."""
        return self.artifact.format not in ("python", "onnx", "ensemble", *TABULAR)

    @property
    def broken(self) -> str:
        """Why no request can be answered any more until the process ends, if that is so: the GPU's context is lost."""
        return next((why for runner in self.runners if (why := getattr(runner, "broken", ""))), "")

    def warm_up(self) -> bool:
        """Every instance answers requests of its own for all shapes that matter. Whether there were any.

        Raises:
            BadModel: one of them failed.
        """
        calls = warmup.calls(self.metadata, self.config, self.options.buckets, self.artifact.folder)
        for runner in self.runners:
            for call in calls:
                self._answer(runner, call)
            self._probe(runner)
        return bool(calls)

    def close(self) -> None:
        """Let go of the model and of its memory. Nothing may run any more."""
        for runner in self.runners:
            runner.close()
        self.runners.clear()
        give_back()

    def _answer(self, runner: Runner, call: OwnCall) -> None:
        try:
            if self.decoupled:
                next(stream := runner.stream(call), None)
                stream.close()  # type: ignore[attr-defined]
                return
            (answer,) = runner.run([call])
            if isinstance(answer, RequestError):
                raise answer
        except RequestError as exc:
            raise BadModel(
                f"model file '{self.artifact.path}' was loaded, but its first (warm-up) request failed: {exc.message}; "
                "run it once on zeros where it was made"
            ) from exc

    def _probe(self, runner: Runner) -> None:
        probe = getattr(runner, "probe", None)
        if probe and (call := warmup.random_call(self.metadata, 1)):
            try:
                probe(call)
            except RequestError:
                return  # a model that fails on random numbers is not one that can be asked; it copies its inputs


def load(artifact: Artifact, options: LoadOptions) -> LoadedModel:
    """The model in as many instances as its config wants, not warmed up.

    Raises:
        BadModel: it cannot be loaded or its config does not fit it.  BadConfig: it needs what is not allowed or there.
    """
    if artifact.format in _CODE and not options.allow_code:
        raise BadConfig(
            f"model file '{artifact.path}' {_CODE[artifact.format]}, which runs with the server's rights; "
            "allow it with --allow-code true if you trust who made it"
        )
    own = options_of(artifact.config)
    _check_served(artifact, own)
    if own.shards > 1 and options.shard is None:
        return _in_shards(artifact, own, options)
    # A shard knows its device when it has joined the others.
    devices = [] if options.shard else _devices(artifact.config, own, options)
    if len(devices) > 1 and own.instances == "processes" and all(device == "cpu" for device in devices):
        from slipway_runtime.models.processes import load_processes  # noqa: PLC0415 - for several instances only

        return load_processes(artifact, len(devices), options)
    if artifact.format == "python":
        model = _python(artifact, own, devices, options)
    elif artifact.format == "onnx":
        model = _onnx(artifact, own, devices, options.threads)
    elif artifact.format in TABULAR:
        model = _tabular(artifact, own, devices, options)
    elif artifact.format == "ensemble":
        raise BadModel(f"model '{artifact.default_name}' is an ensemble, which has nothing to load")
    else:
        model = _torch(artifact, own, devices, options)
    if (batching := artifact.config.sequence_batching) and batching.controls:
        batched = artifact.config.max_batch > 0
        model.runners[:] = [WithControls(runner, batching.controls, batched=batched) for runner in model.runners]
    if (example := warmup.example_call(model.metadata, artifact.config)) is not None:
        model.metadata = replace(model.metadata, example=tuple(example.inputs))
    return model


def _check_served(artifact: Artifact, own: Options) -> None:
    """Options that this kind of model cannot honour."""
    kind = artifact.format
    eager = kind == "safetensors"
    wrong = {
        "dtype": own.dtype and kind not in ("torchscript", "safetensors"),
        "compile": own.compile and kind not in ("torch-export", "safetensors"),
        "quantization": own.quantization != "none" and not eager,
        "class": own.class_name and not eager,
        "class_args": own.class_args and not eager,
        "shards": own.shards > 1 and kind not in ("python", "safetensors"),
    }
    for name, refused in wrong.items():
        if refused:
            raise BadModel(f"parameter '{name}' has no meaning for '{artifact.path}', which is {kind}; remove it")
    if eager and not own.class_name:
        raise BadModel(
            f"model file '{artifact.path}' holds weights only; name the class they belong to: parameters.class = "
            "MODULE:CLASS"
        )


def _in_shards(artifact: Artifact, own: Options, options: LoadOptions) -> LoadedModel:
    from slipway_runtime.models.processes import load_shards  # noqa: PLC0415 - for such models only
    from slipway_runtime.models.shards import placement  # noqa: PLC0415

    default = own.device if own.device != "auto" else options.device
    places = placement(artifact.config, own.shards, default)
    _refuse_gpus([device for devices in places for device in devices], options)
    return load_shards(artifact, places, options)


def _devices(config: ModelConfig, own: Options, options: LoadOptions) -> list[str]:
    """The device of every instance. The model's own word wins over the server's, except that cpu is the last one."""
    default = own.device if own.device != "auto" else options.device
    devices = []
    for group in config.instances:
        if group.kind == "KIND_CPU":
            devices += ["cpu"] * group.count
        elif group.kind == "KIND_GPU" or group.gpus:
            devices += [f"cuda:{gpu}" for gpu in group.gpus or (0,) for _ in range(group.count)]
        else:
            devices += [default] * group.count
    devices = devices or [default]
    if not _has_gpu():
        devices = ["cpu" if device == "auto" else device for device in devices]
    _refuse_gpus(devices, options)
    return devices


def _refuse_gpus(devices: list[str], options: LoadOptions) -> None:
    if options.device == "cpu" and (wanted := [device for device in devices if device.startswith("cuda")]):
        raise BadConfig(f"the config asks for device {wanted[0]}, but the server was started with --device cpu")


def _has_gpu() -> bool:
    """What can be known without torch: NVIDIA's driver shows its devices to a container as files."""
    return any(Path("/dev").glob("nvidia[0-9]*"))


def _python(artifact: Artifact, own: Options, devices: list[str], options: LoadOptions) -> LoadedModel:
    from slipway_runtime.models import python_model as code  # noqa: PLC0415 - needed by such models only

    config = artifact.config
    if not config.inputs or not config.outputs:
        raise BadModel(f"'{artifact.path}' needs a config with input and output: Python code does not tell its own")
    found = code.load_class(artifact)
    if options.shard:
        devices = [_joined(options.shard, found, artifact.path, options.threads)]
    decoupled = config.decoupled or code.is_stream(found)
    metadata = Metadata("python", config.inputs, config.outputs, config.max_batch, config.ignored)
    model = LoadedModel(artifact, replace(config, decoupled=decoupled), metadata, own, [], decoupled)
    try:
        _add_instances(model, found, devices, options)
    except BaseException:
        model.close()  # those that were made before the one that failed
        raise
    return model


def _joined(shard: Shard, found: type, path: Path, threads: int) -> str:
    if not getattr(found, "sharded", False):
        raise BadModel(
            f"class Model of '{path}' does not say that it is sharded; have its load take the part of context.rank "
            "and say sharded = True, or remove parameter 'shards'"
        )
    from slipway_runtime.models.ranks import join  # noqa: PLC0415 - imports torch

    return join(shard, threads)


def _add_instances(model: LoadedModel, found: type, devices: list[str], options: LoadOptions) -> None:
    from slipway_runtime.models import python_model as code  # noqa: PLC0415 - needed by such models only

    artifact, config, metadata = model.artifact, model.config, model.metadata
    names = _input_names(config, metadata.inputs)
    together = _together(options.shard)
    for instance, device in enumerate(devices, options.instance):
        context = code.Context(
            name=config.name or artifact.default_name,
            version=artifact.version,
            folder=artifact.path.parent,
            device=device,
            max_batch=config.max_batch,
            parameters=config.parameters,
            instance=instance,
            **together,
        )
        loop = code.Loop()
        try:
            made = code.make(found, artifact, context, loop)
        except BaseException:
            loop.close()
            raise
        runner = code.PythonRunner(made, loop, metadata, names, decoupled=model.decoupled, metrics=context.metrics)
        model.runners.append(runner)


def _together(shard: Shard | None) -> dict[str, Any]:
    """What the context of a shard has beside that of a whole model."""
    if shard is None:
        return {}
    from slipway_runtime.models.ranks import group  # noqa: PLC0415 - imports torch

    return {"rank": shard.rank, "world_size": len(shard.devices), "group": group()}


def _torch(artifact: Artifact, own: Options, devices: list[str], options: LoadOptions) -> LoadedModel:
    try:
        from slipway_runtime.models.torch_load import load_torch  # noqa: PLC0415 - torch takes seconds
    except ModuleNotFoundError as exc:
        raise BadConfig(
            f"model file '{artifact.path}' is {artifact.format}, but {exc.name} is not installed; use a runtime that "
            "has it, such as slipway-pytorch"
        ) from exc
    return load_torch(artifact, own, devices, options)


def _onnx(artifact: Artifact, own: Options, devices: list[str], threads: int) -> LoadedModel:
    from slipway_runtime.models.onnx_runner import open_session, signature  # noqa: PLC0415
    from slipway_runtime.models.session_runner import SessionRunner  # noqa: PLC0415

    ignored = tuple(f"parameters.{name}" for name in own.others)
    sessions = {device: open_session(artifact.path, device, threads) for device in dict.fromkeys(devices)}
    metadata = signature(sessions[devices[0]], artifact.config, artifact.path)
    metadata = replace(metadata, ignored=(*metadata.ignored, *ignored))
    names = _input_names(artifact.config, metadata.inputs)
    runners: list[Runner] = [SessionRunner(sessions[device], metadata, names) for device in devices]
    return LoadedModel(artifact, artifact.config, metadata, own, runners, artifact.config.decoupled)


def _tabular(artifact: Artifact, own: Options, devices: list[str], options: LoadOptions) -> LoadedModel:
    from slipway_runtime.models import reading, tabular  # noqa: PLC0415 - for such models only
    from slipway_runtime.models.estimators import read  # noqa: PLC0415
    from slipway_runtime.models.session_runner import SessionRunner  # noqa: PLC0415

    tabular.refuse_devices(artifact, devices)
    reading.try_reading(artifact, () if options.allow_code else options.allowed_classes)
    estimator = read(artifact, options.threads, allow_code=options.allow_code, allowed_classes=options.allowed_classes)
    metadata = tabular.signature(estimator, artifact)
    metadata = replace(metadata, ignored=(*metadata.ignored, *(f"parameters.{name}" for name in own.others)))
    session = tabular.TabularSession(estimator, metadata.inputs, metadata.outputs)
    names = _input_names(artifact.config, metadata.inputs)
    runners: list[Runner] = [SessionRunner(session, metadata, names) for _ in devices]
    return LoadedModel(artifact, artifact.config, metadata, own, runners, artifact.config.decoupled)


def _input_names(config: ModelConfig, inputs: tuple[TensorSpec, ...]) -> list[str]:
    controls = config.sequence_batching.controls if config.sequence_batching else ()
    return [*(spec.name for spec in inputs), *(control.name for control in controls)]
