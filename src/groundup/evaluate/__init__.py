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
    from groundup.evaluate.documents import held_out as held_out
    from groundup.evaluate.intervals import bootstrap as bootstrap
    from groundup.evaluate.perplexity import Document as Document
    from groundup.evaluate.perplexity import Score as Score
    from groundup.evaluate.perplexity import score as score
    from groundup.evaluate.perplexity import score_text as score_text
    from groundup.evaluate.perplexity import score_windows as score_windows

_HOME = {
    "held_out": "documents",
    "bootstrap": "intervals",
    "Document": "perplexity",
    "Score": "perplexity",
    "score": "perplexity",
    "score_text": "perplexity",
    "score_windows": "perplexity",
}

__all__ = ["Document", "Score", "bootstrap", "held_out", "score", "score_text", "score_windows"]


def __getattr__(name: str) -> Any:
    if name not in _HOME:
        raise AttributeError(
            f"module 'groundup.evaluate' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"groundup.evaluate.{_HOME[name]}"), name)
