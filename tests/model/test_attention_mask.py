"""Attention masks against loops, and positions of packed documents."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from groundup.model.attention_mask import AttentionMask, build_mask, compute_positions

CPU = torch.device("cpu")


@settings(deadline=None, max_examples=60)
@given(st.data())
def test_mask_equals_loops(data):
    num_keys = data.draw(st.integers(1, 9), "keys")
    causal = data.draw(st.booleans(), "causal")
    window = data.draw(st.none() | st.integers(1, 10), "window")
    packed = data.draw(st.booleans(), "packed")
    num_queries = num_keys if packed or not causal else data.draw(st.integers(1, num_keys), "queries")
    documents = None
    if packed:
        documents = torch.tensor(
            data.draw(
                st.lists(st.lists(st.integers(0, 2), min_size=num_keys, max_size=num_keys), min_size=2, max_size=2)
            )
        )
    mask = build_mask(num_queries, num_keys, CPU, causal=causal, window=window, document_ids=documents)
    bias = mask.bias(num_queries, num_keys, torch.zeros(1)).expand(2, 1, num_queries, num_keys)
    for row in range(2):
        for query in range(num_queries):
            at = query + num_keys - num_queries
            for key in range(num_keys):
                attends = (
                    (not causal or key <= at)
                    and (window is None or abs(at - key) < window)
                    and (documents is None or documents[row, query] == documents[row, key])
                )
                assert (bias[row, 0, query, key] == 0) == attends


def test_full_and_causal_masks_have_no_tensor():
    assert build_mask(8, 8, CPU, causal=True) == AttentionMask(causal=True)
    assert build_mask(8, 8, CPU, causal=True, window=8) == AttentionMask(causal=True)
    assert build_mask(1, 8, CPU, causal=True) == AttentionMask()
    assert build_mask(8, 8, CPU, causal=False) == AttentionMask()


def test_positions_restart_with_each_document():
    documents = torch.tensor([[7, 7, 7, 9, 9], [1, 2, 2, 1, 1]])
    assert compute_positions(documents, documents).tolist() == [[0, 1, 2, 0, 1], [0, 0, 1, 0, 1]]
    assert compute_positions(documents, None).tolist() == [0, 1, 2, 3, 4]
