"""Deterministic generation: tokens and log-probabilities are bit for bit the same alone and in any company."""

import copy
import random

import pytest
import torch
from torch import nn
from torch.nn import functional as F

from groundup.artifacts.errors import UserError
from groundup.generate import BatchingEngine, Request, SamplingParams, make_deterministic, stream_tokens, use_kv_bits
from groundup.generate import fixed_shape_products as products
from groundup.generate.batch_invariance import batch_invariance, in_whole_registers
from groundup.generate.chunked_attention import CHUNK, chunked_attention, tree_sum
from groundup.model import Decoder, build_model
from groundup.model.attention import eager_attention, softcap
from groundup.model.attention_mask import AttentionMask, build_mask
from groundup.quantize import quantize_model
from groundup.recipe import ModelConfig

VOCAB = 97
SIZES = {"hidden_size": 64, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "context_length": 192}
KNOBS = {
    "grouped heads": {},
    "windows": {"sliding_window": 24, "attention_pattern": ("local", "global"), "qk_norm": True},
    "mixture": {"moe": {"num_experts": 4, "experts_per_token": 2, "intermediate_size": 48, "num_shared_experts": 1}},
    "softcaps": {"attention_softcap": 20.0, "logit_softcap": 10.0, "feed_forward": "geglu_tanh"},
    "sinks": {"attention_sinks": True, "intermediate_size": 100},
    "latents": {
        "num_kv_heads": 4,
        "head_dim": 24,
        "latent_attention": {"kv_rank": 32, "rope_head_dim": 8, "value_head_dim": 16},
    },
    "alibi": {"position_embedding": "alibi", "norm": "layernorm", "feed_forward": "gelu", "feed_forward_bias": True},
}


def drawn(**knobs) -> nn.Module:
    torch.manual_seed(1)
    model = build_model(ModelConfig(vocab_size=VOCAB, **(SIZES | knobs))).eval()
    with torch.no_grad():  # larger weights, so that the next token depends on the whole text
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.normal_(std=0.2)
    return model


def requests() -> list[Request]:
    """Prompts of one token to more than a chunk of keys; some begin alike; some are sampled."""
    draw = random.Random(2)
    shared = [draw.randrange(VOCAB) for _ in range(70)]
    prompts = [[3], shared[:40], shared + [5], [*shared, 6, 7], [draw.randrange(VOCAB) for _ in range(100)], [9, 8] * 9]
    return [
        Request(prompt, 5 + index, SamplingParams(temperature=index % 3 * 0.5, top_p=0.9, seed=index), logprobs=3)
        for index, prompt in enumerate(prompts)
    ]


def answers(model, wanted, *, max_batch=8, chunk=256, cancelled=0, spread=1, **options) -> dict[int, list]:
    """By the number of each wanted request: tokens and log-probabilities. Some of the others are cancelled on the way."""
    engine = BatchingEngine(model, max_batch=max_batch, prefill_chunk=chunk, **options)
    made = requests()
    queue = [made[index] for index in wanted]
    dropped = queue[:cancelled]
    found = {index: [] for index in wanted if made[index] not in dropped}
    numbers = {made[index]: index for index in found}
    while queue or engine.busy:
        for request in queue[:spread]:
            engine.submit(request)
        del queue[:spread]
        for output in engine.step():
            assert output.error is None
            if output.request in numbers:
                found[numbers[output.request]].append((output.token, output.logprob, output.top_logprobs))
        if dropped and len(dropped[-1].tokens) == 2:
            engine.cancel(dropped.pop())
    return found


COMPANIES = [
    {"wanted": [0, 1, 2, 3, 4, 5]},
    {"wanted": [5, 4, 3, 2, 1, 0], "chunk": 7, "max_batch": 3},
    {"wanted": [2, 0, 5, 3, 1, 4], "chunk": 33, "spread": 6, "cancelled": 2},
]


def differences(model, companies) -> int:
    """Number of requests that get another answer in company than alone."""
    alone = {index: answers(model, [index])[index] for index in range(len(requests()))}
    return sum(
        answer != alone[index] for company in companies for index, answer in answers(model, **company).items()
    )


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=["float32", "bfloat16"])
@pytest.mark.parametrize("name", KNOBS)
def test_answers_are_the_same_alone_and_in_company(name, dtype):
    model = make_deterministic(drawn(**KNOBS[name]).to(dtype))
    assert differences(model, COMPANIES) == 0
