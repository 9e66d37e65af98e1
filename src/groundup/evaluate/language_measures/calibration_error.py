"""Calibration of next-token probabilities: whether tokens predicted with probability p are right in a share p of the cases.

Expected calibration error (Naeini et al. 2015; Guo et al. 2017, arXiv:1706.04599): the likeliest token of each position is in
one of `NUM_BINS` bins by its probability; the distance of the mean probability of a bin and the share of right predictions,
averaged with the tokens of the bins as weights.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from groundup.evaluate.intervals import LEVEL, NORMAL_QUANTILE, student_quantile
from groundup.evaluate.likelihood import HEAD_TOKENS, ScoredDocument, scored_states
from groundup.model import Decoder

NUM_BINS = 15
"""As Guo et al."""

NUM_DRAWS = 2_000
"""Of the noise of the bins, for the interval."""


def score_calibration(model: Decoder, documents: Sequence[ScoredDocument], progress: Any = None) -> dict[str, Any]:
    """`calibration_error` of the scored tokens of documents; `progress`: a progress task, advanced by tokens."""
    confidences, is_right, numbers = [], [], []
    window = model.config.context_length
    for hidden, labels, document_index in scored_states(model, documents, window, max(1, window // 2)):
        for begin in range(0, len(labels), HEAD_TOKENS):
            part = slice(begin, begin + HEAD_TOKENS)
            with torch.no_grad():
                highest, likeliest = model.logits(hidden[part]).float().softmax(1).max(1)
            confidences += highest.tolist()
            is_right += (likeliest == labels[part]).tolist()
        numbers += document_index.tolist()
        if progress is not None:
            progress.advance(len(labels))
    return calibration_error(confidences, is_right, numbers)


def calibration_error(
    confidences: Sequence[float], is_right: Sequence[bool], clusters: Sequence[int]
) -> dict[str, Any]:
    """The expected calibration error and its bins.

    The error of the estimate is at most the sum of the errors of the bins; `interval` is the estimate plus and minus the LEVEL
    quantile of that sum. It covers at least LEVEL, a perfect calibration included. Only the clusters are independent: the
    noise of the bins is drawn by giving each a random weight (wild bootstrap, Wu 1986). None for a single one.

    Args:
        confidences: probability of the likeliest token.
        clusters: number of the document of each token.

    Returns {"error", "interval", "overconfidence": mean probability less the share of right predictions, "tokens",
    "bins": [{"confidence", "accuracy", "tokens"}] of those that are not empty}.

    >>> calibration_error([0.75, 0.75, 0.75, 0.75], [True, True, False, True], [0, 0, 1, 1])["error"]
    0.0
    """
    probability, right = np.asarray(confidences, dtype=np.float64), np.asarray(is_right, dtype=np.float64)
    bins = np.minimum((probability * NUM_BINS).astype(int), NUM_BINS - 1)
    rows = np.unique(np.asarray(clusters), return_inverse=True)[1]
    num_clusters = int(rows.max()) + 1
    gaps, counts = np.zeros((num_clusters, NUM_BINS)), np.zeros(num_clusters)
    np.add.at(gaps, (rows, bins), probability - right)
    np.add.at(counts, rows, 1.0)
    total = counts.sum()
    error = float(np.abs(gaps.sum(0)).sum() / total)
    sizes = np.bincount(bins, minlength=NUM_BINS)
    means = {
        name: np.bincount(bins, values, NUM_BINS) for name, values in (("confidence", probability), ("accuracy", right))
    }
    return {
        "error": error,
        "interval": _interval(error, gaps, counts),
        "overconfidence": float((probability - right).mean()),
        "tokens": int(total),
        "bins": [
            {name: float(sums[index] / size) for name, sums in means.items()} | {"tokens": int(size)}
            for index, size in enumerate(sizes)
            if size
        ],
    }


def _interval(error: float, gaps: NDArray[np.float64], counts: NDArray[np.float64]) -> list[float] | None:
    """From the sums of each document by bin (documents, bins) and its tokens (documents)."""
    documents, total = len(counts), counts.sum()
    if documents < 2:
        return None
    influence = (gaps - counts[:, None] * gaps.sum(0) / total) / total * np.sqrt(documents / (documents - 1))
    weights = np.random.default_rng(0).standard_normal((NUM_DRAWS, documents))
    distance = float(np.quantile(np.abs(weights @ influence).sum(1), LEVEL))
    effective = total**2 / (counts**2).sum()
    distance *= student_quantile(effective - 1) / NORMAL_QUANTILE
    return [max(0.0, error - distance), min(1.0, error + distance)]
