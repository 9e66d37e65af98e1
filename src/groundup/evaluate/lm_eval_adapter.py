"""The tasks of lm-evaluation-harness (Gao et al. 2021) on any decoder that groundup opens.

The harness chooses prompts, few-shot examples, metrics and filters; this module answers its three questions: the
log-likelihood of a continuation, that of a whole text, and a generated answer. Scores are those of its own adapter for
Hugging Face models on the same weights.

Datasets come from the Hugging Face hub, or offline from a folder (harness_datasets.py). Programs that the model writes run in a
sandbox (code_sandbox.py).
"""

import importlib
import logging
import random
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import ModuleType
from typing import Any

import lm_eval.api.task as harness_task  # pyright: ignore[reportMissingImports]
import numpy as np
import torch
from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate.answer_cache import AnswerCache
from groundup.evaluate.code_eval import SandboxedCodeEval
from groundup.evaluate.comparison.item_scores import ItemScore
from groundup.evaluate.continuations import iter_continuation_scores
from groundup.evaluate.harness_datasets import local_datasets
from groundup.evaluate.harness_tasks import harness_tasks
from groundup.evaluate.intervals import ratio_interval, share_interval
from groundup.evaluate.likelihood import ScoredDocument, score_documents
from groundup.generate import SamplingParams, complete_texts
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

MAX_ANSWER_TOKENS = 256
"""Of an answer whose task names no limit, as in the harness."""


