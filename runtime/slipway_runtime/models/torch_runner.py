"""One instance of a PyTorch model on CPUs: batches in, answers out, and no answer in memory that changes later.

An output is given away as it is only if nobody else can write to it: not if it lies in a buffer of ours, in a tensor
that the model keeps, or in a storage that something else still holds.
"""

from collections.abc import Callable, Iterator, Sequence
from time import perf_counter_ns
from typing import Any

import numpy as np
import torch

from slipway_runtime.engine.job import Call, Spent
from slipway_runtime.errors import Kind, RequestError, cause, invalid
from slipway_runtime.models.gather import Gather, each_pays_alone, split, wrong_rows
from slipway_runtime.models.torch_program import DATATYPES, TORCH_DTYPES, Program
from slipway_runtime.tensors import Array, Rows, TensorSpec

ZERO_COPY_BYTES = 1 << 16  # below this a copy costs less than finding out whether it can be left out
ALIGNMENT = 64
_OF_NUMPY = {
    np.dtype(name): dtype
    for name, dtype in {
        "?": torch.bool,
        "u1": torch.uint8,
        "u2": torch.uint16,
        "u4": torch.uint32,
        "u8": torch.uint64,
        "i1": torch.int8,
        "i2": torch.int16,
        "i4": torch.int32,
        "i8": torch.int64,
        "f2": torch.float16,
        "f4": torch.float32,
        "f8": torch.float64,
    }.items()
}

# How many hold a storage that one tensor holds and one asks for; None: this torch does not say. Both are private.
_holders: Callable[[int], int] | None = getattr(torch._C, "_storage_Use_Count", None)
# torch.inference_mode itself costs 1.5 us per batch, this 0.6.
_inference: Callable[[bool], Any] = getattr(torch._C, "_InferenceMode", torch.inference_mode)
_ALONE = _holders(torch.empty(1).untyped_storage()._cdata) if _holders else 0


