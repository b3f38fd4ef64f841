"""What the API server refuses: preconditions, immutable fields, names taken; and when it counts a generation."""

from slipway.api.manifest import Manifest
from slipway.kube.errors import Conflict, Invalid
from slipway.kube.kinds import Kind

from .schema import GENERATION

_IMMUTABLE = {"ControllerRevision": ("data",), "Deployment": ("spec", "selector")}
_ALLOCATED = ("clusterIP", "clusterIPs", "ipFamilies", "ipFamilyPolicy")


def check_preconditions(kind: Kind, live: Manifest, body: Manifest, *, subresource: str = "") -> None:
    """A uid or resourceVersion in the body must be the live one; on /status nobody looks at the uid."""
    for field in ("resourceVersion",) if subresource else ("uid", "resourceVersion"):
        asked, found = body["metadata"].get(field), live["metadata"][field]
        if asked and asked != found:
            raise Conflict(f'{kind.plural} "{live["metadata"]["name"]}": {field} {asked} was asked for, is {found}')


def check_apply(body: Manifest) -> None:
    if body["metadata"].get("managedFields"):
        raise Invalid(f'{body["kind"]} "{body["metadata"]["name"]}": metadata.managedFields must be nil')


def keep_server_fields(live: Manifest, body: Manifest) -> Manifest:
    """`body` with the addresses a Service was given, which a PUT without them does not give back."""
    if live["kind"] == "Service" and body["spec"].get("type", "ClusterIP") == live["spec"]["type"]:
        for name in _ALLOCATED:
            if name in live["spec"]:
                body["spec"].setdefault(name, live["spec"][name])
    return body


def validate(kind: Kind, before: Manifest | None, after: Manifest) -> None:
    if before is not None:
        _refuse_change(kind, before, after)
    if after["kind"] == "Deployment":
        _refuse_foreign_selector(after)


def _refuse_change(kind: Kind, before: Manifest, after: Manifest) -> None:
    if path := _IMMUTABLE.get(kind.kind):
        old, new = before, after
        for name in path:
            old, new = old.get(name, {}), new.get(name, {})
        if old != new:
            raise Invalid(f'{kind.kind} "{after["metadata"]["name"]}" is invalid: {".".join(path)}: field is immutable')


def _refuse_foreign_selector(deployment: Manifest) -> None:
    spec = deployment["spec"]
    wanted = spec["selector"].get("matchLabels", {})
    labels = spec["template"].get("metadata", {}).get("labels", {})
    if not wanted or wanted.items() - labels.items():
        raise Invalid(
            f'Deployment "{deployment["metadata"]["name"]}" is invalid: spec.template.metadata.labels: '
            "`selector` does not match template `labels`"
        )


def is_new_generation(kind: Kind, before: Manifest, after: Manifest) -> bool:
    """Whether what the user wants changed; a Deployment's annotations count as such."""
    if kind.kind not in GENERATION:
        return False
    if kind.kind == "Deployment" and _annotations(before) != _annotations(after):
        return True
    return _wish(before) != _wish(after)


def _annotations(obj: Manifest) -> Manifest:
    annotations: Manifest = obj["metadata"].get("annotations", {})
    return annotations


def _wish(obj: Manifest) -> Manifest:
    return {name: value for name, value in obj.items() if name not in {"metadata", "status"}}
