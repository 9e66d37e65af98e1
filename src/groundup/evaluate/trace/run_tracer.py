"""Tracing of texts to the training text of a run: pretraining's, which its token shards hold."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.arguments import check_text
from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import Progress
from groundup.evaluate.trace.suffix_array import DEFAULT_MEMORY, SuffixArray
from groundup.evaluate.trace.training_documents import TrainingDocuments
from groundup.evaluate.trace.verbatim_spans import VerbatimSpan, covered_fraction, find_spans
from groundup.stages import STAGE_FOLDERS
from groundup.tokenizer import Tokenizer, TokenShard

INDEX_FOLDER = "trace-index"
"""In the run folder; it may be removed at any time."""

MIN_WORDS = 6
CONTEXT_TOKENS = 24
"""Shown on either side of a span."""
MAX_POSITIONS = 1_000
"""Of a span, whose documents are looked up."""
CONTAMINATION_WORDS = 8
"""Text of an evaluation item is contaminated in a span of so many words; Touvron et al. 2023 (arXiv:2307.09288, A.6) take ten
tokens."""
DIRTY_FRACTION = 0.8
"""Of the item that is contaminated, at least, in a dirty item (ibid.)."""


@dataclass(frozen=True)
class SpanDocument:
    """A training document with a span: the text around its first place in it, and how often the span was found in it."""

    source: str
    id: str
    license: str
    count: int
    before: str
    span: str
    after: str


@dataclass(frozen=True)
class TracedSpan:
    """text[begin:end] of the traced text.

    Attributes:
        words, tokens: its length.
        count: how often it stands in the training text, repeated epochs included.
        num_documents: that hold it, among its first `MAX_POSITIONS` places.
        documents: the first of them.
    """

    begin: int
    end: int
    text: str
    words: int
    tokens: int
    count: int
    num_documents: int
    documents: list[SpanDocument]


@dataclass(frozen=True)
class Trace:
    """`coverage` is the fraction of the characters of `text` that are in spans, those that are not listed included."""

    text: str
    coverage: float
    min_words: int
    corpus_tokens: int
    spans: list[TracedSpan]

    def as_json(self) -> dict[str, Any]:
        return asdict(self)


@dataclass(frozen=True)
class ItemOverlap:
    """`fraction` of an evaluation item is in spans of `CONTAMINATION_WORDS` words or more; `longest` is the longest one."""

    item: str
    fraction: float
    longest: str

    @property
    def is_dirty(self) -> bool:
        return self.fraction >= DIRTY_FRACTION


class RunTracer:
    """Finds where texts stand in a training shard."""

    def __init__(self, index: SuffixArray, tokenizer: Tokenizer, documents: TrainingDocuments):
        self.index, self.tokenizer, self.documents = index, tokenizer, documents

    def trace(
        self, text: str, *, min_words: int = MIN_WORDS, max_spans: int | None = None, max_documents: int = 3
    ) -> Trace:
        """The longest spans of `text` that stand word for word in the training text, longest first."""
        check_text(text)
        spans = find_spans(self.index, self.tokenizer, text, min_words)
        traced = [self._with_documents(text, span, max_documents) for span in spans[:max_spans]]
        return Trace(text, covered_fraction(spans, text), min_words, self.index.shard.num_tokens, traced)

    def count(self, text: str) -> int:
        """How often `text` stands in the training text, by itself or after a space.

        The beginning or end of a longer word does not count, as far as its tokens are others.
        """
        check_text(text)
        forms = {tuple(self.tokenizer.encode(form)) for form in (text, text if text[:1].isspace() else f" {text}")}
        return sum(self.index.count(ids) for ids in forms)

    def overlaps(self, items: Sequence[tuple[str, str]], progress: Progress) -> list[ItemOverlap]:
        """How much of each evaluation item (name, text) stands in the training text."""
        found = []
        with progress.task("tracing items", total=len(items), unit="items") as task:
            for name, text in items:
                spans = find_spans(self.index, self.tokenizer, text, CONTAMINATION_WORDS)
                longest = text[spans[0].begin : spans[0].end] if spans else ""
                found.append(ItemOverlap(name, covered_fraction(spans, text), longest))
                task.advance()
        return found

    def _with_documents(self, text: str, span: VerbatimSpan, max_documents: int) -> TracedSpan:
        places: dict[tuple[str, str], list[int]] = {}
        for position in self.index.positions(span.ids, MAX_POSITIONS):
            document = self.documents.at(position)
            places.setdefault((document.source, document.id or str(document.number)), []).append(position)
        shown = []
        for (source, id), positions in list(places.items())[:max_documents]:
            before, words, after = self.documents.around(positions[0], len(span.ids), CONTEXT_TOKENS)
            license = self.documents.at(positions[0]).license
            shown.append(SpanDocument(source, id, license, len(positions), before, words, after))
        return TracedSpan(
            span.begin, span.end, text[span.begin : span.end], span.words, len(span.ids), span.count, len(places), shown
        )


def open_tracer(run: Path, *, memory: int = DEFAULT_MEMORY, progress: Progress | None = None) -> RunTracer:
    """The tracer of a run, whose index is built in the run folder at first.

    Args:
        memory: bytes to build the index with.

    Raises UserError for a folder without training tokens.
    """
    folder = token_folder(run)
    is_own = folder == str(run / STAGE_FOLDERS["tokens"])
    shard = TokenShard(f"{folder}/train")
    tokenizer = Tokenizer.load(run / STAGE_FOLDERS["tokenizer"])
    shard.check_tokenizer(tokenizer)
    index = SuffixArray.open(shard, run / INDEX_FOLDER, memory=memory, progress=progress)
    data = run / STAGE_FOLDERS["data"]
    return RunTracer(index, tokenizer, TrainingDocuments(shard, tokenizer, data if is_own and data.is_dir() else None))


def token_folder(run: Path) -> str:
    """The folder or address of the token shards that a run was trained on. Raises UserError where there are none."""
    manifest = Manifest.read(run / STAGE_FOLDERS["base"])
    token_shards = (manifest.sections.get("train") or {}).get("token_shards") if manifest else None
    folder = str(run / STAGE_FOLDERS["tokens"]) if token_shards is None else token_shards
    if token_shards is None and not Path(f"{folder}/train.json").is_file():
        raise UserError(
            f"{run}: no {STAGE_FOLDERS['tokens']}/train.json: not a run with training text",
            hint="a run that pretrains holds its tokens: groundup run RECIPE --until tokens",
        )
    return folder