class TorchRunner:
    """`learned` is told the outputs of a model that did not say them, once, when its first answer shows them.

    `in_step`: other shards have their part in every batch, so one that fails is not tried again without them.
    """

    may_run_inline = True

    def __init__(
        self,
        program: Program,
        max_batch: int,
        *,
        buckets: Sequence[int] = (),
        learned: Callable[[tuple[TensorSpec, ...]], None] = lambda specs: None,
        in_step: bool = False,
    ) -> None:
        self.spent = Spent()
        self._in_step = in_step
        self._call = program.call
        self._program = program
        self._max_batch = max_batch
        self._buckets = tuple(buckets)
        self._learned = learned
        self._outputs = program.outputs
        self._names = [spec.name for spec in program.outputs]
        self._types = [TORCH_DTYPES.get(spec.datatype) for spec in program.outputs]
        self._own = program.own
        self._private = program.private
        self._zero_copy = False
        self._gather: Gather[torch.Tensor] = Gather(self._allocate, _cut, max_rows=max_batch)
        self._threads = torch.get_num_threads()

    def attach(self) -> None:
        """OpenMP counts threads for each of its callers: one that was not told takes a thread per CPU."""
        torch.set_num_threads(self._threads)

    def run(self, batch: Sequence[Call]) -> Sequence[Rows | RequestError]:
        if self._in_step:
            return self._batch(batch) if self._max_batch else [self._whole(batch[0])]
        if not self._max_batch:
            return [self._alone(call) for call in batch]
        return each_pays_alone(batch, self._batch, self._alone)

    def stream(self, call: Call) -> Iterator[Rows]:
        """A PyTorch program gives one answer."""
        answer = self._alone(call)
        if isinstance(answer, RequestError):
            raise answer
        yield answer

    def close(self) -> None:
        self._gather.clear()

    def probe(self, call: Call) -> None:
        """Find out with a request of our own whether the model writes into its inputs; if not, some need no copy.

        Raises:
            RequestError: the model fails.
        """
        if self._in_step:
            return  # they all read the same inputs, which are copied therefore
        before = [array.tobytes() for array in call.inputs]
        given = [self._tensor(index, array) for index, array in enumerate(call.inputs)]
        with _inference(True):
            self._arrays(self._forward(given), call.rows)
        self._zero_copy = all(array.tobytes() == was for array, was in zip(call.inputs, before, strict=True))

    def _alone(self, call: Call) -> Rows | RequestError:
        try:
            if self._max_batch:
                (answer,) = self._batch([call])
                return answer
            return self._whole(call)
        except RequestError as error:
            return error

    def _whole(self, call: Call) -> list[Array]:
        """For a model that does not batch."""
        began_ns = perf_counter_ns()
        with _inference(True):
            given = self._gather.fill_one(call)
            filled_ns = perf_counter_ns()
            result = self._forward(given)
            ran_ns = perf_counter_ns()
            outputs = self._arrays(result, None)
        self._note_time(began_ns, filled_ns, ran_ns)
        return outputs

    def _batch(self, batch: Sequence[Call]) -> list[Rows | RequestError]:
        began_ns = perf_counter_ns()
        rows = sum([call.rows for call in batch]) if len(batch) > 1 else batch[0].rows
        padded = self._bucket(rows) if self._buckets else rows
        given = None
        if self._zero_copy and len(batch) == 1 and padded == rows:
            given = self._in_place(batch[0].inputs)
        with _inference(True):
            inputs = given or self._gather.fill(batch, rows, padded)
            filled_ns = perf_counter_ns()
            result = self._forward(inputs)
            ran_ns = perf_counter_ns()
            if given is not None and any(tensor._version for tensor in given):
                self._zero_copy = False
            outputs = self._arrays(result, padded, lent=given or ())
        if padded != rows:
            outputs = [output[:rows] for output in outputs]
        answers = split(batch, outputs)
        self._note_time(began_ns, filled_ns, ran_ns)
        return answers

    def _note_time(self, began_ns: int, filled_ns: int, ran_ns: int) -> None:
        self.spent.input_ns += filled_ns - began_ns
        self.spent.output_ns += perf_counter_ns() - ran_ns

    def _forward(self, given: list[torch.Tensor]) -> Any:
        try:
            return self._call(*given)
        except RequestError:
            raise
        except Exception as exc:  # the model is foreign code; whatever it raises is this request's answer
            raise failed(exc) from exc

    def _bucket(self, rows: int) -> int:
        return next(size for size in self._buckets if size >= rows)

    def _in_place(self, inputs: Rows) -> list[torch.Tensor] | None:
        """The inputs where they are, if all are large, may be written to (torch asks for that) and lie well."""
        for array in inputs:
            if array.nbytes < ZERO_COPY_BYTES or not array.flags.writeable or not array.flags.c_contiguous:
                return None
        given = [self._tensor(index, array) for index, array in enumerate(inputs)]
        return None if any(tensor.data_ptr() % ALIGNMENT for tensor in given) else given

    def _tensor(self, index: int, array: Array) -> torch.Tensor:
        tensor = torch.from_numpy(array)
        return tensor.view(torch.bfloat16) if self._datatype(index) == "BF16" else tensor

    def _datatype(self, index: int) -> str:
        specs = self._program.inputs
        return specs[index].datatype if index < len(specs) else ""

    def _allocate(self, index: int, shape: tuple[int, ...], dtype: np.dtype[Any]) -> tuple[Array, torch.Tensor]:
        """Control inputs come after the model's own and are not in its signature: their dtype is the array's."""
        datatype = self._datatype(index)
        wanted = TORCH_DTYPES.get(datatype) or _OF_NUMPY.get(dtype)
        if wanted is None:
            raise invalid("a tensor has datatype BYTES, which a PyTorch model cannot take")
        tensor = torch.empty(shape, dtype=wanted)
        return (tensor.view(torch.uint16) if datatype == "BF16" else tensor).numpy(), tensor

    def _arrays(self, result: Any, rows: int | None, lent: Sequence[torch.Tensor] = ()) -> list[Array]:
        """The outputs in the order of the signature, as arrays that belong to nobody else. `rows` None = any.

        `lent` are inputs in the memory of the request, which is not ours to give away.
        """
        if type(result) is torch.Tensor:
            if len(self._types) == 1 and not lent:  # most models
                return [self._array(0, result, rows)]
            values = [result]
        else:
            values = self._ordered(result)
        if not self._outputs:
            self._learn(values)
        if len(values) != len(self._types):
            raise RequestError(
                Kind.INTERNAL, f"the model gave {len(values)} outputs, its config names {len(self._types)}"
            )
        arrays = [self._array(index, value, rows) for index, value in enumerate(values)]
        for tensor in lent:
            start, end = tensor.data_ptr(), tensor.data_ptr() + tensor.nbytes
            for index, array in enumerate(arrays):
                if start <= array.ctypes.data < end:
                    arrays[index] = array.copy()
        return arrays

    def _array(self, index: int, value: torch.Tensor, rows: int | None) -> Array:
        wanted = self._types[index]
        if value.dtype is not wanted:
            datatype = DATATYPES.get(value.dtype, str(value.dtype))
            raise RequestError(
                Kind.INTERNAL,
                f"the model gave output '{self._names[index]}' as {datatype}, which is {self._outputs[index].datatype} "
                "by its config or, without one, by its first answer",
            )
        if rows is not None and (not value.ndim or value.shape[0] != rows):
            raise wrong_rows(self._names[index], value.shape, rows)
        value = self._plain(value)
        if self._is_shared(value):
            value = value.clone()
        return (value.view(torch.uint16) if wanted is torch.bfloat16 else value).numpy()

    def _plain(self, value: torch.Tensor) -> torch.Tensor:
        """On the CPU, row-major, without a gradient or a pending minus sign."""
        if value.requires_grad or value.is_neg() or not value.is_cpu or not value.is_contiguous():
            value = value.detach().cpu().resolve_neg().contiguous()
        return value

    def _is_shared(self, value: torch.Tensor) -> bool:
        if self._private or _holders is None:
            return True
        storage = value.untyped_storage()
        address = storage.data_ptr()
        return (
            _holders(storage._cdata) > _ALONE
            or value._use_count() > 1
            or address in self._own
            or address in self._gather.addresses
        )

    def _ordered(self, result: Any) -> list[torch.Tensor]:
        """The tensors of a result; in the order of the config if they have its names, else as they come."""
        leaves = list(_leaves(result, ""))
        if not self._outputs:
            self._learn([value for _, value in leaves], [key for key, _ in leaves])
        keyed = dict(leaves)
        if len(keyed) > 1 and all(name in keyed for name in self._names):
            return [keyed[name] for name in self._names]
        return [value for _, value in leaves]

    def _learn(self, values: Sequence[torch.Tensor], keys: Sequence[str] = ()) -> None:
        names = [key or f"OUTPUT__{index}" for index, key in enumerate(keys or [""] * len(values))]
        for name, value in zip(names, values, strict=True):
            if value.dtype not in DATATYPES:
                raise RequestError(Kind.INTERNAL, f"output '{name}' is {value.dtype}, which the protocol cannot carry")
        shape = None if not self._max_batch else (-1,)
        self._outputs = tuple(
            TensorSpec(name, DATATYPES[value.dtype], shape and (-1,) * value.ndim)
            for name, value in zip(names, values, strict=True)
        )
        self._names = names
        self._types = [value.dtype for value in values]
        self._learned(self._outputs)


def failed(exc: Exception) -> RequestError:
    """What a model's exception is to its request."""
    if isinstance(exc, AssertionError) and "Guard failed" in str(exc):
        return invalid(f"the input is outside of what the model was exported for: {cause(exc)}")
    return RequestError(Kind.INTERNAL, f"the model failed: {cause(exc)}")


def _cut(tensor: torch.Tensor, rows: int) -> torch.Tensor:
    return tensor[:rows]


def _leaves(result: Any, key: str) -> Iterator[tuple[str, torch.Tensor]]:
    """The tensors of a result in order, with their key where they stand in a dict."""
    if isinstance(result, torch.Tensor):
        yield key, result
    elif isinstance(result, dict):
        for name, value in result.items():
            yield from _leaves(value, str(name))
    elif isinstance(result, tuple | list):
        for value in result:
            yield from _leaves(value, "")
    else:
        raise RequestError(Kind.INTERNAL, f"the model gave a {type(result).__name__} where tensors are served")
