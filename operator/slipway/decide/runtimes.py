"""Which runtime serves a model, and why not another.

An explicit name wins; else the highest priority among the runtimes that support the format, a namespace's own before
the cluster's, then by name, so that the choice never depends on the order in which runtimes are seen.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from pydantic import ValidationError

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest
from slipway.api.model import Model
from slipway.api.v1alpha1 import RuntimeContainer, ServingRuntimeSpec
from slipway.decide.types import Refusal


@dataclass(frozen=True, slots=True)
class Runtime:
    kind: str
    name: str
    spec: ServingRuntimeSpec

    @property
    def title(self) -> str:
        return f"{self.kind}/{self.name}"

    def priority(self, model: Model) -> int | None:
        """Priority for this model's format; None when the format is not supported."""
        wanted = model.model_format
        fits = [
            supported.priority
            for supported in self.spec.supported_model_formats
            if supported.name == wanted.name and wanted.version in (None, supported.version or wanted.version)
        ]
        return max(fits, default=None)


def choose(model: Model, manifests: Iterable[Manifest]) -> Runtime | Refusal:
    """The runtime for `model`, or the reason why there is none."""
    runtimes = sorted(filter(None, map(parse, manifests)), key=lambda r: (r.kind != "ServingRuntime", r.name))
    wanted = describe(model)
    if model.runtime is not None:
        return _named(model, model.runtime, wanted, runtimes)
    fitting = [(priority, runtime) for runtime in runtimes if (priority := runtime.priority(model)) is not None]
    if not fitting:
        known = ", ".join(sorted({form.name for runtime in runtimes for form in runtime.spec.supported_model_formats}))
        return Refusal(
            Reason.NO_SUPPORTING_RUNTIME,
            f"no runtime supports {wanted}; formats that have one: {known or 'none (no runtime is installed)'}",
        )
    return max(fitting, key=lambda pair: pair[0])[1]


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
    return runtime


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
