"""Which requests fit a model, and the sentences for those that do not."""

import numpy as np
import pytest

from slipway_runtime.engine.signature import Signature, check_outputs, chosen, datatype_of
from slipway_runtime.errors import Kind, RequestError
from slipway_runtime.tensors import DTYPES, InferRequest, Metadata, OutputChoice, Tensor, TensorSpec

INPUTS = (TensorSpec("x", "FP32", (-1, 2)), TensorSpec("n", "INT64", (-1, 1)))


def signature(*inputs: TensorSpec, max_batch: int = 4) -> Signature:
    return Signature(Metadata("test", inputs or INPUTS, (), max_batch), "m")


def tensor(name: str, datatype: str, *shape: int) -> Tensor:
    return Tensor(name, datatype, np.zeros(shape, object if datatype == "BYTES" else DTYPES[datatype]))


def x(*shape: int, datatype: str = "FP32", name: str = "x") -> Tensor:
    return tensor(name, datatype, *(shape or (1, 2)))


def n(*shape: int) -> Tensor:
    return tensor("n", "INT64", *(shape or (1, 1)))


def test_bf16_is_refused_where_nobody_knows_that_the_model_takes_it() -> None:
    """Its bits are those of UINT16: it would be read as that, and be in one batch with it."""
    given = tensor("x", "BF16", 1, 2)
    with pytest.raises(RequestError, match="the bits would be read as UINT16; write the input into its config"):
        signature(TensorSpec("x")).fit([given])
    assert signature(TensorSpec("x", "BF16", (-1, 2))).fit([given])[1] == 1
    assert signature(TensorSpec("x")).fit([tensor("x", "UINT16", 1, 2)])[1] == 1


@pytest.mark.parametrize("rows", [1, 4])
def test_what_fits_is_passed_on_as_it_is(rows: int) -> None:
    given = [x(rows, 2), n(rows, 1)]
    found, size = signature().fit(given)
    assert size == rows
    assert all(data is tensor.data for data, tensor in zip(found, given, strict=True))


def test_inputs_may_come_in_any_order() -> None:
    given = [n(2, 1), x(2, 2)]
    found, size = signature().fit(given)
    assert size == 2
    assert [data.shape for data in found] == [(2, 2), (2, 1)]


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        pytest.param([x()], "expected 2 inputs but got 1 inputs for model 'm'", id="one missing"),
        pytest.param([x()], "missing required input(s) ['n']", id="which is missing"),
        pytest.param([], "expected 2 inputs but got 0 inputs for model 'm'", id="none"),
        pytest.param([x(), n(), x(name="z")], "unexpected inference input 'z' for model 'm'", id="extra"),
        pytest.param([x(), x(), n()], "an input is given twice for model 'm'", id="twice"),
        pytest.param([x(), n(), n()], "an input is given twice for model 'm'", id="twice at the end"),
        pytest.param([x(datatype="FP64"), n()], "'FP64', but model 'm' expects 'FP32'", id="datatype"),
        pytest.param([x(datatype="BYTES"), n()], "'BYTES', but model 'm' expects 'FP32'", id="strings"),
        pytest.param([x(2, 1), n(2, 1)], "Expected [-1, 2], got [2, 1]", id="shape"),
        pytest.param([x(2), n()], "unexpected shape for input 'x' for model 'm'", id="dimensions"),
        pytest.param([x(1, 2, 1), n()], "Expected [-1, 2], got [1, 2, 1]", id="more dimensions"),
        pytest.param([x(5, 2), n(5, 1)], "batch-size must be <= 4 for 'm' and at least 1, got 5", id="batch"),
        pytest.param([x(0, 2), n(0, 1)], "at least 1, got 0", id="empty batch"),
        pytest.param([x(), n(2, 1)], "different batch sizes [1, 2]", id="uneven batch"),
    ],
)
def test_what_does_not_fit_is_refused(given: list[Tensor], sentence: str) -> None:
    with pytest.raises(RequestError) as caught:
        signature().fit(given)
    assert caught.value.kind is Kind.INVALID
    assert sentence in caught.value.message


def test_a_scalar_does_not_fit_any_shape() -> None:
    with pytest.raises(RequestError, match=r"Expected \[-1, 2\], got \[\]"):
        signature().fit([Tensor("x", "FP32", np.zeros((), np.float32)), n()])


