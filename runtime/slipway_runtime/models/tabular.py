"""Models that take rows of features: one input with all of them, or one for each column. Imports no library of theirs.

    x: FP32[-1, 4]                                all features
    age: INT64[-1, 1], city: BYTES[-1, 1], ...    columns, where the config or what lies beside the model names them

Outputs are named after what the model is asked for: `predict`, and where a config names them `predict_proba`, `margin`
and others.
"""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from slipway_runtime.errors import BadConfig, BadModel, RequestError, cause
from slipway_runtime.models import warmup
from slipway_runtime.models.artifacts import Artifact
from slipway_runtime.models.estimators import Estimator, text_of
from slipway_runtime.models.session_runner import decoded
from slipway_runtime.tensors import DTYPES, Array, Metadata, TensorSpec

INPUT = "x"
_FAMILIES = {"f": "f", "i": "iuf", "u": "iuf", "b": "biuf", "O": "O"}
"""Kind of numpy's types -> kinds that hold it."""
_DATATYPES = {dtype: name for name, dtype in DTYPES.items() if name != "BF16"}


class TabularSession:
    """Answers by name, as the sessions of onnxruntime do."""

    def __init__(self, estimator: Estimator, inputs: Sequence[TensorSpec], outputs: Sequence[TensorSpec] = ()) -> None:
        self._estimator = estimator
        self._inputs = inputs
        self._outputs = {spec.name: spec for spec in outputs}
        self._order = _order(estimator, inputs)

    def run(self, names: Sequence[str], feeds: Mapping[str, Array]) -> list[Array]:
        table = self._table(feeds)
        return [self._answer(name, table) for name in names]

    def _answer(self, name: str, table: Any) -> Array:
        values: Array = text_of(self._estimator.methods[name](table))
        if (spec := self._outputs.get(name)) is None:
            return values
        if values.ndim == 1 and spec.shape is not None and len(spec.shape) > 1:
            values = values.reshape(-1, 1)
        return values if values.dtype == object else values.astype(DTYPES.get(spec.datatype, values.dtype), copy=False)

    def _table(self, feeds: Mapping[str, Array]) -> Any:
        if len(self._inputs) == 1:
            rows = feeds[self._inputs[0].name]
            return self._framed(rows) if self._estimator.as_frame and rows.ndim == 2 else rows
        columns = [feeds[name] for name in self._order]
        if self._estimator.as_frame:
            import pandas as pd  # noqa: PLC0415 - of the extra that has such models

            return pd.DataFrame({name: column[:, 0] for name, column in zip(self._order, columns, strict=True)})
        return np.concatenate(columns, axis=1)

    def _framed(self, rows: Array) -> Any:
        import pandas as pd  # noqa: PLC0415

        return pd.DataFrame(rows, columns=list(self._estimator.columns), copy=False)


def signature(estimator: Estimator, artifact: Artifact) -> Metadata:
    """What the model takes, and what it gives when it is asked once.

    Raises:
        BadModel: that is not what its config says.
    """
    config, path = artifact.config, artifact.path
    inputs = config.inputs or (TensorSpec(INPUT, estimator.datatype, (-1, estimator.features or -1)),)
    described = config.description
    if not config.inputs and described is not None and described.inputs:  # one, which has no name
        inputs = (replace(described.inputs[0], name=INPUT),)
    _check_inputs(estimator, inputs, artifact)
    wanted = config.outputs or (TensorSpec(next(iter(estimator.methods))),)
    if unknown := [spec.name for spec in wanted if spec.name not in estimator.methods]:
        raise BadModel(
            f"model file '{path}' has no output '{unknown[0]}': a {artifact.format} model of this kind gives "
            f"{', '.join(estimator.methods)}; correct its config"
        )
    metadata = Metadata(estimator.platform, inputs, config.outputs, config.max_batch, config.ignored)
    found = _asked(TabularSession(estimator, inputs), metadata, wanted, artifact)
    for said, given in zip(config.outputs, found, strict=bool(config.outputs)):
        _check_output(said, given, artifact)
    return replace(metadata, outputs=config.outputs or tuple(found))


def _order(estimator: Estimator, inputs: Sequence[TensorSpec]) -> list[str]:
    """Of columns: as the model was fitted, where it knows them by name, else as they are listed."""
    names = [spec.name for spec in inputs]
    return list(estimator.columns) if set(estimator.columns) == set(names) else names


