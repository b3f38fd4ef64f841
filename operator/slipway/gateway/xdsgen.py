"""Writes `xds.binpb`: the descriptors of the Envoy messages the agent sends, from the published package `xds-protos`.

That package itself is no dependency: it owns top-level modules `google`, `opentelemetry`, `validate` and `envoy`, which
belong to other packages of the same environment. Nothing but the agent's messages is kept: 47 kB instead of 16 MB.

    make xds          runs this where xds-protos is installed
"""

import argparse
import importlib
import pkgutil
import sys
import zlib
from collections.abc import Iterator
from pathlib import Path

from google.protobuf import descriptor_pb2, descriptor_pool

TARGET = Path(__file__).with_name("xds.binpb")
CONFIG = ("cluster", "core", "endpoint", "route")
EXTENSIONS = (
    "filters.http.api_key_auth",
    "filters.http.buffer",
    "filters.http.ext_authz",
    "filters.http.header_mutation",
    "filters.http.jwt_authn",
    "filters.http.local_ratelimit",
    "filters.http.lua",
    "filters.http.rbac",
    "filters.http.set_filter_state",
    "load_balancing_policies.client_side_weighted_round_robin",
    "load_balancing_policies.common",
    "load_balancing_policies.least_request",
    "load_balancing_policies.random",
    "load_balancing_policies.round_robin",
    "retry.host.previous_hosts",
    "upstreams.http",
)
"""What a cluster or a route may carry. Listeners come with the bootstrap, which Envoy reads itself."""


ROUTES = "envoy/config/route/v3/route_components.proto"


def add_cookies(file: descriptor_pb2.FileDescriptorProto) -> None:
    """A match of cookies is Envoy 1.40's, and younger than the published protos."""
    field = descriptor_pb2.FieldDescriptorProto
    texts, message = ".envoy.type.matcher.v3.StringMatcher", field.TYPE_MESSAGE
    matcher = file.message_type.add(name="CookieMatcher")
    matcher.field.add(name="name", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL, json_name="name")
    matcher.field.add(
        name="string_match",
        number=2,
        type=message,
        type_name=texts,
        label=field.LABEL_OPTIONAL,
        json_name="stringMatch",
    )
    route = next(one for one in file.message_type if one.name == "RouteMatch")
    route.field.add(
        name="cookies",
        number=17,
        type=message,
        type_name=".envoy.config.route.v3.CookieMatcher",
        label=field.LABEL_REPEATED,
        json_name="cookies",
    )


def packages() -> Iterator[str]:
    """Modules of messages that must be known; what they refer to follows by itself."""
    yield "envoy.service.auth.v3"
    yield "envoy.service.discovery.v3"
    yield "xds.type.matcher.v3"
    yield "xds.type.v3"
    for name in CONFIG:
        yield f"envoy.config.{name}.v3"
    for name in EXTENSIONS:
        yield f"envoy.extensions.{name}.v3"


def collect() -> bytes:
    """The files of all `packages` and of what they import, each after those it imports; compressed."""
    files: dict[str, descriptor_pb2.FileDescriptorProto] = {}
    pool = descriptor_pool.Default()

    def add(name: str) -> None:
        if name in files:
            return
        found = pool.FindFileByName(name)
        for dependency in found.dependencies:
            add(dependency.name)
        found.CopyToProto(file := descriptor_pb2.FileDescriptorProto())
        file.ClearField("options")
        if name == ROUTES and "CookieMatcher" not in found.message_types_by_name:
            add_cookies(file)
        files[name] = file

    for package in packages():
        folder = importlib.import_module(package)
        for module in pkgutil.iter_modules(folder.__path__):
            if module.name.endswith("_pb2"):
                add(importlib.import_module(f"{package}.{module.name}").DESCRIPTOR.name)
    whole = descriptor_pb2.FileDescriptorSet(file=files.values())
    return zlib.compress(whole.SerializeToString(deterministic=True), 9)


def main() -> int:
    argparse.ArgumentParser(description=__doc__.partition("\n")[0]).parse_args()
    TARGET.write_bytes(found := collect())
    sys.stdout.write(f"{TARGET.name}: {len(found)} bytes\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
