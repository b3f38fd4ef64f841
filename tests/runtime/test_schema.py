"""The generated messages without grpcio, and grpcio's users none the worse for it."""

import subprocess
import sys

SCRIPT = """
import sys
from slipway_runtime.protocol import grpc_services, http2_methods
from slipway_runtime.protocol.schema import pb
assert "grpc" not in sys.modules, "grpcio was imported"
assert "tritonclient.grpc" not in sys.modules
import tritonclient.grpc as real
assert real.service_pb2 is pb
assert real.InferInput("x", [1], "FP32")._get_tensor().__class__ is pb.ModelInferRequest.InferInputTensor
assert real.InferenceServerClient("127.0.0.1:1")
"""


def test_our_own_server_does_without_grpcio_and_the_client_has_the_same_classes() -> None:
    subprocess.run([sys.executable, "-c", SCRIPT], check=True, timeout=50)  # noqa: S603
