"""One namespace with restricted Pod Security, and what a scenario asks about the services in it."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from e2e.support.api import ApiError, Manifest, path
from e2e.support.manifests import LABEL_REVISION, LABEL_SERVICE, RESTRICTED, client_pod
from e2e.support.site import GATEWAY_SERVICE, SYSTEM, Site
from e2e.support.traffic import Traffic, traffic
from e2e.support.wait import until

MARK = "slipway.dev/e2e"
"""Label of the namespaces that scenarios make, so that a run that was killed can be cleaned up after."""
READY_S = 90
"""A model takes 4 s to load alone, and a dozen of them may load at once on two cores."""
CHILDREN = ("deployments", "services", "poddisruptionbudgets", "controllerrevisions", "networkpolicies")


@dataclass(frozen=True, slots=True)
class Team:
    site: Site
    name: str

    # What people do

    def apply(self, *manifests: Manifest) -> None:
        self.site.apply(*manifests, namespace=self.name)

    def kubectl(self, *argv: str) -> str:
        return self.site.kubectl("--namespace", self.name, *argv)

    def delete_service(self, name: str) -> None:
        self.kubectl("delete", "infsvc", name, "--wait=false")

    # What is

    def get(self, resource: str, name: str) -> Manifest | None:
        return self.site.api.get(resource, self.name, name)

    def must_get(self, resource: str, name: str) -> Manifest:
        found = self.get(resource, name)
        assert found, f"{resource} {name} is not there; there are {self.names(resource)}"
        return found

    def names(self, resource: str) -> list[str]:
        return sorted(item["metadata"]["name"] for item in self.site.api.items(resource, self.name))

    def status(self, service: str) -> Manifest:
        status: Manifest = self.must_get("inferenceservices", service).get("status", {})
        return status

    def condition(self, service: str, kind: str) -> Manifest:
        """The condition as of the newest spec; {} while it is absent or older than that."""
        return condition(self.must_get("inferenceservices", service), kind)

    def pods(self, service: str, revision: str | None = None) -> list[Manifest]:
        selector = f"{LABEL_SERVICE}={service}" + (f",{LABEL_REVISION}={revision}" if revision else "")
        return self.site.api.items("pods", self.name, selector)

    def lives(self, service: str) -> dict[str, tuple[str, int]]:
        """Every pod of a service: name -> (uid, restarts). The same before and after means that none was restarted."""
        return {pod["metadata"]["name"]: (pod["metadata"]["uid"], restarts(pod)) for pod in self.pods(service)}

    def children(self, service: str) -> list[tuple[str, str]]:
        """(resource, name) of everything that bears the service's label."""
        found = [
            (resource, item["metadata"]["name"])
            for resource in (*CHILDREN, "pods")
            for item in self.site.api.items(resource, self.name, f"{LABEL_SERVICE}={service}")
        ]
        return sorted(found)

    def events(self, service: str) -> list[Manifest]:
        """Events about an InferenceService."""
        found = self.site.api.items("events", self.name)
        return [event for event in found if _is_about(event["regarding"], service)]

    # Waiting

    def wait(
        self, service: str, kind: str, status: str = "True", *, reason: str = "", within_s: float = READY_S
    ) -> Manifest:
        """The condition, once it has that status (and reason) for the newest spec."""

        def probe() -> Manifest | None:
            known = self.condition(service, kind)
            fits = known.get("status") == status and reason in ("", known.get("reason"))
            return known if fits else None

        what = f"{kind}={status} {reason} of {self.name}/{service}"
        return until(what, probe, within_s=within_s, seen=lambda: self.digest(service))

    def wait_settled(self, service: str, within_s: float = READY_S) -> Manifest:
        """Ready with all replicas, nothing under way any more; the whole status."""

        def probe() -> Manifest | None:
            live = self.must_get("inferenceservices", service)
            return live["status"] if is_settled(live) else None

        return until(f"{self.name}/{service} is settled", probe, within_s=within_s, seen=lambda: self.digest(service))

    def wait_shares(self, service: str, shares: dict[str, int], within_s: float = READY_S) -> dict[str, str]:
        """Once the gateways serve these weights, by variant, "" being stable: the revision of each."""

        def probe() -> dict[str, str] | None:
            targets = self.status(service).get("routing", {}).get("targets", [])
            weights = {target.get("variant", ""): target["weight"] for target in targets if target["weight"]}
            is_served = self.condition(service, "RoutesReady").get("status") == "True"
            wanted = {name: weight for name, weight in shares.items() if weight}
            return revisions(targets) if weights == wanted and is_served else None

        what = f"{self.name}/{service} is shared out as {shares}"
        return until(what, probe, within_s=within_s, seen=lambda: self.digest(service))

    def wait_gone(self, service: str, within_s: float = 60) -> None:
        until(
            f"{self.name}/{service} and its children are gone",
            lambda: not self.get("inferenceservices", service) and not self.children(service),
            within_s=within_s,
            seen=lambda: self.children(service),
        )

    def digest(self, service: str) -> str:
        """What one wants to read when it did not become what was expected."""
        live = self.get("inferenceservices", service)
        return (
            json.dumps(live.get("status", "no status yet"), indent=1) if live else "there is no such InferenceService"
        )

    # Asking for predictions

    def path_of(self, service: str) -> str:
        """The gateway's path for a service, by way of the API server's proxy: works from outside of any cluster."""
        gateway = f"/api/v1/namespaces/{SYSTEM}/services/http:{GATEWAY_SERVICE}:http/proxy"
        return f"{gateway}/{self.name}/{service}"

    def predict(self, service: str, x: tuple[float, ...] = (1, 2, 3, 4)) -> list[float]:
        """One request through the gateway."""
        return self._ask(f"{self.path_of(service)}/v2/models/{service}/infer", x)

    def answers(self, service: str, offset: int, at: str = "") -> bool:
        """Whether the address leads to sample `hello` (offset 1) or `hello-v2` (101); `at` another of its names."""
        return self._answers(f"{self.path_of(at or service)}/v2/models/{service}/infer", offset)

    def pod_answers(self, service: str, offset: int) -> bool:
        """The same for one of the service's pods, past every gateway."""
        pods = [pod["metadata"]["name"] for pod in self.pods(service) if is_ready(pod)]
        proxy = f"/api/v1/namespaces/{self.name}/pods/{pods[0]}:8080/proxy" if pods else ""
        return bool(pods) and self._answers(f"{proxy}/v2/models/{service}/infer", offset)

    def _answers(self, where: str, offset: int) -> bool:
        try:
            return self._ask(where, (1, 2, 3, 4)) == [2 * x + offset for x in (1, 2, 3, 4)]
        except ApiError:
            return False

    def _ask(self, where: str, x: tuple[float, ...]) -> list[float]:
        tensor = {"name": "x", "shape": [1, len(x)], "datatype": "FP32", "data": list(x)}
        y: list[float] = self.site.api.call("POST", where, {"inputs": [tensor]})["outputs"][0]["data"]
        return y

    def start_client(self, name: str = "client") -> None:
        """A pod for `run_inside` and `traffic`."""
        self.apply(client_pod(name))
        until("the client runs", lambda: is_ready(self.must_get("pods", name)), within_s=60)

    def run_inside(self, script: str, *argv: str) -> str:
        """What a Python script prints in the client pod."""
        return self.kubectl("exec", "client", "--", "python", "-c", script, *argv)

    @contextmanager
    def traffic(self, service: str, rate: float = 50, **more: Any) -> Iterator[Traffic]:
        """Users of a service; `more` as the client's: `through`, `kinds`, `limit_s`."""
        with traffic(self.site, self.name, f"{service}.{self.name}", rate=rate, **more) as flow:
            yield flow


