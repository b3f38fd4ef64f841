"""The config that Triton gets for each model. Pure. Where several have a word the first of these counts:

    1. what has to hold: the name, and what may not be in a config here (`check`)
    2. options and arguments of the service
    3. config.pbtxt or config.json of the model
    4. the operator: how many wait, how long, how many at once
    5. what the files are: the backend, the file's name
    6. Triton's own completion of what is still missing, from the model itself

Ensembles have no queue, and their steps get no limit of ours: Triton loses an ensemble's request for ever when a queue
inside of it is full. Source: triton-inference-server/core#466.
"""

from collections.abc import Iterator, Sequence
from typing import Any

from slipway_runtime.errors import BadConfig, BadModel
from slipway_runtime.models.overrides import MOST_BATCH, MOST_INSTANCES, Tensor
from slipway_runtime.triton.layout import BACKENDS, CODE, Model, is_plain
from slipway_runtime.triton.messages import Config, backend_of
from slipway_runtime.triton.wishes import Settings, Wishes

DATA_BACKENDS = ("onnxruntime", "tensorrt", "pytorch", "openvino", "ensemble")
"""Those that load data. Any other runs code of the model's author."""
DEFAULT_MAX_BATCH = 4
"""Triton's own, for models whose config it completes."""
MOST_WARMUPS = 1000
_DEVICES = {"cpu": "KIND_CPU", "gpu": "KIND_GPU", "auto": "KIND_AUTO", "": "KIND_AUTO"}
_FILES = {"onnxruntime": "model.onnx", "tensorrt": "model.plan", "pytorch": "model.pt", "python": CODE}


def settle(model: Model, settings: Settings, *, is_service: bool) -> Config:
    """`is_service`: the model that requests of the service are for; the others of a repository keep what they have.

    Raises:
        BadModel, BadConfig: it cannot be served like that.
    """
    config = Config()
    config.CopyFrom(model.config)
    check(config, model.name, allow_code=settings.allow_code)
    config.name = model.name
    if model.format != "ensemble":
        _name_files(config, model)
    if not settings.allow_code and backend_of(config) not in DATA_BACKENDS:
        raise BadModel(
            f"model '{model.name}' is code (backend '{backend_of(config)}'), which the administrator has not allowed "
            "(--allow-code of the runtime)"
        )
    if is_service:
        _wish(config, settings.wishes)
        _limit(config, settings)
    return config


def _name_files(config: Config, model: Model) -> None:
    if not backend_of(config):
        config.backend = BACKENDS[model.format]
    if model.filename and model.filename != _FILES.get(backend_of(config)):
        config.default_model_filename = model.filename


def check(config: Config, name: str, *, allow_code: bool) -> None:
    """Refuse what leads out of the model's folder, loads libraries, or has no bounds."""
    where = f"the config of model '{name}'"
    if config.HasField("model_repository_agents"):
        raise BadModel(f"{where} has model_repository_agents, which load libraries; remove it")
    for field in ("runtime", "model_operations"):
        # Libraries and scripts that are loaded beside the model's own file.
        if not allow_code and _is_set(config, field):
            raise BadModel(f"{where} has {field}, which loads code that the administrator has not allowed; remove it")
    if not allow_code and "EXECUTION_ENV_PATH" in config.parameters:
        raise BadModel(f"{where} has EXECUTION_ENV_PATH, which the administrator has not allowed; remove it")
    backend = backend_of(config)
    if backend and not (backend.isascii() and backend.replace("_", "").replace("-", "").isalnum()):
        raise BadModel(f"{where} has backend {backend[:80]!r}, which is no name; correct it")
    for field, path in _paths(config):
        if path and not is_plain(path):
            raise BadModel(f"{where}: {field} is {path[:80]!r}, must be a name without a folder")
    bounds = [("max_batch_size", config.max_batch_size, MOST_BATCH)]
    bounds += [("instance_group.count", group.count, MOST_INSTANCES) for group in config.instance_group]
    bounds += [("model_warmup.count", warmup.count, MOST_WARMUPS) for warmup in config.model_warmup]
    for field, value, most in bounds:
        if not 0 <= value <= most:
            raise BadModel(f"{where}: {field} is {value}, must be from 0 to {most}")


def _is_set(config: Config, field: str) -> bool:
    return field in (descriptor.name for descriptor, _ in config.ListFields())


def _paths(config: Config) -> Iterator[tuple[str, str]]:
    yield "default_model_filename", config.default_model_filename
    yield from (("cc_model_filenames", name) for name in config.cc_model_filenames.values())
    yield from (("label_filename", output.label_filename) for output in config.output)
    for warmup in config.model_warmup:
        yield from (("input_data_file", given.input_data_file) for given in warmup.inputs.values())
    for state in config.sequence_batching.state:
        yield from (("data_file", initial.data_file) for initial in state.initial_state)


