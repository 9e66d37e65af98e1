"""Where a text stands in the training data, word for word.

    suffix_array.py        suffix arrays of a token shard: built within a memory limit, counts and positions of n-grams
    verbatim_spans.py      the longest spans of a text that stand in the training text
    training_documents.py  source, id, license and text of a document of the shard
    run_tracer.py          the three together, for a run

In the manner of OLMoTrace (Liu et al. 2025, arXiv:2504.07096) and infini-gram (Liu et al. 2024, arXiv:2401.17377).
"""

from groundup.evaluate.trace.run_tracer import RunTracer, Trace, TracedSpan, open_tracer
from groundup.evaluate.trace.suffix_array import SuffixArray

__all__ = ["RunTracer", "SuffixArray", "Trace", "TracedSpan", "open_tracer"]
