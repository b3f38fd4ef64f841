"""Which runtime serves a model, why, and why not another.

An explicit name wins; else, of the runtimes that are not disabled and fit the model's format, protocol and devices, a
namespace's own come before the cluster's, then the highest priority, then the name, so that the choice never depends on
the order in which runtimes are seen.
"""

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from pydantic import ValidationError

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.model import Model
from slipway.api.v1alpha1 import RuntimeContainer, ServingRuntimeSpec
from slipway.decide import placement
from slipway.decide.types import Refusal


@dataclass(frozen=True, slots=True)
class Runtime:
    kind: str
    name: str
    spec: ServingRuntimeSpec
    why: str = ""
    """Why it was chosen."""

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}"

    @property
    def is_own(self) -> bool:
        """Whether it is one of the namespace's own."""
        return self.kind == "ServingRuntime"

    def priority(self, model: Model) -> int | None:
        """Priority for this model's format; None when the format is not supported."""
        wanted = model.model_format
        fits = [
            supported.priority
            for supported in self.spec.supported_model_formats
            if supported.name == wanted.name and wanted.version in (None, supported.version or wanted.version)
        ]
        return max(fits, default=None)

    def unsuitable(self, model: Model) -> str:
        """What keeps it from a model whose format it supports; empty: nothing."""
        spec, asked = self.spec, placement.devices(model.resources)
        if spec.disabled:
            return "is disabled"
        if model.protocol_version is not None and model.protocol_version not in spec.protocol_versions:
            return f"does not speak protocol {model.protocol_version} (but {', '.join(spec.protocol_versions)})"
        known = spec.accelerators
        if known and (other := [name for name in asked if not any(placement.matches(each, name) for each in known)]):
            return f"cannot use {other[0]} (but {', '.join(known)})"
        default = placement.effective(model.resources, spec.container.resources)
        if spec.accelerator_required and not placement.devices(default):
            return f"needs a device such as {known[0] if known else 'nvidia.com/gpu'} in resources.limits"
        return ""


def choose(model: Model, manifests: Iterable[Manifest]) -> Runtime | Refusal:
    """The runtime for `model`, or the reason why there is none."""
    runtimes = sorted(filter(None, map(parse, manifests)), key=lambda each: (not each.is_own, each.name))
    wanted = describe(model)
    if model.runtime is not None:
        return _named(model, model.runtime, wanted, runtimes)
    fitting = [runtime for runtime in runtimes if runtime.priority(model) is not None]
    suitable = [runtime for runtime in fitting if not runtime.unsuitable(model)]
    if suitable:
        # Sorted by kind and name already, and a sort keeps that order among equals.
        ranked = sorted(suitable, key=lambda each: (not each.is_own, -(each.priority(model) or 0)))
        return replace(ranked[0], why=_why(model, ranked, wanted))
    if fitting:
        words = "; ".join(f"{runtime.title} {runtime.unsuitable(model)}" for runtime in fitting[:4])
        return Refusal(Reason.NO_SUPPORTING_RUNTIME, f"no runtime is suitable for {wanted}: {words}")
    known = ", ".join(sorted({form.name for runtime in runtimes for form in runtime.spec.supported_model_formats}))
    return Refusal(
        Reason.NO_SUPPORTING_RUNTIME,
        f"no runtime supports {wanted}; formats that have one: {known or 'none (no runtime is installed)'}",
    )


def _why(model: Model, ranked: Sequence[Runtime], wanted: str) -> str:
    """What put the first before the second."""
    if len(ranked) == 1:
        return f"the only one that is suitable for {wanted}"
    first, second = ranked[:2]
    ours, theirs = first.priority(model) or 0, second.priority(model) or 0
    if first.is_own != second.is_own:
        how = "it is the namespace's own"
    elif ours != theirs:
        how = f"its priority is {ours}, not {theirs}"
    else:
        how = "its name comes first"
    return f"suitable for {wanted}, and before {second.title}: {how}"


