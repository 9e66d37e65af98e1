"""The bytes that a training step sends equal the formulas of plan/layout/communication.py, byte for byte."""

import comm_counting
import gloo_ranks
import pytest
from equivalence import Case

BFLOAT16 = (("precision", "bfloat16"),)
FULL_CHECKPOINTING = (("activation_checkpointing", "full"),)

QUICK = {
    "DDP": (2, Case({"replicate": 2})),
    "FSDP, 4 micro-batches, bfloat16": (2, Case({"shard": 2}, micro_batch_size=2, train=BFLOAT16)),
    "hybrid": (4, Case({"replicate": 2, "shard": 2})),
    "TP, bfloat16": (2, Case({"tensor": 2, "sequence_parallel": False}, train=BFLOAT16)),
    "FSDP x TP+SP, checkpointing": (4, Case({"shard": 2, "tensor": 2}, machine=FULL_CHECKPOINTING)),
    "CP all-gather, bfloat16": (2, Case({"context": 2}, train=BFLOAT16)),
    "CP ulysses": (2, Case({"context": 2, "context_method": "ulysses"})),
    "CP ring": (2, Case({"context": 2, "context_method": "ring"})),
    "PP 1f1b x FSDP": (4, Case({"pipeline": 2, "shard": 2}, "deep", 2)),
}
SLOW = {
    "TP+SP x CP, selective": (
        4,
        Case({"tensor": 2, "context": 2}, machine=(("activation_checkpointing", "selective"),)),
    ),
    "FSDP, weights kept": (2, Case({"shard": 2, "reshard_after_forward": False}, micro_batch_size=2)),
    "TP+SP, bfloat16": (2, Case({"tensor": 2}, train=BFLOAT16)),
    "TP+SP 4, 2 key heads": (4, Case({"tensor": 4})),
    "FSDP x CP x TP+SP": (8, Case({"shard": 2, "context": 2, "tensor": 2})),
    "CP ring 4, checkpointing": (4, Case({"context": 4, "context_method": "ring"}, machine=FULL_CHECKPOINTING)),
    "PP x FSDP x TP+SP, bfloat16": (8, Case({"pipeline": 2, "shard": 2, "tensor": 2}, "deep", 2, BFLOAT16)),
    "PP interleaved": (2, Case({"pipeline": 2, "pipeline_schedule": "interleaved-1f1b"}, "deep", 4)),
    "PP zero-bubble-v": (2, Case({"pipeline": 2, "pipeline_schedule": "zero-bubble-v"}, "deep", 4)),
}


def check(ranks: int, case: Case) -> None:
    for rank, found in enumerate(gloo_ranks.run_ranks(ranks, comm_counting.count_step_bytes, case)):
        assert found.counted.keys() == found.expected.keys(), f"rank {rank}"
        for group, sent in found.expected.items():
            assert found.counted[group] == pytest.approx(sent, abs=8), f"rank {rank} among {group}"


@pytest.mark.parametrize("name", QUICK)
def test_sent_bytes_equal_the_formulas(name):
    check(*QUICK[name])


@pytest.mark.slow
@pytest.mark.parametrize("name", SLOW)
def test_sent_bytes_equal_the_formulas_in_more_layouts(name):
    check(*SLOW[name])
