"""What of a pod is open to callers: a short list, everything else is answered 404 before it gets there.

A runtime's other pages (its repository, configuration, statistics, tracing, logging, shared memory) are for whoever
runs it. Paths are compared after they were normalised, as a whole, with the service's own name as the model's.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_VERSION = r"(?:/versions/[A-Za-z0-9._-]+)?"
_INFERENCE = r"/inference\.GRPCInferenceService/"
_HEALTH = r"/grpc\.health\.v1\.Health/"


@dataclass(frozen=True, slots=True)
class Kind:
    """Requests that are treated alike. `paths`: RE2; `{model}` is the model."""

    name: str
    methods: str
    paths: tuple[str, ...]
    grpc: bool = False
    stream: bool = False
    """Answers for as long as there is something to say: no limit on the whole, one on silence."""
    quiet: bool = False
    """Of a stream: has nothing to say for long, and is as alive as its connection."""
    mirrored: bool = False

    def regex(self, namespace: str, model: str, called: str) -> str:
        """What the path is as a whole; of REST with or without /NAMESPACE/CALLED before it."""
        paths = "|".join(path.replace("{model}", re.escape(model)) for path in self.paths)
        return paths if self.grpc else f"(?:/{namespace}/{re.escape(called)})?(?:{paths})"


KINDS = (
    Kind(
        "infer",
        "POST",
        (rf"/v2/models/{{model}}{_VERSION}/(?:infer|generate)", rf"/v1/models/{{model}}{_VERSION}:predict"),
        mirrored=True,
    ),
    Kind("grpc-infer", "POST", (rf"{_INFERENCE}ModelInfer",), grpc=True, mirrored=True),
    Kind("stream", "POST", (rf"/v2/models/{{model}}{_VERSION}/generate_stream",), stream=True),
    Kind("grpc-stream", "POST", (rf"{_INFERENCE}ModelStreamInfer",), grpc=True, stream=True),
    Kind(
        "page",
        "GET|HEAD",
        (
            r"/v2(?:/health/(?:live|ready))?",
            rf"/v2/models/{{model}}{_VERSION}(?:/ready)?",
            rf"/v1/models/{{model}}{_VERSION}",
        ),
    ),
    Kind(
        "grpc-page",
        "POST",
        (rf"{_INFERENCE}(?:ServerLive|ServerReady|ModelReady|ServerMetadata|ModelMetadata)", rf"{_HEALTH}Check"),
        grpc=True,
    ),
    Kind("grpc-watch", "POST", (rf"{_HEALTH}Watch",), grpc=True, stream=True, quiet=True),
)


def kinds() -> Iterator[Kind]:
    """Those that are asked most come first: Envoy goes through them in order."""
    return iter(KINDS)