class HarnessModel(TemplateLM):  # pyright: ignore[reportUntypedBaseClass]
    """A decoder as lm-evaluation-harness asks it."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer: Tokenizer,
        progress: Progress,
        *,
        cache: AnswerCache | None = None,
        max_batch: int = 8,
    ):
        super().__init__()
        if not isinstance(model, Decoder):
            raise UserError(
                f"{type(model).__name__} does not define the likelihood of a text, expected a decoder",
                hint="encoders and encoder-decoders are scored by masked tokens of a text",
            )
        self.model, self.text_tokenizer, self.progress, self.max_batch = model, tokenizer, progress, max_batch
        self.cache = cache or AnswerCache(None)

    @property
    def eot_token_id(self) -> int:
        end = self.text_tokenizer.eos_id
        return self.prefix_token_id if end is None else end

    @property
    def prefix_token_id(self) -> int:
        """The context of a text without one: the bos token, else the eos token."""
        for token in (self.text_tokenizer.bos_id, self.text_tokenizer.eos_id):
            if token is not None:
                return token
        raise UserError("the tokenizer has neither a bos nor an eos token, which texts without a context need")

    @property
    def max_length(self) -> int:
        return self.model.config.cached_context_length

    @property
    def tokenizer_name(self) -> str:
        """Part of the key of the harness's cache of prompts."""
        return self.text_tokenizer.fingerprint

    def tok_encode(self, string: str, add_special_tokens: bool | None = None, **_: Any) -> list[int]:
        """With the special tokens that the tokenizer adds to every text, unless told not to, or the text begins with them.

        Special tokens in the text are special: it may be a rendered conversation.
        """
        if add_special_tokens is None:
            start = self.text_tokenizer.bos or self.text_tokenizer.eos
            add_special_tokens = start is None or not string.startswith(start)
        return self.text_tokenizer.parse_text(string, add_special_tokens=add_special_tokens)

    def loglikelihood(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[tuple[float, bool]]:
        return super().loglikelihood(requests, disable_tqdm=True)  # our own progress

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without the generation prompt, its last message is the beginning of an answer."""
        return self.text_tokenizer.chat_text(
            chat_history, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.text_tokenizer.chat_template if chat_template else None

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Any]:
        keys = [self.cache.key("continuation", tuple(context), tuple(ending)) for _, context, ending in requests]
        missing = self._missing(keys)
        names, pairs = list(missing), [requests[index][1:] for index in missing.values()]
        with self.progress.task("scoring", total=len(pairs), unit="continuations") as task:
            for batch in iter_continuation_scores(self.model, pairs):
                for index, score in batch.items():
                    self.cache.store(names[index], score)
                task.advance(len(batch))
        return [tuple(self.cache.answers[key]) for key in keys]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, after the prefix token; windows of the context do not overlap, as in the harness."""
        keys = [self.cache.key("text", request.args[0]) for request in requests]
        missing = self._missing(keys)
        texts = [requests[index].args[0] for index in missing.values()]
        documents = [
            ScoredDocument([self.prefix_token_id, *self.tok_encode(text)], len(text.encode())) for text in texts
        ]
        if documents:
            total = sum(document.num_scored_tokens for document in documents)
            with self.progress.task("scoring", total=total, unit="tokens") as task:
                scores = score_documents(self.model, documents, stride=self.max_length, progress=task)
            for key, nats in zip(missing, scores.document_nats, strict=True):
                self.cache.store(key, -nats)
        return [self.cache.answers[key] for key in keys]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        keys, groups = list[str](), dict[str, list[str]]()
        for number, request in enumerate(requests):
            options = repr(sorted(request.args[1].items()))
            sampled = (number,) if request.args[1].get("do_sample") else ()
            keys.append(self.cache.key("answer", request.args[0], options, *sampled))
        missing = self._missing(keys)
        for key, number in missing.items():
            groups.setdefault(repr(sorted(requests[number].args[1].items())), []).append(key)
        with self.progress.task("answering", total=len(missing), unit="answers") as task:
            for names in groups.values():
                prompts = [requests[missing[name]].args[0] for name in names]
                answers = self._complete(prompts, requests[missing[names[0]]].args[1])
                for name, answer in zip(names, answers, strict=True):
                    self.cache.store(name, answer)
                    task.advance()
        return [self.cache.answers[key] for key in keys]

    def _complete(self, prompts: Sequence[str], settings: Mapping[str, Any]) -> Iterator[str]:
        """Answers to prompts that have the same settings."""
        options = normalize_gen_kwargs(dict(settings), MAX_ANSWER_TOKENS)
        limit = options["max_gen_toks"]
        if limit >= self.max_length:
            raise UserError(
                f"answers of {limit} tokens, expected fewer than the context of the model, {self.max_length}"
            )
        room = self.max_length - limit
        texts = [self.tok_encode(prompt)[-room:] or [self.prefix_token_id] for prompt in prompts]
        temperature = options.get("temperature", 1.0) if options["do_sample"] else 0.0
        for (answer,) in complete_texts(
            self.model, self.text_tokenizer, texts, max_tokens=limit,
            sampling=SamplingParams(temperature=temperature, seed=0),
            stop=[text for text in options["until"] if text], max_batch=self.max_batch,
        ):  # fmt: skip
            if answer.error is not None:
                raise answer.error
            yield answer.text

    def _missing(self, keys: Sequence[str]) -> dict[str, int]:
        """Of each question that has no answer yet, the index of its first request."""
        missing: dict[str, int] = {}
        for index, key in enumerate(keys):
            if key not in self.cache.answers:
                missing.setdefault(key, index)
        return missing


def run_harness(
    model: nn.Module,
    tokenizer: Tokenizer,
    tasks: Sequence[str],
    progress: Progress,
    *,
    datasets_folder: Path | None = None,
    num_fewshot: int | None = None,
    limit: int | None = None,
    apply_chat_template: bool = False,
    cache: Path | None = None,
    seed: int = 0,
    items: list[ItemScore] | None = None,
) -> dict[str, dict[str, Any]]:
    """The scores of `tasks` (names of lm-evaluation-harness), by task and group.

    Each: {"items", and of each metric its mean, "<metric>_interval" (95%)}, as far as it is a mean over items; other metrics
    (of groups, F1 ...) have the harness's value alone.

    Args:
        datasets_folder: where the datasets are, offline; default: the hub.
        num_fewshot: solved examples before each question; default: the task's own number.
        limit: first items of each task only.
        cache: file of answers, read and continued (answer_cache.py).
        items: to which the scores of single items are appended, of the metrics with an interval.

    Raises UserError for a task that the harness does not know or that would run programs outside of the sandbox, and for a
    dataset that is not there.
    """
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]

    lm = HarnessModel(model, tokenizer, progress, cache=AnswerCache(cache, model))
    with local_datasets(datasets_folder, progress.log), sandboxed_metrics(), _without_bars(), _kept_random_states():
        found = simple_evaluate(
            lm, tasks=list(tasks), task_manager=harness_tasks(tasks, num_fewshot), num_fewshot=num_fewshot, limit=limit,
            apply_chat_template=apply_chat_template, bootstrap_iters=0, random_seed=seed, numpy_random_seed=seed,
            torch_random_seed=seed, fewshot_random_seed=seed, verbosity="ERROR", confirm_run_unsafe_code=True,
        )  # fmt: skip
    assert found is not None
    samples = found.get("samples", {})
    if items is not None:
        for name, rows in samples.items():
            items += _item_scores(name, found["results"][name], rows)
    return {name: _summarize(values, samples.get(name, [])) for name, values in found["results"].items()}


