"""An API server in memory for tests: `FakeKube` is the operator's view, `FakeKube.store` everybody else's.

    kube = FakeKube(fault=faults.crash_after(3))
    kube.store.watch(lambda event, kind, obj: ...)       # events in the order of the writes
    kube.store.create(INFERENCE_SERVICE, {...})          # a user's kubectl
    ...                                                  # the operator reconciles through `kube`
    controllers.settle(kube.store, ready=True)           # Deployments get their pods
    controllers.gc(kube.store)                           # what lost its owner goes

It keeps resourceVersion, generation, uid, field ownership, defaults and immutability as a kube-apiserver does;
tests/contract runs the same assertions on both, so that it cannot drift. It does not validate against
schemas, and has no ReplicaSets, EndpointSlices, quotas or admission.
"""

from . import controllers, faults
from .client import FakeKube
from .controllers import Failure
from .faults import Call, Crash, Fault
from .store import Store

__all__ = ["Call", "Crash", "Failure", "FakeKube", "Fault", "Store", "controllers", "faults"]
