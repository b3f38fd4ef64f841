"""What the rendered roles allow the operator, and whether a call of the fake API server's log is among it."""

from dataclasses import dataclass

from slipway.api.manifest import Manifest
from tests.chart.helm import of_kind
from tests.fake import Call


@dataclass(frozen=True, slots=True, order=True)
class Grant:
    group: str
    resource: str
    """With its subresource: `deployments/scale`."""
    verb: str
    namespace: str
    """Empty: in all of them."""
    names: tuple[str, ...] = ()


def grants(objects: list[Manifest], account: str) -> set[Grant]:
    """Everything the ServiceAccount may do through any binding of the release."""
    roles = {
        (r["kind"], r["metadata"].get("namespace", ""), r["metadata"]["name"]): r
        for r in of_kind(objects, "Role", "ClusterRole")
    }
    found = set()
    for binding in of_kind(objects, "RoleBinding", "ClusterRoleBinding"):
        if account in {subject["name"] for subject in binding["subjects"]}:
            namespace = binding["metadata"].get("namespace", "")
            reference = binding["roleRef"]
            role = roles[reference["kind"], namespace if reference["kind"] == "Role" else "", reference["name"]]
            found |= {grant for rule in role["rules"] for grant in _of_rule(rule, namespace)}
    return found


def _of_rule(rule: Manifest, namespace: str) -> set[Grant]:
    return {
        Grant(group, resource, verb, namespace, tuple(rule.get("resourceNames", ())))
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


def allows(granted: set[Grant], call: Call) -> bool:
    resource = f"{call.resource}/{call.subresource}" if call.subresource else call.resource
    return any(
        (grant.group, grant.resource, grant.verb) == (call.group, resource, call.verb)
        and grant.namespace in {"", call.namespace}
        and (not grant.names or call.name in grant.names)
        for grant in granted
    )
