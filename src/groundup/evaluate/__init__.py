"""8. Measuring: how good is it, beside what, and how sure can we be?

Reading order: `perplexity` (the score), `documents` (what is scored), `baselines` (what one
gets without a network), `intervals` (how sure we are), `tasks` (questions with known answers), `samples`
(what it says by itself), `hidden` (what is asked of a model that does not go from left to right), `identity`
(which outside files count), `stage`.

Deliberately absent: metrics that others define and maintain (BLEU, ROUGE, the large benchmarks' own scoring).

Names below are imported when they are first used: `identity` needs no torch, and must be quick to reach.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.evaluate.bootstrap import bootstrap_interval as bootstrap_interval
    from groundup.evaluate.perplexity import Score as Score
    from groundup.evaluate.perplexity import ScoredDocument as ScoredDocument
    from groundup.evaluate.perplexity import score as score
    from groundup.evaluate.perplexity import score_text as score_text
    from groundup.evaluate.perplexity import score_windows as score_windows
    from groundup.evaluate.validation_documents import (
        sample_validation_documents as sample_validation_documents,
    )

_LAZY_IMPORTS = {
    "sample_validation_documents": "validation_documents",
    "bootstrap_interval": "bootstrap",
    "ScoredDocument": "perplexity",
    "Score": "perplexity",
    "score": "perplexity",
    "score_text": "perplexity",
    "score_windows": "perplexity",
}

__all__ = [
    "Score",
    "ScoredDocument",
    "bootstrap_interval",
    "sample_validation_documents",
    "score",
    "score_text",
    "score_windows",
]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(
            f"module 'groundup.evaluate' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"groundup.evaluate.{_LAZY_IMPORTS[name]}"), name)
