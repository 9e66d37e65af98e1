"""What blocks keep for the backward pass, against the tensors that autograd saves, over random configurations on a CPU."""

from collections import defaultdict
from math import prod

import pytest
import torch
from random_configs import draw_config

from groundup.model import build_model
from groundup.plan.memory.saved_activations import ForwardPass, block_activations
from groundup.plan.shape.weight_shapes import weight_shapes
from groundup.recipe import ModelConfig
from groundup.train.mixed_precision import autocast

ROWS, LENGTH = 2, 53
PRECISIONS = {"bfloat16": 2, "float32": 4}


def saved_bytes(config: ModelConfig, precision: str) -> list[float]:
    """Bytes saved inside each block, without weights and their casts."""
    torch.manual_seed(0)
    model = build_model(config)
    names, saved, sizes = [""], {}, defaultdict(float)
    weights = {weight.untyped_storage().data_ptr() for weight in model.parameters()}
    casts = {
        2 * prod(shape) for blocks in weight_shapes(config).stacks.values() for b in blocks for shape in b.values()
    }
    for name, module in model.named_modules():
        module.register_forward_pre_hook(lambda *_, name=name: names.append(name))
        module.register_forward_hook(lambda *_: names.pop() and None)

    def record(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        is_cast = (
            tensor.dtype == torch.bfloat16
            and storage.nbytes() in casts
            and not {LENGTH, ROWS * LENGTH} & {*tensor.shape}
        )
        if storage.data_ptr() not in weights | saved.keys():
            saved[storage.data_ptr()] = storage  # kept alive: an address is used once
            if names[-1].startswith("blocks.") and not is_cast:
                sizes[int(names[-1].split(".")[1])] += storage.nbytes()
        return tensor.detach()

    tokens = torch.randint(config.vocab_size, (ROWS, LENGTH))
    with torch.autograd.graph.saved_tensors_hooks(record, lambda tensor: tensor):
        with autocast(torch.device("cpu"), precision):
            model(tokens, labels=tokens)
    return [sizes[layer] for layer in range(config.num_layers)]


def check_blocks(seed: int, precision: str, tolerance: float) -> None:
    config = draw_config(seed)
    if config.architecture == "encoder_decoder" or not config.masked_lm_head:
        return
    step = ForwardPass(ROWS, LENGTH, LENGTH, products=PRECISIONS[precision], fused=False)
    for layer, saved in enumerate(saved_bytes(config, precision)):
        planned = block_activations(config, step, layer, config.layer_types[layer])
        assert planned == pytest.approx(saved, rel=tolerance), (layer, config)


@pytest.mark.parametrize("seed", range(12))
def test_activations_of_random_blocks(seed):
    check_blocks(seed, "bfloat16", 0.05)


@pytest.mark.slow
@pytest.mark.parametrize(("precision", "tolerance"), [("bfloat16", 0.06), ("float32", 0.16)])
def test_activations_of_two_hundred_random_models(precision, tolerance):
    for seed in range(200):
        check_blocks(seed, precision, tolerance)
