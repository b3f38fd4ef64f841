"""The objects of an in-memory cluster: what the API server and etcd do for one kind at a time.

Synchronous and without faults: the operator under test reaches it through `FakeKube`; tests use it directly
to play everybody else (users, controllers, kubelets). Answers are copies; nobody can edit what is stored.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Literal
from uuid import UUID

from slipway.api.manifest import Manifest
from slipway.kube.errors import AlreadyExists, Conflict, NotFound
from slipway.kube.kinds import Kind

from . import defaults, ownership, rules, selectors
from .fields import copied
from .ownership import Owner, Owners
from .schema import GENERATION, STATUS_SUBRESOURCE

EventType = Literal["ADDED", "MODIFIED", "DELETED"]
Watcher = Callable[[EventType, Kind, Manifest], None]
Name = tuple[str | None, str]
EPOCH = datetime(2026, 1, 1, tzinfo=UTC)


@dataclass(slots=True)
class Stored:
    obj: Manifest
    owners: Owners = field(default_factory=dict)
    managed_fields: list[Manifest] = field(init=False)

    def __post_init__(self) -> None:
        self.managed_fields = ownership.managed_fields(self.owners, self.obj["apiVersion"])


class Store:
    """Objects by kind, namespace and name; one resourceVersion counts every write.

    `now` is the clock of creationTimestamps and moves only when a test moves it.
    """

    def __init__(self) -> None:
        self.now = EPOCH
        self._objects: dict[Kind, dict[Name, Stored]] = {}
        self._watchers: list[Watcher] = []
        self._revision = 1000
        self._serial = 0

    def kinds(self) -> list[Kind]:
        return [*self._objects]

    def watch(self, watcher: Watcher) -> None:
        """Call `watcher` for every later write, in the order of the writes."""
        self._watchers.append(watcher)

    def get(self, kind: Kind, namespace: str | None, name: str) -> Manifest | None:
        stored = self._objects.get(kind, {}).get((namespace, name))
        return _answer(stored) if stored else None

    def list(self, kind: Kind, namespace: str | None = None, *, selector: str = "") -> "list[Manifest]":
        """Objects in order of name; `namespace` None means all of them."""
        matches = selectors.parse(selector)
        return [
            _answer(stored)
            for (where, _), stored in sorted(self._objects.get(kind, {}).items(), key=lambda item: str(item[0]))
            if namespace in (None, where) and matches(stored.obj["metadata"].get("labels", {}))
        ]

    def create(self, kind: Kind, body: Manifest, *, manager: str = "test") -> Manifest:
        """POST: the writer owns every field, defaults included."""
        name = _name(kind, body)
        if name in self._objects.get(kind, {}):
            raise AlreadyExists(f'{kind.plural} "{name[1]}" already exists')
        obj = self._born(kind, body)
        owners = ownership.after_update({}, obj, {}, Owner(manager, "Update"))
        return self._commit(kind, name, Stored(obj, owners), "ADDED")

    def replace(self, kind: Kind, body: Manifest, *, manager: str = "test", subresource: str = "") -> Manifest:
        """PUT: the object becomes the body; a uid or resourceVersion in it must be the live one."""
        live = self._live(kind, _name(kind, body))
        rules.check_preconditions(kind, live.obj, body, subresource=subresource)
        after = rules.keep_server_fields(live.obj, _part(live.obj, body, subresource))
        return self._update(kind, live, after, Owner(manager, "Update", subresource))

    def edit(
        self,
        kind: Kind,
        namespace: str | None,
        name: str,
        change: Callable[[Manifest], object],
        *,
        manager: str = "kubectl-edit",
        subresource: str = "",
    ) -> Manifest:
        """Read, let `change` alter the copy, and replace: what a person or a controller does by hand."""
        body = _answer(self._live(kind, (namespace, name)))
        change(body)
        return self.replace(kind, body, manager=manager, subresource=subresource)

    def apply(self, kind: Kind, body: Manifest, *, manager: str, subresource: str = "") -> Manifest:
        """Server-side apply by force; creates what is missing unless the body says which uid it means."""
        rules.check_apply(body)
        name = _name(kind, body)
        stored = self._objects.get(kind, {}).get(name)
        writer = Owner(manager, "Apply", subresource)
        if stored is None:
            return self._apply_new(kind, name, body, writer)
        rules.check_preconditions(kind, stored.obj, body, subresource=subresource)
        part = _without_nulls(_only(body, subresource) if subresource else _without_status(body))
        merged, owners = ownership.after_apply(stored.obj, part, stored.owners, writer)
        merged["metadata"] = {**merged["metadata"], **_identity(stored.obj)}
        return self._store_if_changed(kind, stored, merged, owners)

    def scale(self, kind: Kind, namespace: str, name: str, replicas: int, *, manager: str) -> None:
        """Merge patch on the scale subresource."""
        live = self._live(kind, (namespace, name))
        after = copied(live.obj)
        after["spec"]["replicas"] = replicas
        self._update(kind, live, after, Owner(manager, "Update", "scale"))

    def delete(self, kind: Kind, namespace: str | None, name: str, *, uid: str = "") -> None:
        """DELETE with background propagation; `uid`, where given, is a precondition."""
        live = self._live(kind, (namespace, name))
        if uid and live.obj["metadata"]["uid"] != uid:
            raise Conflict(f'{kind.plural} "{name}": the UID in the precondition ({uid}) is not the live one')
        if live.obj["metadata"].get("finalizers"):
            after = copied(live.obj)
            after["metadata"].setdefault("deletionTimestamp", self._time())
            self._store_if_changed(kind, live, after, live.owners)
        else:
            self._forget(kind, live)

    def _apply_new(self, kind: Kind, name: Name, body: Manifest, writer: Owner) -> Manifest:
        if writer.subresource:
            raise NotFound(f'{kind.plural} "{name[1]}" not found')
        if uid := body["metadata"].get("uid"):
            raise Conflict(f'{kind.plural} "{name[1]}": uid {uid} was asked for, and no object was found')
        body = _without_nulls(_without_status(body))
        owners = ownership.after_apply({}, body, {}, writer)[1]
        return self._commit(kind, name, Stored(self._born(kind, body), owners), "ADDED")

    def _born(self, kind: Kind, body: Manifest) -> Manifest:
        self._serial += 1
        obj = copied(body)
        if kind.kind in STATUS_SUBRESOURCE:
            obj.pop("status", None)
        obj["metadata"] = {name: value for name, value in obj["metadata"].items() if name not in _SERVER_SET}
        obj["metadata"] |= {"uid": str(UUID(int=self._serial)), "creationTimestamp": self._time()}
        if kind.kind in GENERATION:
            obj["metadata"]["generation"] = 1
        defaults.complete(obj, self._serial)
        rules.validate(kind, None, obj)
        return obj

    def _update(self, kind: Kind, live: Stored, after: Manifest, writer: Owner) -> Manifest:
        defaults.complete(after, self._serial)
        owners = ownership.after_update(live.obj, after, live.owners, writer)
        return self._store_if_changed(kind, live, after, owners)

    def _store_if_changed(self, kind: Kind, live: Stored, after: Manifest, owners: Owners) -> Manifest:
        defaults.complete(after, self._serial)
        owners = ownership.still_existing(after, owners)
        if after == live.obj and owners == live.owners:
            return _answer(live)
        rules.validate(kind, live.obj, after)
        if rules.is_new_generation(kind, live.obj, after):
            after["metadata"]["generation"] = live.obj["metadata"]["generation"] + 1
        stored = Stored(after, owners)
        if after["metadata"].get("deletionTimestamp") and not after["metadata"].get("finalizers"):
            return self._forget(kind, stored)
        return self._commit(kind, _name(kind, after), stored, "MODIFIED")

    def _commit(self, kind: Kind, name: Name, stored: Stored, event: EventType) -> Manifest:
        self._revision += 1
        stored.obj["metadata"]["resourceVersion"] = str(self._revision)
        self._objects.setdefault(kind, {})[name] = stored
        self._tell(event, kind, stored)
        return _answer(stored)

    def _forget(self, kind: Kind, stored: Stored) -> Manifest:
        del self._objects[kind][_name(kind, stored.obj)]
        self._revision += 1
        # The last event carries the version of the deletion, as the server's does.
        gone = Stored(copied(stored.obj), stored.owners)
        gone.obj["metadata"]["resourceVersion"] = str(self._revision)
        self._tell("DELETED", kind, gone)
        return _answer(gone)

    def _tell(self, event: EventType, kind: Kind, stored: Stored) -> None:
        for watcher in self._watchers:
            watcher(event, kind, _answer(stored))

    def _live(self, kind: Kind, name: Name) -> Stored:
        stored = self._objects.get(kind, {}).get(name)
        if stored is None:
            raise NotFound(f'{kind.plural} "{name[1]}" not found')
        return stored

    def _time(self) -> str:
        return self.now.strftime("%Y-%m-%dT%H:%M:%SZ")


_SERVER_SET = {
    "creationTimestamp",
    "deletionTimestamp",
    "generation",
    "managedFields",
    "resourceVersion",
    "uid",
}


def _name(kind: Kind, body: Manifest) -> Name:
    return (body["metadata"]["namespace"] if kind.namespaced else None, body["metadata"]["name"])


def _answer(stored: Stored) -> Manifest:
    obj: Manifest = copied(stored.obj)
    obj["metadata"]["managedFields"] = copied(stored.managed_fields)
    return obj


def _identity(obj: Manifest) -> Manifest:
    return {name: obj["metadata"][name] for name in _SERVER_SET if name in obj["metadata"]}


def _part(live: Manifest, body: Manifest, subresource: str) -> Manifest:
    """What a PUT of `body` means for the whole object: status only through /status, the rest only without."""
    source, target = (body, live) if subresource else (live, body)
    after = copied({name: value for name, value in target.items() if name != "status"})
    after["metadata"].pop("managedFields", None)
    after["metadata"] |= _identity(live)
    if live["kind"] not in STATUS_SUBRESOURCE:
        return after
    return after | ({"status": copied(source["status"])} if "status" in source else {})


def _only(body: Manifest, subresource: str) -> Manifest:
    return {subresource: body.get(subresource, {})}


def _without_status(body: Manifest) -> Manifest:
    return {name: value for name, value in body.items() if name != "status" or body["kind"] not in STATUS_SUBRESOURCE}


def _without_nulls(value: Manifest) -> Manifest:
    """A null in an applied body says nothing about the field."""
    return {
        name: _without_nulls(child) if isinstance(child, dict) else child
        for name, child in value.items()
        if child is not None
    }
