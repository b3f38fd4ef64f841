"""What a model's config says, in Triton's terms, as values. Pure; read by config_reader, shown by config_writer.

Field names are Triton's, with the unit where it hides one. A field that is not here is either named in `ignored`,
so that nobody thinks it works, or was refused when the config was read because answers would differ without it.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal

from slipway_runtime.models.description import Description
from slipway_runtime.tensors import TensorSpec

Kind = Literal["KIND_AUTO", "KIND_CPU", "KIND_GPU", "KIND_MODEL"]
ControlKind = Literal["START", "END", "READY", "CORRID"]


@dataclass(frozen=True, slots=True)
class QueuePolicy:
    """`timeout_action` says what happens to a request that waited too long; 0 = no limit, for time and for size."""

    timeout_action: Literal["REJECT", "DELAY"] = "REJECT"
    default_timeout_us: int = 0
    allow_timeout_override: bool = False
    max_queue_size: int = 0


@dataclass(frozen=True, slots=True)
class DynamicBatching:
    """`priority_levels` 0 = none; 1 is the highest. `priority_queue_policy` is by level."""

    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    priority_levels: int = 0
    default_priority_level: int = 0
    default_queue_policy: QueuePolicy | None = None
    priority_queue_policy: Mapping[int, QueuePolicy] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Control:
    """An input that the server fills: `off` and `on` for START, END and READY, the id itself for CORRID."""

    name: str
    kind: ControlKind
    datatype: str
    off: float = 0
    on: float = 1


@dataclass(frozen=True, slots=True)
class SequenceBatching:
    """Requests of one sequence go to one instance in their order. `oldest` fields are 0 with `direct`."""

    strategy: Literal["direct", "oldest"] = "direct"
    max_sequence_idle_us: int = 1_000_000
    max_candidate_sequences: int = 0
    preferred_batch_size: tuple[int, ...] = ()
    max_queue_delay_us: int = 0
    controls: tuple[Control, ...] = ()


@dataclass(frozen=True, slots=True)
class InstanceGroup:
    """`gpus` are CUDA ordinals; `count` instances run on each, or in all on CPUs."""

    name: str = ""
    kind: Kind = "KIND_AUTO"
    count: int = 1
    gpus: tuple[int, ...] = ()


@dataclass(frozen=True, slots=True)
class VersionPolicy:
    """Which of the versions on disk are served: the `latest` so many, all (0), or those of `specific`."""

    latest: int = 1
    specific: tuple[int, ...] = ()

    def choose(self, found: tuple[int, ...]) -> tuple[int, ...]:
        """Ascending."""
        if self.specific:
            return tuple(sorted(set(found) & set(self.specific)))
        return tuple(sorted(found)[-self.latest :] if self.latest else sorted(found))


@dataclass(frozen=True, slots=True)
class WarmupInput:
    """`dims` are without the batch. `data` is a file in the folder `warmup`, read when `source` is "file"."""

    name: str
    datatype: str
    dims: tuple[int, ...]
    source: Literal["zero", "random", "file"]
    data: str = ""


@dataclass(frozen=True, slots=True)
class Warmup:
    """`batch_size` 0 = a request without a batch."""

    name: str
    batch_size: int
    count: int
    inputs: tuple[WarmupInput, ...]


@dataclass(frozen=True, slots=True)
class EnsembleStep:
    """The maps go from the model's tensors to the ensemble's. `version` -1 = the newest."""

    model: str
    version: int
    input_map: Mapping[str, str]
    output_map: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class ModelConfig:
    """`max_batch` 0 = the model does not batch: its shapes are whole. `labels` are by output."""

    name: str = ""
    platform: str = ""
    backend: str = ""
    max_batch: int = 0
    inputs: tuple[TensorSpec, ...] = ()
    outputs: tuple[TensorSpec, ...] = ()
    label_files: Mapping[str, str] = field(default_factory=dict)
    labels: Mapping[str, tuple[str, ...]] = field(default_factory=dict)
    dynamic_batching: DynamicBatching | None = None
    sequence_batching: SequenceBatching | None = None
    ensemble: tuple[EnsembleStep, ...] = ()
    instances: tuple[InstanceGroup, ...] = ()
    version_policy: VersionPolicy = VersionPolicy()
    response_cache: bool = False
    decoupled: bool = False
    warmup: tuple[Warmup, ...] = ()
    filename: str = ""
    parameters: Mapping[str, str] = field(default_factory=dict)
    description: Description | None = None
    """What lies beside the model about it; what this config does not say is taken from there already."""
    ignored: tuple[str, ...] = ()
