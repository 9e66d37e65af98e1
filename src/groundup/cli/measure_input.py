"""The language measures of `groundup evaluate`: their texts from a run or a file, and their lines on the terminal."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.measure_rows import measure_rows
from groundup.artifacts.progress import Progress
from groundup.cli.text_input import read_text
from groundup.stages import STAGE_FOLDERS

MAX_TOKENS = 16_384
"""Of held-out text."""


def measure_model(path: Path, model: Any, tokenizer: Any, text: Path | None, progress: Progress) -> dict[str, Any]:
    """The language measures of a decoder on a text, or on the held-out text of the run at `path`.

    Memorization needs a run; so does the overlap of samples with training text, and the index of `groundup trace`.
    Raises UserError where there is no held-out text.
    """
    from groundup.evaluate import sample_validation_documents, score_documents, text_document
    from groundup.evaluate.language_measures import language_scores, measure_language
    from groundup.evaluate.text_documents import split_spans
    from groundup.evaluate.trace.run_tracer import INDEX_FOLDER, token_folder
    from groundup.evaluate.trace.suffix_array import INDEX_FILE, SuffixArray
    from groundup.tokenizer import TokenShard

    shards, index = None, None
    if path.is_dir() and any((path / STAGE_FOLDERS[name]).is_dir() for name in ("tokens", "base")):
        folder = token_folder(path)
        train, held_out = TokenShard(f"{folder}/train"), TokenShard(f"{folder}/validation")
        if train.tokenizer == tokenizer.fingerprint:
            shards = (train, held_out)
            if (path / INDEX_FOLDER / INDEX_FILE).is_file():
                index = SuffixArray.open(train, path / INDEX_FOLDER, progress=progress)
    if text is not None:
        documents = [text_document(tokenizer, span) for span in split_spans(read_text(text))]
    elif shards is not None:
        documents = sample_validation_documents(shards[1], tokenizer, max_tokens=MAX_TOKENS, seed=0)
    else:
        raise UserError(f"--language-measures: {path} holds no held-out text", hint="--text FILE, or name a run")
    texts = [tokenizer.decode(list(document.ids[document.num_context_tokens :])) for document in documents]
    with progress.task("scoring", total=sum(each.num_scored_tokens for each in documents), unit="tokens") as task:
        scores = score_documents(model, documents, progress=task)
    return {"languages": language_scores(texts, scores)} | measure_language(
        model, tokenizer, documents, seed=0, progress=progress, shards=shards, index=index
    )


def labelled_texts(path: Path) -> list[tuple[str, str]]:
    """The texts and labels of a JSON or CSV file. Raises UserError for a file without any."""
    from groundup.finetune.training_data.example_sources import read_examples
    from groundup.recipe.finetune_config import ExampleSourceConfig

    source = ExampleSourceConfig(name=str(path), kind="labels", path=str(path))
    return [(example.text, example.target) for example in read_examples([source], Machine())[0]]


def measure_lines(scores: Mapping[str, Any]) -> Iterator[str]:
    """A line for each measure and for the probe."""
    rows = list(measure_rows(scores.get("language_measures", {})))
    widths = [max((len(row[column]) for row in rows), default=0) for column in range(3)]
    for name, value, interval, beside in rows:
        yield f"{name:<{widths[0]}}  {value:>{widths[1]}}  {interval:<{widths[2]}}  {beside}"
    if probe := scores.get("probe"):
        low, high = probe["interval"]
        yield (
            f"linear probe     {probe['accuracy']:.1%} ({low:.1%} to {high:.1%}) of {probe['items']:,} texts, "
            f"{probe['labels']} labels; words (TF-IDF) {probe['tf_idf']:.1%}, most frequent label {probe['majority']:.1%}"
        )