def test_a_scalar_for_a_model_that_batches_and_takes_any_shape_is_refused() -> None:
    with pytest.raises(RequestError, match="have a first dimension, that of the batch; got a scalar") as caught:
        signature(TensorSpec("x")).fit([Tensor("x", "FP32", np.zeros((), np.float32))])
    assert caught.value.kind is Kind.INVALID


@pytest.mark.parametrize("given", [x(3, 5), x(1, datatype="FP64"), x(2, 2, 2, datatype="INT8")])
def test_what_a_model_leaves_open_may_be_anything(given: Tensor) -> None:
    found, size = signature(TensorSpec("x")).fit([given])
    assert found[0] is given.data
    assert size == given.data.shape[0]


def test_without_batching_a_request_is_one_row_whatever_its_shape() -> None:
    fixed = signature(TensorSpec("x", "FP32", (3, 2)), max_batch=0)
    assert fixed.fit([x(3, 2)])[1] == 1
    with pytest.raises(RequestError, match=r"Expected \[3, 2\], got \[4, 2\]"):
        fixed.fit([x(4, 2)])
    assert signature(TensorSpec("x"), max_batch=0).fit([Tensor("x", "FP32", np.zeros((), np.float32))])[1] == 1
    assert signature(TensorSpec("x", "FP32", ()), max_batch=0).fit([Tensor("x", "FP32", np.float32(1))])[1] == 1  # type: ignore[arg-type]


def test_a_model_without_inputs_takes_requests_without_any() -> None:
    without = Signature(Metadata("test", (), (), 4), "m")
    assert without.fit([]) == ([], 1)
    assert without.key([]) == without.key([])


def key(of: Signature, *tensors: Tensor) -> object:
    return of.key(of.fit(tensors)[0])


def test_requests_of_a_model_whose_shapes_are_fixed_all_go_together() -> None:
    assert key(signature(), x(1, 2), n(1, 1)) == key(signature(), n(3, 1), x(3, 2))


@pytest.mark.parametrize(
    "spec", [TensorSpec("x"), TensorSpec("x", "FP32", (-1, -1)), TensorSpec("x", "", (-1, -1)), TensorSpec("x", "FP32")]
)
def test_requests_go_together_when_all_but_the_batch_is_equal(spec: TensorSpec) -> None:
    open_ = signature(spec)
    assert key(open_, x(1, 2)) == key(open_, x(4, 2)) != key(open_, x(4, 3))
    if not spec.datatype:
        assert key(open_, x(1, 2)) != key(open_, x(1, 2, datatype="FP64"))


def test_without_batching_nothing_has_to_go_together() -> None:
    one = signature(TensorSpec("x"), max_batch=0)
    assert key(one, x(1, 2)) == key(one, x(7, datatype="FP64"))


def test_outputs_are_checked_and_chosen_in_the_order_asked() -> None:
    outputs = [x(name="a"), x(name="b"), x(name="c")]
    names = [output.name for output in outputs]

    def ask(*asked: str) -> list[OutputChoice]:
        return [OutputChoice(name, binary=True) for name in asked]

    check_outputs(ask("c", "a"), names, "m")
    assert [t.name for t in chosen(outputs, InferRequest([], outputs=ask("c", "a")))] == ["c", "a"]
    assert chosen(outputs, InferRequest([])) is outputs
    with pytest.raises(RequestError, match="unexpected inference output 'z' for model 'm', it gives"):
        check_outputs(ask("a", "z"), names, "m")
    with pytest.raises(RequestError, match="an output is asked for twice of model 'm'"):
        check_outputs(ask("a", "a"), names, "m")


@pytest.mark.parametrize("datatype", [name for name in DTYPES if name != "BF16"] + ["BYTES"])
def test_an_outputs_datatype_follows_from_its_array(datatype: str) -> None:
    assert datatype_of(tensor("y", datatype, 1).data) == datatype


def test_an_array_the_protocol_cannot_carry_is_the_models_fault() -> None:
    with pytest.raises(RequestError, match="a tensor of complex64, which the protocol cannot carry") as caught:
        datatype_of(np.zeros(1, np.complex64))
    assert caught.value.kind is Kind.INTERNAL
