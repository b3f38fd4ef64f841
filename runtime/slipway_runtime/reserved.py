"""Whose word counts in the arguments of `serve`: what stands before that word is the administrator's.

    slipway-runtime --allow-code false serve --max-queue 50
                    ------------------       --------------
                    of the runtime           of a service

Where nothing stands before it there is nobody to keep from anything, and every argument may be given.
"""

from collections.abc import Sequence

from slipway_runtime.errors import BadConfig

SERVE = "serve"
RESERVED = (
    *("--allow-code", "--allowed-classes", "--model", "--repository", "--load-models", "--model-control", "--name"),
    "--model-options",
    *("--format", "--host", "--http-port", "--grpc-port", "--metrics-port", "--grpc-backend", "--debug"),
)
"""What is not a service's to say once a runtime has said anything: code, the model itself, and what the pod opens."""


def ordered(argv: Sequence[str]) -> list[str]:
    """The arguments with `serve` first, as the parser takes them, and the administrator's word last, where it wins.

    Raises:
        BadConfig: a service gives what is not its to give.
    """
    words = list(argv)
    if SERVE not in words[1:] or not words[0].startswith("-"):
        return words
    end = words.index(SERVE)
    before, after = words[:end], words[end + 1 :]
    fixed = tuple(filter(_is_flag, (*RESERVED, *map(_flag, before))))
    for flag in filter(_is_flag, map(_flag, after)):
        # The parser takes the beginning of an argument for it.
        if any(own.startswith(flag) for own in fixed):
            raise BadConfig(f"argument {flag} is the runtime's to give, not a service's")
    return [SERVE, *after, *before]


def _flag(word: str) -> str:
    return word.partition("=")[0]


def _is_flag(word: str) -> bool:
    return word.startswith("-")
