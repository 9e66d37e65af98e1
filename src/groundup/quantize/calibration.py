"""Calibration: statistics of layer inputs, block by block, where each block reads the quantized blocks' outputs.

The hidden states of all calibration windows after block i become the inputs of block i + 1, so memory holds the
weights, the hidden states of the windows, and the activations of one block.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from groundup.artifacts.errors import UserError
from groundup.model import Decoder, Encoder, EncoderDecoder
from groundup.model.head import shift_right

BATCH_TOKENS = 2_048
"""Tokens of one forward pass through a block."""


class InputStats:
    """Running moments of a layer's input vectors x.

    Attributes:
        hessian: float32 (in in), the mean of 2 x x^T: the second derivative of the squared output error.
        mean_abs, max_abs: float32 (in), the mean and the largest of |x|.
        num_inputs: input vectors so far.
    """

    def __init__(self, width: int, device: torch.device | str = "cpu"):
        self.hessian = torch.zeros(width, width, device=device)
        self.mean_abs = torch.zeros(width, device=device)
        self.max_abs = torch.zeros(width, device=device)
        self.num_inputs = 0

    def add(self, inputs: Tensor) -> None:
        """Add the inputs of one batch, (... in)."""
        inputs = inputs.detach().reshape(-1, inputs.shape[-1]).float()
        if not len(inputs):
            return
        total = self.num_inputs + inputs.shape[0]
        self.hessian.mul_(self.num_inputs / total).addmm_(inputs.T, inputs, alpha=2 / total)
        magnitudes = inputs.abs()
        self.mean_abs.mul_(self.num_inputs / total).add_(magnitudes.sum(0) / total)
        self.max_abs = torch.maximum(self.max_abs, magnitudes.amax(0))
        self.num_inputs = total

    @classmethod
    def merged(cls, parts: "list[InputStats]") -> "InputStats":
        """The statistics of all inputs of `parts`, of which there is at least one."""
        merged = cls(len(parts[0].hessian), parts[0].hessian.device)
        merged.num_inputs = sum(part.num_inputs for part in parts)
        for part in parts:
            share = part.num_inputs / max(1, merged.num_inputs)
            merged.hessian.add_(part.hessian, alpha=share)
            merged.mean_abs.add_(part.mean_abs, alpha=share)
            merged.max_abs = torch.maximum(merged.max_abs, part.max_abs)
        return merged


def output_error(weight: Tensor, approximation: Tensor, hessian: Tensor) -> float:
    """||(W - W')X||^2 / ||W X||^2: relative output error of a layer, from the inputs' second moment."""
    return output_errors(weight, [approximation], hessian)[0]


def output_errors(weight: Tensor, approximations: list[Tensor], hessian: Tensor) -> list[float]:
    """`output_error` of several approximations of a matrix."""

    def energy(matrix: Tensor) -> float:
        return ((matrix @ hessian) * matrix).sum(dtype=torch.float64).item()

    total = max(energy(weight), 1e-30)
    return [energy(weight - each) / total for each in approximations]


def linear_layers(block: nn.Module) -> dict[str, nn.Linear]:
    """The `nn.Linear` layers inside a block, by name. The router of a mixture of experts is another class, and excluded."""
    return {name: module for name, module in block.named_modules() if type(module) is nn.Linear}


ExtraInputs = tuple[tuple[Any, ...], dict[str, Any]]
"""A block's other positional and keyword arguments than its hidden states."""


def is_expert(name: str) -> bool:
    """Whether a layer belongs to one expert of a mixture."""
    return name.rpartition(".")[2].isdigit()


def expert_matrix(name: str) -> str:
    """The name of an expert's layer without the number of the expert."""
    return name.rpartition(".")[0]


def _expert_group(name: str) -> str:
    """The experts' gate and up have the experts' inputs; their down has that of the gating."""
    return f"{expert_matrix(name).rpartition('.')[0]}.{'down' if '.down_proj.' in f'.{name}' else 'gate and up'}"


@dataclass
class BlockCalibration:
    """One block and its calibration inputs.

    Attributes:
        name: of the block in the model.
        windows: hidden states before the block, (N T D), in the model's dtype.
        extra_inputs: rows of the windows -> the block's other arguments for them.
        float_outputs: the block's outputs in the float model, (N T D), if they were asked for.
    """

    name: str
    block: nn.Module
    windows: Tensor
    extra_inputs: Callable[[slice], ExtraInputs]
    float_outputs: Tensor | None = None

    def path(self, layer: str) -> str:
        """The name in the model of a layer of the block."""
        return f"{self.name}.{layer}"

    def outputs(self) -> Tensor:
        """The block's outputs for the windows, (N T D)."""
        return torch.cat([self.run(rows) for rows in self._batches()])

    def run(self, rows: slice, weights: Mapping[str, Tensor] | None = None) -> Tensor:
        """The block's outputs for some windows, with other weights of its layers, by name, in place of its own."""
        if not weights:
            return self._run(rows)
        return functional_call(
            _Runner(self), {f"block.{name}.weight": weight for name, weight in weights.items()}, rows
        )

    def input_stats(self, names: list[str]) -> dict[str, InputStats]:
        """Input statistics of the named linear layers, from one pass over the windows; none for layers without inputs."""
        layers = linear_layers(self.block)
        stats = {name: InputStats(layers[name].in_features, self.windows.device) for name in names}
        previous: tuple[Tensor | None, str] = None, ""

        def record(name: str, args: tuple, _: dict) -> None:
            nonlocal previous
            if previous[0] is args[0]:  # q, k and v; gate and up: one accumulation
                stats[name] = stats[previous[1]]
            else:
                stats[name].add(args[0])
                previous = args[0], name
            unseen.discard(name)
            if not unseen:
                raise _StopForwardError  # the rest of the block is not needed

        unseen: set[str] = set()
        with _pre_hooks({name: layers[name] for name in names}, record):
            for rows in self._batches():
                unseen.update(names)
                with suppress(_StopForwardError):
                    self._run(rows)
        return stats

    def layers_by_input(self) -> list[list[str]]:
        """The block's linear layers in order of use, grouped by input tensor; those of all experts together."""
        order: list[tuple[Tensor, list[str]]] = []

        def record(name: str, args: tuple, _: dict) -> None:
            if order and order[-1][0] is args[0]:
                order[-1][1].append(name)
            else:
                order.append((args[0], [name]))

        layers = linear_layers(self.block)
        with _pre_hooks(layers, record):
            self._run(slice(0, 1))
        groups: dict[str, list[str]] = {}
        for _, names in order:
            groups[names[0]] = [name for name in names if not is_expert(name)]
            for name in filter(is_expert, names):
                groups.setdefault(_expert_group(name), [])
        for name in filter(is_expert, layers):
            groups.setdefault(_expert_group(name), []).append(name)
        return [names for names in groups.values() if names]

    def _batches(self) -> Iterator[slice]:
        step = max(1, BATCH_TOKENS // self.windows.shape[1])
        return (slice(begin, begin + step) for begin in range(0, len(self.windows), step))

    def _run(self, rows: slice) -> Tensor:
        args, named = self.extra_inputs(rows)
        return self.block(self.windows[rows], *args, **named)


class _Runner(nn.Module):
    """A module whose weights `functional_call` replaces: also those that make the block's other arguments."""

    def __init__(self, calibration: BlockCalibration):
        super().__init__()
        self.block, self.calibration = calibration.block, calibration

    def forward(self, rows: slice) -> Tensor:
        return self.calibration.run(rows)


def iter_blocks(
    model: nn.Module, tokens: Tensor, decoder_tokens: Tensor | None = None, *, with_float_outputs: bool = False
) -> Iterator[BlockCalibration]:
    """Yield each block of `model` with its calibration inputs for windows of tokens (N T).

    The blocks of an encoder-decoder's encoder come first; its decoder's read the outputs of the changed encoder.
    The caller may change a block before it takes the next one, whose inputs are the outputs of the changed block.

    Args:
        decoder_tokens: of an encoder-decoder (N S); default: the second half of each window, which is then predicted from
            the first.
        with_float_outputs: also follow the float model, at the price of one more pass through each block.

    Raises UserError for a model without blocks to walk.
    """
    with torch.no_grad():
        if isinstance(model, Decoder | Encoder):
            yield from _iter_stack("blocks", model.blocks, model.hidden_states, tokens, with_float_outputs)
        elif isinstance(model, EncoderDecoder):
            if decoder_tokens is None:
                tokens, target = tokens.chunk(2, dim=1)
                decoder_tokens = shift_right(target, model.config.decoder_start_token_id)
            yield from _iter_encoder_decoder(model, tokens, decoder_tokens, with_float_outputs)
        else:
            raise UserError(
                f"{type(model).__name__} has no blocks to calibrate, expected a decoder, encoder or encoder-decoder",
                hint="--method rtn needs no calibration",
            )


def _iter_encoder_decoder(
    model: EncoderDecoder, tokens: Tensor, decoder_tokens: Tensor, with_float_outputs: bool
) -> Iterator[BlockCalibration]:
    encoder, decoder = model.encoder, model.decoder
    last = None
    for last in _iter_stack("encoder.blocks", encoder.blocks, model.encode, tokens, with_float_outputs):
        yield last
    assert last is not None
    memory = encoder.final_norm(last.outputs())
    float_memory = memory if last.float_outputs is None else encoder.final_norm(last.float_outputs)

    def decode(batch: Tensor) -> Tensor:
        # of one text, for the arguments of the calls: each block projects the texts of its windows again
        cross = decoder.project_memory(memory[:1], batch.shape[1], None, None)
        return decoder(model.embedding, batch, cross, None)

    def with_texts(texts: Tensor, block: Any, extra: ExtraInputs, rows: slice) -> ExtraInputs:
        (context, cross, *rest), named = extra
        return (context, block.cross_attention.project_memory(texts[rows], cross.mask), *rest), named

    inputs = partial(with_texts, memory), partial(with_texts, float_memory)
    yield from _iter_stack("decoder.blocks", decoder.blocks, decode, decoder_tokens, with_float_outputs, *inputs)


InputsOfRows = Callable[[nn.Module, ExtraInputs, slice], ExtraInputs]
"""(block, its arguments for the first window, rows) -> its arguments for the rows."""


def _same_for_all(block: nn.Module, extra: ExtraInputs, rows: slice) -> ExtraInputs:
    return extra


def _iter_stack(
    prefix: str,
    modules: nn.ModuleList,
    run: Callable[[Tensor], Any],
    tokens: Tensor,
    with_float_outputs: bool,
    inputs_of_rows: InputsOfRows = _same_for_all,
    float_inputs_of_rows: InputsOfRows = _same_for_all,
) -> Iterator[BlockCalibration]:
    """The blocks that `run` calls one after the other."""
    blocks = {f"{prefix}.{index}": block for index, block in enumerate(modules)}
    calls: list[tuple[str, ExtraInputs]] = []
    with _pre_hooks(blocks, lambda name, args, named: calls.append((name, (args[1:], named)))):
        run(tokens[:1])
    windows = _first_block_inputs(modules[0], run, tokens)
    float_windows: Tensor | None = windows if with_float_outputs else None
    calibration = None
    for name, extra in calls:
        windows = windows if calibration is None else calibration.outputs()
        block = blocks[name]
        if float_windows is not None:
            inputs = partial(float_inputs_of_rows, block, extra)
            float_windows = BlockCalibration(name, block, float_windows, inputs).outputs()
        inputs = partial(inputs_of_rows, block, extra)
        calibration = BlockCalibration(name, block, windows, inputs, float_windows)
        yield calibration


class _StopForwardError(Exception):
    """Ends a forward pass at the first block."""


def _first_block_inputs(block: nn.Module, run: Callable[[Tensor], Any], tokens: Tensor) -> Tensor:
    """Hidden states before the first block, (N T D)."""
    hidden_states: list[Tensor] = []

    def stop(name: str, args: tuple, _: dict) -> None:
        hidden_states.append(args[0])
        raise _StopForwardError

    with _pre_hooks({"first": block}, stop):
        for batch in tokens.split(max(1, BATCH_TOKENS // tokens.shape[1])):
            with suppress(_StopForwardError):
                run(batch)
    return torch.cat(hidden_states)


@contextmanager
def _pre_hooks(
    modules: Mapping[str, nn.Module], callback: Callable[[str, tuple[Any, ...], dict[str, Any]], None]
) -> Iterator[None]:
    """Call callback(name, args, kwargs) before each forward pass of one of `modules`."""
    handles = [
        module.register_forward_pre_hook(
            lambda module, args, named, name=name: callback(name, args, named), with_kwargs=True
        )
        for name, module in modules.items()
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
