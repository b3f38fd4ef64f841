"""Envoy's messages: JSON dicts to bytes, and the discovery service's own request and response.

One pool of descriptors beside protobuf's own, from `xds.binpb` (see `xdsgen.py`): nothing of it meets other packages'
messages of the same names. What Envoy would refuse as unknown is refused here already, with the field's name.
"""

import functools
import zlib
from enum import StrEnum
from pathlib import Path
from typing import Any

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

from slipway.api.manifest import Manifest
from slipway.gateway.wire import Encoder

_DESCRIPTORS = Path(__file__).with_name("xds.binpb")
_PREFIX = "type.googleapis.com/"
SERVICE = "envoy.service.discovery.v3.AggregatedDiscoveryService"
METHOD = "DeltaAggregatedResources"


class Kind(StrEnum):
    """The types of resources, in the order in which additions leave; removals leave in reverse."""

    CLUSTER = _PREFIX + "envoy.config.cluster.v3.Cluster"
    ENDPOINTS = _PREFIX + "envoy.config.endpoint.v3.ClusterLoadAssignment"
    ROUTES = _PREFIX + "envoy.config.route.v3.RouteConfiguration"
    SCOPE = _PREFIX + "envoy.config.route.v3.ScopedRouteConfiguration"


def encode(kind: Kind, resource: Manifest) -> bytes:
    """The message of a JSON dict (names in either case; the `@type` of the outermost counts for nothing).

    Raises:
        Malformed: says which field.
    """
    return _encoder().message(kind.removeprefix(_PREFIX))(resource)


def request_class() -> Any:
    return message_class("envoy.service.discovery.v3.DeltaDiscoveryRequest")


def response_class() -> Any:
    return message_class("envoy.service.discovery.v3.DeltaDiscoveryResponse")


@functools.cache
def message_class(name: str) -> Any:
    """Of one of the messages that `xdsgen` kept, by its full name."""
    return message_factory.GetMessageClass(_pool().FindMessageTypeByName(name))


@functools.cache
def _encoder() -> Encoder:
    return Encoder(_pool())


@functools.cache
def _pool() -> Any:
    whole = descriptor_pb2.FileDescriptorSet.FromString(zlib.decompress(_DESCRIPTORS.read_bytes()))
    pool: Any = descriptor_pool.DescriptorPool()
    for file in whole.file:
        pool.AddSerializedFile(file.SerializeToString())
    return pool