def revisions(targets: list[Manifest]) -> dict[str, str]:
    """Variant, "" being stable -> its revision."""
    return {target.get("variant", ""): target["revision"] for target in targets}


def condition(live: Manifest, kind: str) -> Manifest:
    found = next((c for c in live.get("status", {}).get("conditions", []) if c["type"] == kind), None)
    is_current = found and found.get("observedGeneration") == live["metadata"]["generation"]
    return found if found and is_current else {}


def is_settled(live: Manifest) -> bool:
    status = live.get("status", {})
    return (
        condition(live, "Ready").get("status") == "True"
        and condition(live, "PredictorReady").get("status") == "True"
        and condition(live, "ModelLoaded").get("status") == "True"
        and condition(live, "RoutesReady").get("status") == "True"
        and not status.get("candidate")
        and not any(c["type"] in ("Reconciling", "Stalled") for c in status["conditions"])
        and status.get("rollout", {}).get("phase") == "Healthy"
    )


def is_ready(pod: Manifest) -> bool:
    conditions = pod.get("status", {}).get("conditions", [])
    return any(c["type"] == "Ready" and c["status"] == "True" for c in conditions)


def restarts(pod: Manifest) -> int:
    return sum(container["restartCount"] for container in pod.get("status", {}).get("containerStatuses", []))


