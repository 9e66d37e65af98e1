"""Linear probe: how well labels of texts are read off their embeddings by logistic regression, without training the model.

As SentEval does (Conneau & Kiela 2018, arXiv:1803.05449), by cross-validation; beside it the same regression on TF-IDF vectors
of words, and the most frequent label. Works for the embeddings of any architecture.
"""

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from groundup.artifacts.errors import UserError
from groundup.evaluate.intervals import share_interval
from groundup.evaluate.retrieval import tf_idf_vectors
from groundup.generate import embed_texts
from groundup.tokenizer import Tokenizer

NUM_FOLDS = 5
WEIGHT_DECAY = 1.0
"""Half of its product with the squared weights is added to the sum of the losses: scikit-learn's LogisticRegression(C=1)."""
MAX_WORDS = 4_096
"""Dimensions of the TF-IDF vectors: the most frequent words."""
MAX_STEPS = 200


def probe_labels(
    model: nn.Module, tokenizer: Tokenizer, examples: Sequence[tuple[str, str]], *, seed: int = 0
) -> dict[str, Any]:
    """Cross-validated accuracy on texts with labels: {"accuracy", "interval", "tf_idf", "majority", "labels", "items"}.

    Raises UserError for fewer than two labels, and for fewer texts than folds.
    """
    texts, names = [text for text, _ in examples], [label for _, label in examples]
    counts = Counter(names)
    if len(counts) < 2 or len(texts) < 2 * NUM_FOLDS:
        raise UserError(
            f"{len(texts)} texts with {len(counts)} labels, expected at least {2 * NUM_FOLDS} texts and 2 labels"
        )
    order = sorted(counts)
    labels = torch.tensor([order.index(name) for name in names])
    folds = stratified_folds(labels, seed)
    right = cross_validate(embed_texts(model, tokenizer, texts, normalize=False), labels, folds)
    words = tf_idf_vectors(texts)
    words = words[:, words.count_nonzero(0).argsort(descending=True, stable=True)[:MAX_WORDS]]
    return {
        "accuracy": float(right.mean()),
        "interval": share_interval(right.tolist()),
        "tf_idf": float(cross_validate(words, labels, folds, standardize=False).mean()),
        "majority": counts.most_common(1)[0][1] / len(texts),
        "labels": len(counts),
        "items": len(texts),
    }


def stratified_folds(labels: Int[Tensor, " N"], seed: int) -> Int[Tensor, " N"]:
    """The fold of each text, drawn so that each label is spread evenly over the folds."""
    generator = np.random.default_rng(seed)
    shuffled = torch.from_numpy(generator.permutation(len(labels)))
    by_label = shuffled[labels[shuffled].argsort(stable=True)]
    folds = torch.empty_like(labels)
    folds[by_label] = torch.arange(len(labels)) % NUM_FOLDS
    return folds


def cross_validate(
    vectors: Float[Tensor, "N D"], labels: Int[Tensor, " N"], folds: Int[Tensor, " N"], *, standardize: bool = True
) -> Float[Tensor, " N"]:
    """1 for each text whose label is predicted from the texts of the other folds, else 0.

    Args:
        standardize: every dimension to mean 0 and deviation 1, by the texts of the other folds.
    """
    right = torch.zeros(len(labels), dtype=torch.float64)
    for fold in folds.unique():
        train, test = folds != fold, folds == fold
        inputs = vectors.double()
        if standardize:
            inputs = (inputs - inputs[train].mean(0)) / inputs[train].std(0).clamp_min(1e-6)
        weights, bias = fit_logistic_regression(inputs[train], labels[train], int(labels.max()) + 1)
        right[test] = ((inputs[test] @ weights + bias).argmax(1) == labels[test]).double()
    return right


def fit_logistic_regression(
    inputs: Float[Tensor, "N D"], labels: Int[Tensor, " N"], num_labels: int
) -> tuple[Float[Tensor, "D C"], Float[Tensor, " C"]]:
    """Weights and bias of multinomial logistic regression, by L-BFGS; the bias has no weight decay."""
    weights = torch.zeros(inputs.shape[1], num_labels, dtype=inputs.dtype, requires_grad=True)
    bias = torch.zeros(num_labels, dtype=inputs.dtype, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [weights, bias], max_iter=MAX_STEPS, line_search_fn="strong_wolfe", tolerance_grad=1e-6
    )

    def loss() -> Tensor:
        optimizer.zero_grad()
        losses = nn.functional.cross_entropy(inputs @ weights + bias, labels, reduction="sum")
        total = losses + WEIGHT_DECAY / 2 * (weights**2).sum()
        total.backward()
        return total

    optimizer.step(loss)  # pyright: ignore[reportArgumentType]
    return weights.detach(), bias.detach()
