"""Why a pod does not serve, in words its owner can act on.

The server ends with an exit code of a small agreed set and a last line that is one plain sentence, the fetcher with one
JSON object, {"reason", "message"}; the kubelet carries them here (terminationMessagePolicy: FallbackToLogsOnError).
"""

import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from slipway.api.conditions import Reason
from slipway.api.manifest import Manifest

EXIT_REASONS = {65: Reason.MODEL_INVALID, 66: Reason.MODEL_NOT_FOUND, 78: Reason.CONFIGURATION_INVALID}
WAITING_REASONS = {
    "ErrImagePull": Reason.IMAGE_PULL_FAILED,
    "ImagePullBackOff": Reason.IMAGE_PULL_FAILED,
    "InvalidImageName": Reason.IMAGE_PULL_FAILED,
    "ErrImageNeverPull": Reason.IMAGE_PULL_FAILED,
    "CreateContainerConfigError": Reason.CONTAINER_CONFIG,
    "CreateContainerError": Reason.CONTAINER_CONFIG,
    "RunContainerError": Reason.CONTAINER_CONFIG,
}
FETCH_REASONS = {
    Reason.STORAGE_URI_INVALID: True,
    Reason.SOURCE_REFUSED: True,
    Reason.ACCESS_DENIED: True,
    Reason.MODEL_NOT_FOUND: True,
    Reason.MODEL_INVALID: True,
    Reason.CONFIGURATION_INVALID: True,
    Reason.CHECKSUM_MISMATCH: True,
    Reason.LIMIT_EXCEEDED: True,
    Reason.ARCHIVE_REFUSED: True,
    Reason.SOURCE_CHANGED: False,
    Reason.DISK_FULL: False,
    Reason.STORE_UNAVAILABLE: False,
    Reason.STORE_TOO_SLOW: False,
}
"""What the fetcher may say -> whether somebody must change something; of the others the next start may be luckier."""
UNSCHEDULABLE_AFTER_S = 3.0
"""A scheduler that has just begun reports pods as unschedulable which it places a moment later."""