def forbidden(model: Model, runtime: Runtime) -> Refusal | None:
    """What a service gives that is its runtime's to give."""
    for variable in model.env:
        if _LOADING.match(variable.name):
            words = f"env: {variable.name} says what is loaded and run, which is the runtime's"
            return Refusal(Reason.RUNTIME_FORBIDS, f"spec.predictor.model.{words}")
    allowed = runtime.spec.container.allowed_args
    for word in model.args if allowed is not None else ():
        if (flag := _flag(word)) is not None and flag not in (allowed or ()):
            known = ", ".join(allowed or ()) or "none"
            words = f"args: {flag[:80]} is not among those that {runtime.title} allows: {known}"
            return Refusal(Reason.RUNTIME_FORBIDS, f"spec.predictor.model.{words}")
    return None


_LOADING = re.compile(
    r"(LD_|DYLD_|GLIBC_|GCONV_|LOCPATH|NLSPATH|PYTHON|VIRTUAL_ENV|BASH|PERL5|RUBY(OPT|LIB)|NODE_(OPTIONS|PATH)"
    r"|_?(JAVA|JDK)_|CLASSPATH|OPENSSL_|OMP_TOOL|TORCHINDUCTOR_|TORCH_FORCE_|TORCH_EXTENSIONS|TRITON_|HF_MODULES"
    r"|(CUDA|NVTX)_INJECTION|CUDA_CACHE_PATH|NCCL_\w*PLUGIN|OTEL_PYTHON|XDG_"
    r"|(PATH|HOME|ENV|IFS|SHELLOPTS|PS4|TMPDIR|TMP|TEMP|CC|CXX|CUDA_HOME|CUDA_PATH)\Z)"
)
"""Variables by which a linker, an interpreter or a compiler is told what to load, or where caches with code are."""


def _flag(word: str) -> str | None:
    """The argument that a word names; None when it is a value. A variable in its place could become one."""
    if word.startswith("$(") or (word.startswith("-") and not _NUMBER.fullmatch(word)):
        return word.partition("=")[0]
    return None


_NUMBER = re.compile(r"-[0-9]+([.][0-9]*)?(e-?[0-9]+)?")


def _named(model: Model, name: str, wanted: str, runtimes: list[Runtime]) -> Runtime | Refusal:
    runtime = next((runtime for runtime in runtimes if runtime.name == name), None)
    if runtime is None:
        known = ", ".join(sorted({runtime.name for runtime in runtimes})) or "none"
        return Refusal(
            Reason.RUNTIME_NOT_FOUND, f"spec.predictor.model.runtime: no runtime {name!r}; there are: {known}"
        )
    if runtime.priority(model) is None:
        formats = ", ".join(form.name for form in runtime.spec.supported_model_formats)
        return Refusal(
            Reason.FORMAT_NOT_SUPPORTED, f"{runtime.title} does not support {wanted}; it supports: {formats}"
        )
    if words := runtime.unsuitable(model):
        return Refusal(Reason.RUNTIME_NOT_SUITABLE, f"spec.predictor.model.runtime: {runtime.title} {words}")
    return replace(runtime, why="named in spec.predictor.model.runtime")


def parse(manifest: Manifest) -> Runtime | None:
    """A runtime, or None when the stored object does not fit the schema of this version."""
    try:
        spec = ServingRuntimeSpec.model_validate(manifest.get("spec") or {})
    except ValidationError:
        return None
    return Runtime(manifest["kind"], manifest["metadata"]["name"], spec)


def describe(model: Model) -> str:
    version = model.model_format.version
    return f"model format {model.model_format.name!r}" + (f" version {version!r}" if version else "")


def image(container: RuntimeContainer, version: str | None) -> str | Refusal:
    """Image of the runtime, with `version` as its tag when one is asked for."""
    if version is None:
        return container.image
    if "@" in container.image:
        return Refusal(
            Reason.RUNTIME_VERSION_PINNED,
            f"spec.predictor.model.runtimeVersion: the runtime names its image by digest ({container.image})",
        )
    folder, slash, name = container.image.rpartition("/")
    return f"{folder}{slash}{name.partition(':')[0]}:{version}"
