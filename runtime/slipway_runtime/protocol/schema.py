"""The messages of Triton's gRPC service, by tritonclient's generated classes, so that both sides share one schema.

`import tritonclient.grpc` imports grpcio, which our own server does not need: 12 MiB and a tenth of a second. So the
generated modules are imported under their own names, but with an empty package above them, which is taken away again.
Whoever imports the real package later finds the same classes in it.
"""

import importlib
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import tritonclient

_PACKAGE = "tritonclient.grpc"


def _generated() -> tuple[Any, Any]:
    stands_in = _PACKAGE not in sys.modules
    if stands_in:
        package = ModuleType(_PACKAGE)
        package.__path__ = [str(Path(root) / "grpc") for root in tritonclient.__path__]
        sys.modules[_PACKAGE] = package
    try:
        return importlib.import_module(f"{_PACKAGE}.service_pb2"), importlib.import_module(
            f"{_PACKAGE}.model_config_pb2"
        )
    finally:
        if stands_in:
            del sys.modules[_PACKAGE]


pb, config_pb = _generated()
