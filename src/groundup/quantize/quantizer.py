"""Quantization of a whole model: replace the linear layers of its blocks, experts included, by quantized ones.

Embeddings, norms, routers and the output head are not quantized: they are few in a large model and the most sensitive to
rounding.
"""

from dataclasses import asdict, dataclass, replace
from pathlib import Path

from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.model.frozen_linear import PackedLinear
from groundup.quantize.block_checkpoint import BlockCheckpoint
from groundup.quantize.block_methods import (
    FLOAT_OUTPUTS,
    METHODS,
    WITHOUT_TEXT,
    QuantizationSettings,
    QuantizedLayer,
    quantize_weight_alone,
)
from groundup.quantize.calibration import iter_blocks, linear_layers, output_errors
from groundup.quantize.layers.packed_layers import make_layer, packed_layers
from groundup.quantize.layers.quantized_experts import join_experts, split_experts
from groundup.quantize.methods.bit_allocation import schemes_for_size
from groundup.quantize.quantization_grid import QuantizationScheme, integer_scheme, round_to_nearest


@dataclass(frozen=True)
class LayerQuantizationError:
    """Relative squared output error of a layer on the calibration windows.

    Attributes:
        error: of the chosen method.
        rtn_error: of rounding to nearest on the full range of each group, to as many equally spaced values, on the same inputs.
        note: what was done for an expert with too few tokens, or empty.
    """

    layer: str
    error: float
    rtn_error: float
    note: str = ""


def quantize_model(
    model: nn.Module,
    settings: QuantizationSettings,
    windows: Tensor | None = None,
    progress: Progress | None = None,
    *,
    decoder_windows: Tensor | None = None,
    checkpoint: Path | None = None,
) -> list[LayerQuantizationError]:
    """Quantize the linear layers of the model's blocks in place. Returns the errors of the layers, in order.

    Args:
        windows: calibration text, (N T) token ids; optional for WITHOUT_TEXT, which then return no errors.
        decoder_windows: the decoder's tokens of an encoder-decoder, as in `iter_blocks`.
        checkpoint: folder for the finished blocks, from which a killed call goes on; the caller removes it.

    Raises UserError for other methods without windows, and for a model that is quantized already.
    """
    if windows is None and (settings.method not in WITHOUT_TEXT or settings.max_bytes is not None):
        needs = f"method = {settings.method}" if settings.max_bytes is None else "size"
        raise UserError(
            f"quantize.{needs} needs calibration text", hint="give calibration text, or use rtn without size"
        )
    split_experts(model)
    layers = quantizable_layers(model)
    errors: list[LayerQuantizationError] = []
    if windows is None:
        for name, layer in layers.items():
            weight = quantize_weight_alone(layer.weight.detach(), settings.scheme_of(name))
            model.set_submodule(name, make_layer(weight, layer.bias))
        return errors
    device = next(model.parameters()).device
    windows = windows.to(device)
    decoder_windows = None if decoder_windows is None else decoder_windows.to(device)
    if settings.max_bytes is not None:
        schemes = schemes_for_size(model, layers, windows, settings.scheme, settings.max_bytes, progress)
        settings = replace(settings, layer_schemes=schemes)
    finished = BlockCheckpoint(checkpoint, settings, windows, decoder_windows)
    with (progress or Progress()).task(f"quantizing ({settings.method})", total=len(layers), unit="layers") as task:
        both = settings.method in FLOAT_OUTPUTS
        for calibration in iter_blocks(model, windows, decoder_windows, with_float_outputs=both):
            if (restored := finished.restore(calibration.name, calibration.block)) is not None:
                errors += [LayerQuantizationError(**fields) for fields in restored]
                task.resume_at(len(errors))
                continue
            first = len(errors)
            for layer in METHODS[settings.method](calibration, settings, task.set_status):
                path = calibration.path(layer.name)
                errors.append(_layer_error(layer, path, settings.scheme_of(path)))
                # before the next layer of the block is calibrated
                model.set_submodule(path, make_layer(layer.weight, layers[path].bias))
                task.set_status(f"{path}: error {errors[-1].error:.2g}, {errors[-1].rtn_error:.2g} to nearest")
                task.advance()
            finished.save(calibration.name, calibration.block, [asdict(error) for error in errors[first:]])
    return errors


def _layer_error(layer: QuantizedLayer, path: str, scheme: QuantizationScheme) -> LayerQuantizationError:
    nearest = round_to_nearest(layer.original, integer_scheme(scheme)).dequantize()
    error, rtn_error = output_errors(layer.original, [layer.effective, nearest], layer.stats.hessian)
    return LayerQuantizationError(path, error, rtn_error, layer.note)


def quantizable_layers(model: nn.Module) -> dict[str, nn.Linear]:
    """The linear layers inside the model's blocks, by name. Raises UserError when there are none."""
    layers = {name: layer for name, layer in linear_layers(model).items() if ".blocks." in f".{name}"}
    if not layers:
        raise UserError("the model has no float linear layers in its blocks", hint="is it quantized already?")
    return layers


def dequantize_model(model: nn.Module) -> nn.Module:
    """Replace quantized layers by `nn.Linear` layers and experts with the same values, in place. Returns the model."""
    for name, layer in list(model.named_modules()):
        if isinstance(layer, PackedLinear):
            model.set_submodule(name, layer.to_linear())
    join_experts(model)
    return model


def bits_per_weight(model: nn.Module) -> float:
    """Stored bits of the quantized layers' weights, scales and zeros included, per weight."""
    layers = packed_layers(model).values()
    stored = sum(
        tensor.nbytes
        for layer in layers
        for name, tensor in layer.state_dict().items()
        if name not in ("bias", "g_idx")
    )
    return 8 * stored / sum(layer.out_features * layer.in_features for layer in layers)