def _is_about(regarding: Manifest, service: str) -> bool:
    return regarding.get("kind") == "InferenceService" and regarding.get("name") == service


def make(site: Site, name: str, **labels: str) -> Team:
    metadata: dict[str, Any] = {"name": name, "labels": RESTRICTED | {MARK: "true"} | labels}
    site.api.create("namespaces", {"apiVersion": "v1", "kind": "Namespace", "metadata": metadata})
    # A pod made before its service account is refused once: that is Kubernetes' own race, not ours to test.
    until(
        "the namespace has its service account", lambda: site.api.get("serviceaccounts", name, "default"), within_s=60
    )
    return Team(site, name)


def leftovers(site: Site) -> list[str]:
    """Namespaces of scenarios."""
    return [item["metadata"]["name"] for item in site.api.items("namespaces", selector=MARK)]


def clear(team: Team) -> None:
    """End all that runs, without waiting. The namespace itself waits for the end of the session: deleted while it has
    pods, it would look for them again only after half of their grace period.
    """
    for resource in ("inferenceservices", "deployments", "pods"):
        team.site.api.call("DELETE", path(resource, team.name), {"propagationPolicy": "Background"})


def busy(site: Site) -> list[str]:
    """Pods and services that are still there in the scenarios' namespaces."""
    own = set(leftovers(site))
    found = [item for resource in ("inferenceservices", "pods") for item in site.api.items(resource)]
    return [f"{m['namespace']}/{m['name']}" for m in (item["metadata"] for item in found) if m["namespace"] in own]


def diagnose(team: Team) -> str:
    """What a person would look at first when a scenario failed in this namespace."""

    def ask(*argv: str) -> str:
        done = team.site.try_kubectl("--namespace", team.name, *argv)
        return f"$ kubectl -n {team.name} {' '.join(argv)}\n{done.stdout}{done.stderr}"

    statuses = [f"{name}: {team.digest(name)}" for name in team.names("inferenceservices")[:6]]
    return "\n".join(
        [
            ask("get", "infsvc,deployments,pods,services,endpointslices", "--output=wide"),
            *statuses,
            ask("get", "events", "--sort-by=.lastTimestamp", "--output=custom-columns=T:.lastTimestamp,E:.eventTime,"
                "REASON:.reason,ON:.involvedObject.name,NOTE:.message"),
            ask("logs", "--selector", LABEL_SERVICE, "--all-containers", "--prefix", "--tail=15",
                "--max-log-requests=50"),
        ]
    )  # fmt: skip
