"""KServe's Python server: V2 by REST, with binary tensors, and gRPC. It has no batcher of its own."""

import torch
from common import GRPC_PORT, HTTP_PORT, NAME, load
from kserve import InferOutput, InferRequest, InferResponse, Model, ModelServer
from kserve.utils.utils import generate_uuid


class Served(Model):
    def __init__(self) -> None:
        super().__init__(NAME)
        self.model = load()
        self.ready = True

    def predict(self, payload: InferRequest, headers=None, response_headers=None) -> InferResponse:
        x = payload.inputs[0].as_numpy()
        with torch.inference_mode():
            y = self.model(torch.tensor(x, dtype=torch.float32)).numpy()
        output = InferOutput(name="y", shape=list(y.shape), datatype="FP32", data=y)
        if payload.from_grpc:
            output.set_data_from_numpy(y, binary_data=True)
        return InferResponse(
            response_id=payload.id or generate_uuid(),
            model_name=self.name,
            infer_outputs=[output],
            use_binary_outputs=payload.use_binary_outputs,
            requested_outputs=payload.request_outputs,
        )


if __name__ == "__main__":
    server = ModelServer(http_port=HTTP_PORT, grpc_port=GRPC_PORT, workers=1, enable_latency_logging=False)
    server.start([Served()])
