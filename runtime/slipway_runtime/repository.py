"""From files to what the service serves: which models there are, how each is to be queued, batched and cached.

--model PATH        one model: a file, a folder, sample://NAME
--repository PATH   a folder of models, each in a folder named after it
"""

import json
import logging
from dataclasses import dataclass, replace
from pathlib import Path

from slipway_runtime.cpus import cpu_limit
from slipway_runtime.engine.cache import Cache
from slipway_runtime.engine.endpoint import Options
from slipway_runtime.engine.ensemble import Step
from slipway_runtime.engine.job import Runner
from slipway_runtime.engine.policy import Policy
from slipway_runtime.engine.sequences import Sequences
from slipway_runtime.errors import BadModel, MissingModel
from slipway_runtime.models import artifacts, overrides
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.config import DynamicBatching, ModelConfig
from slipway_runtime.models.config_reader import config_of
from slipway_runtime.models.config_writer import to_triton_json
from slipway_runtime.models.load import LoadOptions, load
from slipway_runtime.settings import Settings
from slipway_runtime.tensors import Metadata
from slipway_runtime.versions import LoadedVersion

log = logging.getLogger("slipway.repository")
_ANY_NUMBER = 1 << 30
_MOST_SEQUENCES = 10_000
OPTIONS = (
    *("maxBatchSize", "preferredBatchSizes", "maxQueueDelayMicroseconds", "instances", "device"),
    *("inputs", "outputs", "versions", "responseCache", "dtype", "quantization", "compile", "batchBuckets"),
)
"""What a service may say of its model; warm-up is not said, it always is."""


class ModelFiles:
    """All methods may block and are called by one thread at a time."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._only: tuple[str, list[tuple[int, Artifact]]] | None = None

    def initial(self) -> list[str]:
        """Raises MissingModel, BadModel, BadConfig."""
        settings = self._settings
        if settings.model:
            return [self.one()[0]]
        names = self.names()
        if missing := [name for name in settings.load_models if name not in names]:
            raise MissingModel(f"repository '{settings.repository}' has no model {missing}, it has {names}")
        return list(settings.load_models) or names

    def names(self) -> list[str]:
        if self._settings.model:
            return [self._only[0]] if self._only else []
        folder = Path(self._settings.repository)
        if not folder.is_dir():
            raise MissingModel(f"repository '{folder}' is no folder; check --repository")
        return sorted(entry.name for entry in folder.iterdir() if entry.is_dir() and not entry.name.startswith("."))

    def load(self, name: str, config: str | None) -> list[LoadedVersion]:
        """Raises MissingModel, BadModel, BadConfig."""
        chosen = self._chosen(name, config)
        loaded: list[LoadedVersion] = []
        try:
            loaded.extend(self._load(name, artifact) for _, artifact in chosen)
        except BaseException:
            for version in loaded:
                version.close()
            raise
        return loaded

    def one(self, given: ModelConfig | None = None) -> tuple[str, list[tuple[int, Artifact]]]:
        """The name of the model of --model, and its versions that are served, ascending.

        `given` is taken for the config that lies there, except for the name.
        """
        settings, said = self._settings, overrides.read(self._settings.model_options)
        said.only(OPTIONS, "slipway-runtime")
        first = artifacts.find(settings.model, settings.format, said)
        if artifacts.place_of(settings.model).is_dir():
            chosen = artifacts.versions(first.folder, wanted=settings.format, given=given or first.config)
        else:
            chosen = [(first.version, first if given is None else replace(first, config=given))]
        self._only = (settings.name or first.config.name or first.default_name, chosen)
        return self._only

    def _chosen(self, name: str, config: str | None) -> list[tuple[int, Artifact]]:
        settings, given = self._settings, None if config is None else _override(name, config)
        if not settings.model:
            return artifacts.versions(Path(settings.repository) / name, wanted=settings.format, given=given)
        return self.one(given)[1]

    def _load(self, name: str, artifact: Artifact) -> LoadedVersion:
        settings, config = self._settings, artifact.config
        plan = plan_of(name, config, settings)
        if config.ensemble:
            return _ensemble(name, artifact, plan)
        model = load(artifact, load_options(settings))
        try:
            warm = model.warm_up()
        except Exception:
            model.close()
            raise
        if ignored := model.metadata.ignored:
            log.warning("the config has fields that are ignored", extra={"f": {"model": name, "fields": ignored}})
        fields = {"model": name, "version": artifact.version, "warmed_up": warm, "instances": len(model.runners)}
        log.info("loaded", extra={"f": fields})
        return LoadedVersion(
            version=str(artifact.version),
            model=model,
            options=lambda: plan.options(name),
            config=lambda: to_triton_json(model.config, model.metadata, name),
            labels={output: list(labels) for output, labels in config.labels.items()},
            close=model.close,
        )


def load_options(settings: Settings) -> LoadOptions:
    return LoadOptions(
        device=settings.device,
        # One CPU is the server's own: with a thread of the model on each, they wait for one another.
        threads=settings.threads or max(1, cpu_limit() // settings.workers - 1),
        own_cores=settings.workers == 1,
        allow_code=settings.allow_code,
        allowed_classes=settings.allowed_classes,
    )


@dataclass(frozen=True, slots=True)
class Plan:
    """How the requests of a model are to be treated, out of its config and the server's settings."""

    policy: Policy
    default_level: int
    cache_bytes: int
    sequences: tuple[float, int] | None
    """Idle seconds and how many at most."""

    def options(self, name: str) -> Options:
        """For one loaded version. Made on the event loop."""
        return Options(
            policy=self.policy,
            default_level=self.default_level,
            cache=Cache(self.cache_bytes) if self.cache_bytes else None,
            sequences=Sequences(name, idle_s=self.sequences[0], most=self.sequences[1]) if self.sequences else None,
        )


