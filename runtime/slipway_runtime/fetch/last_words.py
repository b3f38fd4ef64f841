"""The end of a fetch that failed: one JSON object where Kubernetes looks for it, one sentence for a person's log."""

import json
import sys

from slipway_runtime import errors
from slipway_runtime.errors import BadConfig, BadModel, Failure, MissingModel
from slipway_runtime.fetch.failures import FetchError

_MESSAGE_MAX = 1024
"""Kubernetes keeps 4096 bytes, and what is not ASCII takes up to twelve bytes of JSON a letter pair."""


def reason(failure: Failure) -> str:
    """The word for it; empty: none that the operator knows."""
    match failure:
        case FetchError():
            return str(failure.why)
        case MissingModel():
            return "ModelNotFound"
        case BadModel():
            return "ModelInvalid"
        case BadConfig():
            return "ConfigurationInvalid"
    return ""


def tell(failure: Failure) -> int:
    """Say why the process ends; returns its exit code."""
    sentence = " ".join(str(failure).split())
    if errors.TERMINATION_LOG.exists():
        words = {"reason": reason(failure), "message": sentence[:_MESSAGE_MAX]}
        errors.TERMINATION_LOG.write_text(json.dumps(words, ensure_ascii=False).encode()[:4096].decode(errors="ignore"))
    sys.stdout.flush()
    sys.stderr.write(sentence + "\n")
    sys.stderr.flush()
    return failure.exit_code
