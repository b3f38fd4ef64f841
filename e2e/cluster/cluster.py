"""What a cluster is to those who use one, and what a provider of clusters can do."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from .images import Image


@dataclass(frozen=True, slots=True)
class Cluster:
    """What a test or a person needs to work with a running cluster."""

    provider: str
    kubeconfig: Path
    kubectl: Path
    helm: Path
    audit_log: Path | None  # JSON lines of audit.k8s.io/v1; None where the cluster is somebody else's


class Provider(Protocol):
    """What changes the cluster takes the lock (lock.py) and raises `Busy` where somebody else has it."""

    def cluster(self) -> Cluster:
        """The cluster, whether it runs or not."""

    def is_up(self) -> bool:
        """Whether it runs and is well."""

    def up(self) -> None:
        """Make it run; about a second if it does already."""

    def down(self) -> None:
        """Leave nothing of it; fine if there is nothing."""

    def status(self) -> str:
        """One screen for a person."""

    def load(self, images: Iterable[Image]) -> None:
        """Build what is not built yet, and bring to the cluster what it does not have yet; it runs."""
