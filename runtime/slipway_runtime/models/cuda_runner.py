"""One instance of a PyTorch model on an NVIDIA GPU: a stream of its own, pinned buffers both ways, graphs per bucket.

    host        gather into pinned buffer          wait for event, split
    stream           └─ copy in ─ compute ─ copy out ─┘

Not tried on a GPU yet; docs/limits.md says so.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from slipway_runtime.engine.job import Call
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.models.torch_program import TORCH_DTYPES, Program
from slipway_runtime.models.torch_runner import TorchRunner, failed
from slipway_runtime.tensors import Array, Rows, TensorSpec


class CudaRunner(TorchRunner):
    """`broken` is why the GPU's context is lost, if it is: then no request can be answered until the process ends."""

    may_run_inline = False  # it waits for the device

    def __init__(
        self,
        program: Program,
        max_batch: int,
        device: torch.device,
        *,
        buckets: Sequence[int] = (),
        learned: Callable[[tuple[TensorSpec, ...]], None] = lambda specs: None,
        in_step: bool = False,
    ) -> None:
        super().__init__(program, max_batch, buckets=buckets, learned=learned, in_step=in_step)
        self.broken = ""
        self._device = device
        self._stream = torch.cuda.Stream(device)  # type: ignore[no-untyped-call]
        self._graphs: dict[tuple[torch.Size, ...], tuple[torch.cuda.CUDAGraph, list[torch.Tensor], Any]] = {}

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if self.broken:
            raise RequestError(Kind.UNAVAILABLE, f"the GPU is lost: {self.broken}")
        with torch.cuda.stream(self._stream):
            return super().run(batch)

    def _note_time(self, began_ns: int, filled_ns: int, ran_ns: int) -> None:
        """The device still computes when the program has returned: what comes after it is mostly waiting for it."""
        self.spent.input_ns += filled_ns - began_ns

    def probe(self, call: Call) -> None:
        """Inputs are always copied to the device, so there is nothing to find out."""

    def close(self) -> None:
        self._graphs.clear()
        super().close()
        torch.cuda.empty_cache()

    def _forward(self, given: list[torch.Tensor]) -> Any:
        try:
            inputs = [tensor.to(self._device, non_blocking=True) for tensor in given]
            return self._replayed(inputs) if self._buckets else self._call(*inputs)
        except Exception as exc:  # the model is foreign code; whatever it raises is this request's answer
            self._note(exc)
            raise failed(exc) from exc

    def _replayed(self, inputs: list[torch.Tensor]) -> Any:
        """The graph of this bucket, captured when it is seen first, which is in the warm-up."""
        key = tuple(tensor.shape for tensor in inputs)
        if key not in self._graphs:
            for _ in range(3):  # the compiler and the libraries choose their kernels outside of a capture
                self._call(*inputs)
            self._stream.synchronize()
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph, stream=self._stream):
                result = self._call(*inputs)
            self._graphs[key] = (graph, inputs, result)
        graph, places, result = self._graphs[key]
        for place, tensor in zip(places, inputs, strict=True):
            if place is not tensor:
                place.copy_(tensor, non_blocking=True)
        graph.replay()
        return result

    def _arrays(self, result: Any, rows: int | None, lent: Sequence[torch.Tensor] = ()) -> list[Array]:
        try:
            return super()._arrays(result, rows, lent)
        except RequestError:
            raise
        except Exception as exc:  # errors of kernels show when somebody waits for them
            self._note(exc)
            raise failed(exc) from exc

    def _plain(self, value: torch.Tensor) -> torch.Tensor:
        """In pinned memory that is the answer's own; torch's allocator keeps such blocks for the next answer."""
        value = value.detach().resolve_neg().contiguous()
        if value.is_cpu:
            return value
        host = torch.empty(value.shape, dtype=value.dtype, pin_memory=True)
        host.copy_(value, non_blocking=True)
        event = torch.cuda.Event()  # type: ignore[no-untyped-call]
        event.record(self._stream)
        event.synchronize()
        return host

    def _allocate(self, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, torch.Tensor]:
        array, tensor = super()._allocate(index, shape, dtype)
        pinned = tensor.pin_memory()
        as_numpy = pinned.view(torch.uint16) if pinned.dtype is TORCH_DTYPES["BF16"] else pinned
        del array
        return as_numpy.numpy(), pinned

    def _note(self, exc: Exception) -> None:
        """An illegal address or a failed assertion on the device ends the context; running out of memory does not."""
        text = str(exc)
        if "CUDA error" in text and not isinstance(exc, torch.cuda.OutOfMemoryError):
            self.broken = text.splitlines()[0][:200]
