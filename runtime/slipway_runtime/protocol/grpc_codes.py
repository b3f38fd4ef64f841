"""What a refusal is in gRPC: a number and a sentence."""

from slipway_runtime.errors import Kind, RequestError

# Triton's, but for the deadline: a client that gave one expects DEADLINE_EXCEEDED.
CODES = {
    Kind.INVALID: 3,  # INVALID_ARGUMENT
    Kind.DEADLINE: 4,  # DEADLINE_EXCEEDED
    Kind.NOT_FOUND: 5,  # NOT_FOUND
    Kind.EXISTS: 6,  # ALREADY_EXISTS
    Kind.TOO_LARGE: 8,  # RESOURCE_EXHAUSTED
    Kind.UNSUPPORTED: 12,  # UNIMPLEMENTED
    Kind.INTERNAL: 13,  # INTERNAL
    Kind.UNAVAILABLE: 14,  # UNAVAILABLE
    Kind.FULL: 14,
}
FULL_AS_EXHAUSTED = 8


def code_of(kind: Kind, *, full_exhausts: bool = False) -> int:
    """`full_exhausts`: a full queue is RESOURCE_EXHAUSTED, as 429 is in REST, and not UNAVAILABLE as with Triton."""
    return FULL_AS_EXHAUSTED if full_exhausts and kind is Kind.FULL else CODES[kind]


def refusal(error: RequestError, *, full_exhausts: bool = False) -> tuple[int, str]:
    return code_of(error.kind, full_exhausts=full_exhausts), error.message
