"""int8 for the linear layers of an eager model on a CPU, by torch's own torch.ao.quantization.

dynamic-int8   weights are int8, activations are measured in every batch: nothing else is needed
static-int8    activations are int8 too, with ranges measured here once on calibration.safetensors in the model's
               folder: tensors by the names of the inputs, one sample per row

torch calls that module deprecated in favour of torchao, which is another package; what a torch lacks is refused.
"""

import warnings
from collections.abc import Sequence
from pathlib import Path

import torch

from slipway_runtime.errors import BadConfig, BadModel, cause
from slipway_runtime.models.options import Quantization

CALIBRATION = "calibration.safetensors"
_SAMPLES_AT_ONCE = 32


def quantized(module: torch.nn.Module, how: Quantization, folder: Path, inputs: Sequence[str]) -> torch.nn.Module:
    """The module with int8 arithmetic, or as it is with "none". `inputs` are in the order it takes them.

    Raises:
        BadConfig: this torch cannot.  BadModel: this model cannot, or there is nothing to calibrate it with.
    """
    if how == "none":
        return module
    if torch.backends.quantized.engine == "none":
        raise BadConfig(f"quantization {how} is asked for, but this torch has no int8 arithmetic for this machine")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that it is deprecated, and its own numbers of observers
        try:
            return _dynamic(module) if how == "dynamic-int8" else _static(module, _calibration(folder, inputs))
        except ImportError as exc:
            raise BadConfig(
                f"quantization {how} is asked for, but torch {torch.__version__} no longer has it ({exc})"
            ) from exc
        except (BadModel, BadConfig):
            raise
        except Exception as exc:  # tracing runs the model's own code
            raise BadModel(f"the model in '{folder}' cannot be made {how}: {cause(exc)}; remove quantization") from exc


def _dynamic(module: torch.nn.Module) -> torch.nn.Module:
    from torch.ao.quantization import quantize_dynamic  # noqa: PLC0415 - deprecated: only who asks for it needs it

    made: torch.nn.Module = quantize_dynamic(module, {torch.nn.Linear}, dtype=torch.qint8)  # type: ignore[no-untyped-call]
    return made


def _static(module: torch.nn.Module, samples: list[torch.Tensor]) -> torch.nn.Module:
    from torch.ao.quantization import get_default_qconfig_mapping  # noqa: PLC0415
    from torch.ao.quantization.quantize_fx import convert_fx, prepare_fx  # noqa: PLC0415

    mapping = get_default_qconfig_mapping(torch.backends.quantized.engine)
    batches = list(zip(*(torch.split(tensor, _SAMPLES_AT_ONCE) for tensor in samples), strict=True))
    observed = prepare_fx(module, mapping, batches[0])
    with torch.inference_mode():
        for batch in batches:
            observed(*batch)
    made: torch.nn.Module = convert_fx(observed)
    return made


def _calibration(folder: Path, inputs: Sequence[str]) -> list[torch.Tensor]:
    from safetensors.torch import load_file  # noqa: PLC0415

    path = folder / CALIBRATION
    if not path.exists():
        raise BadModel(f"quantization static-int8 needs samples in '{path}', one tensor per input; write it")
    try:
        tensors = load_file(path)
    except Exception as exc:  # the reader meets foreign bytes
        raise BadModel(f"'{path}' cannot be read: {cause(exc)}; write it again with safetensors") from exc
    counts = {len(tensors[name]) for name in inputs if name in tensors and tensors[name].ndim}
    if sorted(tensors) != sorted(inputs) or len(counts) != 1 or not min(counts):
        raise BadModel(f"'{path}' must have the tensors {list(inputs)}, all with the same number of samples")
    return [tensors[name] for name in inputs]