def _check_inputs(estimator: Estimator, inputs: Sequence[TensorSpec], artifact: Artifact) -> None:
    path, texts = artifact.path, estimator.platform == "sklearn"
    for spec in inputs:
        if spec.datatype == "BF16" or (spec.datatype == "BYTES" and not texts):
            raise BadModel(f"input '{spec.name}' of '{path}' is {spec.datatype}, which {artifact.format} cannot take")
        rank = len(spec.shape or ())
        if rank != 2 and not (rank == 1 and texts and len(inputs) == 1):
            raise BadModel(
                f"input '{spec.name}' of '{path}' has shape {list(spec.shape or ())}, must be rows of features: "
                f"[-1, {estimator.features or 'N'}], or without the batch where maxBatchSize is not 0"
            )
    widths = [spec.shape[1] for spec in inputs if spec.shape and len(spec.shape) == 2]
    if estimator.features and -1 not in widths and sum(widths) != estimator.features:
        raise BadModel(
            f"model file '{path}' takes {estimator.features} features, but its config, or what lies beside it, says "
            f"{sum(widths)}; correct it"
        )
    if len(inputs) > 1 and estimator.as_frame:
        names = {spec.name for spec in inputs}
        if names != set(estimator.columns) or set(widths) != {1}:
            raise BadModel(
                f"model file '{path}' has the columns {', '.join(estimator.columns)[:300]}, but its config, or what "
                f"lies beside it, says {', '.join(sorted(names))[:300]}; name each, with shape [-1, 1]"
            )


def _asked(
    session: TabularSession, metadata: Metadata, wanted: Sequence[TensorSpec], artifact: Artifact
) -> list[TensorSpec]:
    """The outputs as they are: of the example, or of a row of zeros."""
    call = warmup.first_call(metadata, artifact.config)
    feeds = {
        spec.name: decoded(array) if array.dtype == object else array
        for spec, array in zip(metadata.inputs, call.inputs, strict=True)
    }
    try:
        answers = session.run([spec.name for spec in wanted], feeds)
    except RequestError as exc:
        raise BadModel(f"model file '{artifact.path}' cannot answer: {exc.message}") from exc
    except Exception as exc:  # the model is foreign
        what = "its example" if artifact.config.description and artifact.config.description.example else "zeros"
        raise BadModel(
            f"model file '{artifact.path}' cannot answer {what}: {type(exc).__name__}: {cause(exc)}; write a row that "
            "it can answer as example into a slipway.yaml beside it"
        ) from exc
    return [_given(spec.name, answer, artifact) for spec, answer in zip(wanted, answers, strict=True)]


def _given(name: str, answer: Array, artifact: Artifact) -> TensorSpec:
    datatype = "BYTES" if answer.dtype == object else _DATATYPES.get(answer.dtype, "")
    if not datatype or not answer.ndim:
        raise BadModel(f"model file '{artifact.path}' gives {name} as {answer.dtype}, which cannot be served")
    return TensorSpec(name, datatype, (-1, *answer.shape[1:]))


def _check_output(said: TensorSpec, given: TensorSpec, artifact: Artifact) -> None:
    shape, own = said.shape or (), given.shape or ()
    own = (*own, 1) if len(shape) == 2 and len(own) == 1 else own
    fits = len(shape) == len(own) and all(a == b or -1 in (a, b) for a, b in zip(shape, own, strict=True))
    kinds = [np.dtype(object) if spec.datatype == "BYTES" else DTYPES[spec.datatype] for spec in (given, said)]
    if not fits or said.datatype == "BF16" or kinds[1].kind not in _FAMILIES[kinds[0].kind]:
        raise BadModel(
            f"the config of '{artifact.path}', or what lies beside it, says that {said.name} is {said.datatype} "
            f"{list(shape)}, but it is {given.datatype} {list(own)}; correct it"
        )


def refuse_devices(artifact: Artifact, devices: Sequence[str]) -> None:
    if wanted := [device for device in devices if device.startswith("cuda")]:
        raise BadConfig(
            f"the device asked for is {wanted[0]}, but '{artifact.path}' is {artifact.format}, which runs on CPUs "
            "here; leave the device out"
        )