@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a pod. `terminal`: trying again does not help, somebody must change something."""

    reason: Reason
    message: str
    terminal: bool


def is_ready(pod: Manifest) -> bool:
    return _condition(pod, "Ready").get("status") == "True" and not pod["metadata"].get("deletionTimestamp")


def fault(pod: Manifest, now: datetime, memory_limit: str | None = None) -> Fault | None:
    """What is wrong with one pod; None while it is well or still on its way, and of one that was evicted."""
    status = pod.get("status") or {}
    # Containers start again for ever: only the kubelet ends a pod for good, for want of room or of its node.
    if is_ready(pod) or pod["metadata"].get("deletionTimestamp") or status.get("phase") == "Failed":
        return None
    containers = [*(status.get("initContainerStatuses") or []), *(status.get("containerStatuses") or [])]
    faults = (_container_fault(pod, container, memory_limit) for container in containers)
    return next(filter(None, faults), None) or _scheduling_fault(pod, now)


def worst(pods: Iterable[Manifest], now: datetime, memory_limit: str | None = None) -> Fault | None:
    """The fault to show for a set of pods: a terminal one first, then by pod name, so that it does not alternate."""
    found = [(fault(pod, now, memory_limit), pod["metadata"]["name"]) for pod in pods]
    faults = [(not known.terminal, name, known) for known, name in found if known]
    return min(faults, key=lambda entry: entry[:2])[2] if faults else None


def _container_fault(pod: Manifest, container: Manifest, memory_limit: str | None) -> Fault | None:
    waiting = (container.get("state") or {}).get("waiting") or {}
    if reason := WAITING_REASONS.get(waiting.get("reason", "")):
        text = f"pod {pod['metadata']['name']}: {waiting['reason']}: {waiting.get('message', '')}".rstrip(": ")
        return Fault(reason, text, terminal=False)
    end = _end(container, "state") or _end(container, "lastState")
    return _exit_fault(container, end, memory_limit) if end and end.get("exitCode", 0) != 0 else None


def _end(container: Manifest, state: str) -> Manifest | None:
    """How its present or last run ended. What has ended well now is well, whatever was before."""
    return (container.get(state) or {}).get("terminated")


def _exit_fault(container: Manifest, end: Manifest, memory_limit: str | None) -> Fault:
    again = container.get("restartCount", 0) > 0
    if container["name"] == "fetch" and (told := _fetch_fault(end, again=again)):
        return told
    if end.get("reason") == "OOMKilled":
        limit = f" of {memory_limit}" if memory_limit else ""
        text = f"the model needs more memory than its limit{limit}: raise spec.predictor.model.resources.limits.memory"
        return Fault(Reason.OUT_OF_MEMORY, text, terminal=again)
    words = last_line(end.get("message", "")) or f"container {container['name']} ended without a word"
    if reason := EXIT_REASONS.get(end["exitCode"]):
        return Fault(reason, words, terminal=True)
    reason = Reason.FETCH_FAILED if container["name"] == "fetch" else Reason.CRASHED
    return Fault(reason, f"{words} (exit code {end['exitCode']})", terminal=again)


def _fetch_fault(end: Manifest, *, again: bool) -> Fault | None:
    """What the fetcher says of itself, as one JSON object; None: it could not."""
    if end.get("reason") == "OOMKilled":
        return Fault(Reason.FETCH_FAILED, "the fetcher was ended at its own memory limit", terminal=again)
    try:
        told = json.loads(end.get("message") or "")
        reason, words = Reason(told["reason"]), str(told["message"])
    except (ValueError, KeyError, TypeError):
        return None
    if reason not in FETCH_REASONS:
        return None
    return Fault(reason, last_line(words) or "the fetcher ended without a word", terminal=FETCH_REASONS[reason])


_QUOTA = re.compile(r"exceeded quota: \S+, requested: (?:requests[.]|limits[.])?([^=,\s]+)=")
_INSUFFICIENT = re.compile(r"Insufficient ([A-Za-z0-9][A-Za-z0-9./_-]*[A-Za-z0-9])")


def lacking(text: str) -> str:
    """The resource that a scheduler's or a quota's sentence says is used up; empty when it names none.

    Example:
        lacking("0/3 nodes are available: 3 Insufficient nvidia.com/gpu.") -> "nvidia.com/gpu"
    """
    found = _QUOTA.search(text) or _INSUFFICIENT.search(text)
    return found[1] if found else ""


def restarts(pod: Manifest) -> int:
    """Of its containers, together."""
    containers = (pod.get("status") or {}).get("containerStatuses") or []
    return sum(container.get("restartCount", 0) for container in containers)


def unscheduled_in_s(pod: Manifest, now: datetime) -> float | None:
    """Seconds until a pod without a node counts as unschedulable; None when it does already, or has one."""
    left = UNSCHEDULABLE_AFTER_S - age_s(pod, now)
    return left if _is_unscheduled(pod) and left > 0 else None


def _is_unscheduled(pod: Manifest) -> bool:
    return _condition(pod, "PodScheduled").get("reason") == "Unschedulable"


def _scheduling_fault(pod: Manifest, now: datetime) -> Fault | None:
    scheduled = _condition(pod, "PodScheduled")
    if not _is_unscheduled(pod) or age_s(pod, now) < UNSCHEDULABLE_AFTER_S:
        return None
    return Fault(
        Reason.UNSCHEDULABLE, f"no node fits pod {pod['metadata']['name']}: {scheduled.get('message', '')}", False
    )


def age_s(pod: Manifest, now: datetime) -> float:
    created = pod["metadata"].get("creationTimestamp")
    return (now - datetime.fromisoformat(created)).total_seconds() if created else 0.0


def last_line(text: str) -> str:
    """The last line that says something, of at most 500 characters."""
    lines = [line.strip() for line in text.splitlines() if line.strip()]
    return lines[-1][:500] if lines else ""


def _condition(pod: Manifest, kind: str) -> Manifest:
    conditions = (pod.get("status") or {}).get("conditions") or []
    return next((condition for condition in conditions if condition["type"] == kind), {})