def plan_of(name: str, config: ModelConfig, settings: Settings) -> Plan:
    """Raises BadModel for what a config may say and we do not do."""
    batching, sequence, queue = config.dynamic_batching, config.sequence_batching, None
    if batching is not None:
        queue = batching.default_queue_policy
        if batching.priority_queue_policy:
            raise BadModel(f"config of model '{name}': priority_queue_policy is not served, use default_queue_policy")
    if queue is not None and queue.timeout_action == "DELAY":
        raise BadModel(f"config of model '{name}': timeout_action DELAY is not served, use REJECT")
    limit_s = queue.default_timeout_us / 1e6 if queue and queue.default_timeout_us else settings.timeout_s
    policy = Policy(
        max_rows=config.max_batch or 1,
        max_jobs=settings.concurrency or _ANY_NUMBER,
        max_queue=(queue.max_queue_size if queue else 0) or settings.max_queue,
        max_queue_bytes=settings.max_queue_bytes,
        timeout_s=min(limit_s, settings.timeout_s),
        delay_s=_delay_s(config, settings),
        levels=max(1, batching.priority_levels if batching else 1),
        weights=settings.tenant_weights,
        preferred=(batching or sequence or DynamicBatching()).preferred_batch_size,
        own_timeouts=queue is None or queue.allow_timeout_override,
    )
    sequences = None
    if sequence is not None:
        if settings.workers > 1:
            raise BadModel(
                f"config of model '{name}': sequence_batching needs --workers 1, or requests of a sequence would come "
                "to workers that do not know it"
            )
        if sum(group.count for group in config.instances) > 1:
            raise BadModel(f"config of model '{name}': a model with sequence_batching can have one instance only")
        sequences = (sequence.max_sequence_idle_us / 1e6, sequence.max_candidate_sequences or _MOST_SEQUENCES)
    return Plan(
        policy=policy,
        default_level=max(0, (batching.default_priority_level if batching else 1) - 1),
        cache_bytes=settings.cache_bytes if config.response_cache and not config.decoupled else 0,
        sequences=sequences,
    )


def _delay_s(config: ModelConfig, settings: Settings) -> float:
    """The word of a config that batches, also where it is 0; --max-delay for any other."""
    if config.dynamic_batching is not None:
        return config.dynamic_batching.max_queue_delay_us / 1e6
    of_sequences = config.sequence_batching.max_queue_delay_us if config.sequence_batching else 0
    return of_sequences / 1e6 or settings.max_delay_s


@dataclass(frozen=True, slots=True)
class _Composed:
    """An ensemble: nothing is loaded for it."""

    metadata: Metadata
    runners: tuple[Runner, ...] = ()
    decoupled: bool = False
    broken: str = ""


def _ensemble(name: str, artifact: Artifact, plan: Plan) -> LoadedVersion:
    config = artifact.config
    steps = steps_of(name, config)
    metadata = Metadata("ensemble", config.inputs, config.outputs, config.max_batch, config.ignored)
    return LoadedVersion(
        version=str(artifact.version),
        model=_Composed(metadata),
        options=lambda: replace(plan.options(name), steps=steps),
        config=lambda: to_triton_json(config, metadata, name),
        labels={output: list(labels) for output, labels in config.labels.items()},
        close=lambda: None,
        needs=[step.model for step in steps],
    )


def steps_of(name: str, config: ModelConfig) -> list[Step]:
    """Of an ensemble. Raises BadModel when a tensor that is needed comes from nowhere."""
    steps = [
        Step(step.model, "" if step.version < 0 else str(step.version), step.input_map, step.output_map)
        for step in config.ensemble
    ]
    there, todo = {spec.name for spec in config.inputs}, list(steps)
    while ready := [step for step in todo if there.issuperset(step.inputs.values())]:
        there.update(*(step.outputs.values() for step in ready))
        todo = [step for step in todo if step not in ready]
    if todo:
        missing = sorted({tensor for step in todo for tensor in step.inputs.values()} - there)
        raise BadModel(f"ensemble '{name}': nothing gives {missing}, which step '{todo[0].model}' needs; correct it")
    if missing := sorted({spec.name for spec in config.outputs} - there):
        raise BadModel(f"ensemble '{name}': no step gives its output {missing}; correct it")
    return steps


def _override(name: str, config: str) -> ModelConfig:
    source = f"the config given for model '{name}'"
    try:
        return config_of(json.loads(config), source)
    except ValueError as exc:
        raise BadModel(f"{source} is not JSON: {exc}") from exc
