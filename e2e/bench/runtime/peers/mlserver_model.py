"""MLServer: V2 by REST and gRPC."""

import numpy as np
import torch
from common import load
from mlserver import MLModel
from mlserver.codecs import NumpyCodec
from mlserver.types import InferenceRequest, InferenceResponse


class Served(MLModel):
    async def load(self) -> bool:
        self.model = load()
        return True

    async def predict(self, payload: InferenceRequest) -> InferenceResponse:
        x = NumpyCodec.decode_input(payload.inputs[0])
        with torch.inference_mode():
            y = self.model(torch.tensor(np.asarray(x), dtype=torch.float32)).numpy()
        output = NumpyCodec.encode_output("y", y)
        return InferenceResponse(model_name=self.name, model_version=self.version, outputs=[output])