def check_datasets(names: Sequence[str], folder: Path, num_fewshot: int | None) -> None:
    """Raises UserError for a task whose dataset is not in `folder`, or that cannot be run as asked."""
    with local_datasets(folder, lambda note: None), sandboxed_metrics(), _without_bars():
        harness_tasks(names, num_fewshot).load(names)


@contextmanager
def sandboxed_metrics() -> Iterator[None]:
    """The metric `code_eval`, which tasks with programs load, is the sandbox's inside of this context."""
    original = sys.modules.get("evaluate")
    metrics = _Metrics("evaluate")
    sys.modules["evaluate"] = metrics
    try:
        yield
    finally:
        del sys.modules["evaluate"]
        if original is not None:
            sys.modules["evaluate"] = original


class _Metrics(ModuleType):
    """Stands for the package `evaluate`, which takes seconds to import, until a task asks for another of its metrics."""

    def load(self, path: str, *args: Any, **options: Any) -> Any:
        return SandboxedCodeEval() if path == "code_eval" else self._package().load(path, *args, **options)

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self._package(), name)

    def _package(self) -> Any:
        del sys.modules["evaluate"]
        try:
            return importlib.import_module("evaluate")
        finally:
            sys.modules["evaluate"] = self


@contextmanager
def _without_bars() -> Iterator[None]:
    """Without the harness's own bars of progress and warnings."""
    logger = logging.getLogger("lm_eval")
    bar, level = harness_task.tqdm, logger.level
    harness_task.tqdm = lambda items, **_: items
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        harness_task.tqdm = bar
        logger.setLevel(level)


@contextmanager
def _kept_random_states() -> Iterator[None]:
    """The harness seeds the generators of the process, which training goes on with."""
    python, arrays = random.getstate(), np.random.get_state()
    with torch.random.fork_rng(devices=range(torch.cuda.device_count())):
        try:
            yield
        finally:
            random.setstate(python)
            np.random.set_state(arrays)


def _summarize(values: dict[str, Any], samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of a task, with intervals over its items; copies of an item are one cluster."""
    scores: dict[str, Any] = {"items": len({row["doc_id"] for row in samples})} if samples else {}
    for name, value, items, hashes in _metrics(values, samples):
        scores[name] = value
        if items:
            is_share = set(items) <= {0.0, 1.0}
            scores[f"{name}_interval"] = (
                share_interval(items, hashes) if is_share else ratio_interval(items, [1.0] * len(items), hashes)
            )
    return scores


def _item_scores(task: str, values: dict[str, Any], samples: Sequence[dict[str, Any]]) -> list[ItemScore]:
    """Of a task; items are known by the harness's hash of their content."""
    return [
        ItemScore(task, name, str(item), score)
        for name, _, items, hashes in _metrics(values, samples)
        for score, item in zip(items, hashes, strict=True)
    ]


def _metrics(
    values: dict[str, Any], samples: Sequence[dict[str, Any]]
) -> Iterator[tuple[str, float, list[float], list[Any]]]:
    """(name, value, score of each item, its hash) of each metric; no items where the value is not their mean."""
    for key, value in values.items():
        metric, _, filter_name = key.partition(",")
        if not isinstance(value, (int, float)) or metric.endswith("_stderr") or not filter_name:
            continue
        name = metric if filter_name == "none" else f"{metric} ({filter_name})"
        rows = [row for row in samples if row.get("filter", "none") == filter_name and _is_number(row.get(metric))]
        items = [float(row[metric]) for row in rows]
        hashes = [row.get("doc_hash", index) for index, row in enumerate(rows)]
        is_mean = bool(items) and abs(sum(items) / len(items) - value) < 1e-9
        yield name, float(value), items if is_mean else [], hashes if is_mean else []


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))