def _wish(config: Config, wishes: Wishes) -> None:
    """What the service says, over whatever the file says: shape, instances, batching."""
    if config.HasField("ensemble_scheduling"):
        _refuse_for_ensembles(config, wishes)
    if wishes.max_batch_size is not None:
        config.max_batch_size = wishes.max_batch_size
    for field, tensors in (("input", wishes.inputs), ("output", wishes.outputs)):
        if tensors:
            config.ClearField(field)
            _name_once(field, tensors)
            for tensor in tensors:
                kind = f"TYPE_{tensor.datatype.replace('BYTES', 'STRING')}"
                getattr(config, field).add(name=tensor.name, data_type=kind, dims=tensor.dims)
    if wishes.instances is not None or wishes.device:
        count = wishes.instances or sum(group.count or 1 for group in config.instance_group) or 1
        kind = _DEVICES[wishes.device] if wishes.device else _kind(config)
        config.ClearField("instance_group")
        config.instance_group.add(count=count, kind=kind)
    if wishes.preferred_batch_sizes or wishes.max_queue_delay_us is not None:
        _wish_batching(config, wishes)
    _wish_service(config, wishes)


def _wish_service(config: Config, wishes: Wishes) -> None:
    """What an ensemble can have too, but for warm-up."""
    if wishes.versions:
        _wish_versions(config, wishes.versions)
    if wishes.response_cache is not None:
        config.response_cache.enable = wishes.response_cache
    if wishes.warm_up is not None:
        del config.model_warmup[:]
    if wishes.warm_up:
        _wish_warm_up(config)


def _refuse_for_ensembles(config: Config, wishes: Wishes) -> None:
    wrong = {
        "--instances": wishes.instances is not None,
        "--device": bool(wishes.device),
        "--preferred-batch-sizes": bool(wishes.preferred_batch_sizes),
        "--max-queue-delay": wishes.max_queue_delay_us is not None,
        "--warm-up": bool(wishes.warm_up),
    }
    if refused := [flag for flag, given in wrong.items() if given]:
        raise BadConfig(
            f"{refused[0]} is given, but '{config.name}' is an ensemble; say it in the configs of its steps"
        )


def _name_once(field: str, tensors: Sequence[Tensor]) -> None:
    names = [tensor.name for tensor in tensors]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise BadConfig(f"--{field} names '{twice[0]}' twice; name each once")


def _kind(config: Config) -> Any:
    kinds = {group.kind for group in config.instance_group}
    return kinds.pop() if len(kinds) == 1 else "KIND_AUTO"


def _wish_batching(config: Config, wishes: Wishes) -> None:
    if config.HasField("sequence_batching"):
        raise BadConfig("--preferred-batch-sizes and --max-queue-delay are for models without sequence_batching")
    batching = config.dynamic_batching
    batching.SetInParent()
    if wishes.preferred_batch_sizes:
        batching.ClearField("preferred_batch_size")
        batching.preferred_batch_size.extend(wishes.preferred_batch_sizes)
    if wishes.max_queue_delay_us is not None:
        batching.max_queue_delay_microseconds = wishes.max_queue_delay_us


def _wish_versions(config: Config, words: str) -> None:
    policy = config.version_policy
    policy.Clear()
    if words == "all":
        policy.all.SetInParent()
    elif words.startswith("latest:"):
        policy.latest.num_versions = int(words.removeprefix("latest:"))
    else:
        policy.specific.versions.extend(int(word) for word in words.split(","))


def _wish_warm_up(config: Config) -> None:
    if not config.input:
        raise BadConfig("--warm-up needs to know the inputs: give --input, or a config with input")
    warmup = config.model_warmup.add(name="zeros", batch_size=1, count=1)
    for tensor in config.input:
        given = warmup.inputs[tensor.name]
        given.data_type = tensor.data_type
        given.dims.extend(1 if size < 0 else size for size in tensor.dims)
        given.zero_data = True


def _limit(config: Config, settings: Settings) -> None:
    """The operator's limits, where nobody else has said one."""
    batches_itself = config.HasField("ensemble_scheduling") or config.HasField("sequence_batching")
    if settings.concurrency:
        _limit_concurrency(config, settings.concurrency)
    if batches_itself or config.model_transaction_policy.decoupled:
        return
    policy = config.dynamic_batching.default_queue_policy
    if settings.max_queue and not policy.max_queue_size:
        policy.max_queue_size = settings.max_queue
    if not policy.default_timeout_microseconds:
        policy.default_timeout_microseconds = round(settings.timeout_s * 1e6)
        policy.allow_timeout_override = True


def _limit_concurrency(config: Config, most: int) -> None:
    """Requests that Triton works on at once: a batch in each instance."""
    if config.HasField("ensemble_scheduling"):
        raise BadConfig("containerConcurrency is not for ensembles on Triton; say instance_group in its steps' configs")
    if not config.instance_group:
        config.instance_group.add(count=1, kind="KIND_AUTO")
    instances = sum((group.count or 1) * max(1, len(group.gpus)) for group in config.instance_group)
    batch = max(1, config.max_batch_size)
    if instances * batch > most:
        raise BadConfig(
            f"containerConcurrency is {most}, but Triton takes up to {instances * batch} requests at once "
            f"({instances} instances, batches of {batch}); give --max-batch-size or --instances, or leave it out"
        )


def default_max_batch(settings: Settings) -> int:
    """For a model whose config Triton completes."""
    return min(DEFAULT_MAX_BATCH, settings.concurrency) if settings.concurrency else DEFAULT_MAX_BATCH
