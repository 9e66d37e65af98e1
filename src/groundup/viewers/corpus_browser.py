"""Documents of a data folder: kept, dropped, changed, duplicates, contaminated; read lazily."""

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.jsonl_file import read_jsonl
from groundup.artifacts.manifest import Manifest
from groundup.data.work_files import open_parquet
from groundup.recipe.data_config import PiiTokensConfig
from groundup.stages import STAGE_FOLDERS

ENTRY_KINDS = ("kept", "dropped", "changed", "duplicates", "contaminated")
DATA_FOLDER = STAGE_FOLDERS["data"]
SPLITS = ("train", "validation")
BATCH_ROWS = 64


@dataclass(frozen=True)
class CorpusEntry:
    """One document or cluster.

    Attributes:
        kind: one of ENTRY_KINDS.
        reason: drop reason, step that changed it, cluster size, or evaluation item.
        split: split of a kept document.
        text: the text; of a changed document, an excerpt after the change.
        before: excerpt before the change, unless it is personal data.
        members: beginnings of some documents of a cluster.
    """

    kind: str
    source: str
    id: str
    text: str
    reason: str = ""
    split: str = ""
    before: str | None = None
    members: tuple[dict[str, str], ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Non-empty fields as a dictionary."""
        return {name: value for name, value in asdict(self).items() if value or name == "text"}


@dataclass(frozen=True)
class EntryFilters:
    """Selection by source, part of the reason, split and text. `seed` shuffles kept documents."""

    source: str | None = None
    reason: str | None = None
    split: str | None = None
    search: str | None = None
    seed: int | None = None

    def passes(self, entry: CorpusEntry) -> bool:
        if self.source and entry.source != self.source:
            return False
        if self.reason and _normalize_reason(self.reason) not in _normalize_reason(entry.reason):
            return False
        if not self.search:
            return True
        needle = self.search.casefold()
        texts = [entry.id, entry.text, entry.before or "", *(member["text"] for member in entry.members)]
        return any(needle in text.casefold() for text in texts)


class Corpus:
    """A data artifact, or any folder with train/*.parquet and the columns text, source and id.

    Attributes:
        metrics: of the manifest.
        pii_tokens: what personal data was replaced by, as in the recipe.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        manifest = Manifest.read(folder)
        self.metrics: dict[str, Any] = manifest.metrics if manifest else {}
        section = (manifest.sections.get("data") if manifest else None) or {}
        self.pii_tokens = tuple({**PiiTokensConfig().model_dump(), **section.get("pii", {}).get("tokens", {})}.values())

    @classmethod
    def open(cls, path: Path) -> "Corpus":
        """Open a run or a folder. Raises UserError if it has no corpus."""
        for folder in (path / DATA_FOLDER, path / f"{DATA_FOLDER}.partial", path):
            if any(folder.glob("train/*.parquet")) or (folder / "dropped").is_dir():
                return cls(folder)
        raise UserError(
            f"{path}: no {DATA_FOLDER}/, train/*.parquet or dropped/ in it",
            hint="create a corpus: groundup run RECIPE --until data",
        )

    def sources(self) -> list[str]:
        """Names of the sources, from the manifest or the sample files."""
        known = list(self.metrics.get("sources", {}))
        return known or sorted(path.stem for path in self.folder.glob("dropped/*.jsonl"))

    def reasons(self, kind: str) -> list[str]:
        """Reasons with samples of `kind`, sorted."""
        if kind not in ("dropped", "changed"):
            return []
        return sorted({entry.reason for entry in self.entries(kind, EntryFilters())})

    def entries(self, kind: str, filters: EntryFilters) -> Iterator[CorpusEntry]:
        """Entries of `kind` that pass the filters. Raises UserError for an unreadable file."""
        entries = {
            "kept": lambda: self._kept(filters),
            "dropped": self._dropped,
            "changed": self._changed,
            "duplicates": self._duplicates,
            "contaminated": self._contaminated,
        }[kind]()
        return (entry for entry in entries if filters.passes(entry))

    def _kept(self, filters: EntryFilters) -> Iterator[CorpusEntry]:
        splits = [filters.split] if filters.split else list(SPLITS)
        groups = [
            (split, path, group)
            for split in splits
            for path in sorted(self.folder.glob(f"{split}/*.parquet"))
            for group in range(_num_row_groups(path))
        ]
        rng = None if filters.seed is None else random.Random(filters.seed)
        if rng is not None:
            rng.shuffle(groups)
        for split, path, group in groups:
            for batch in _iter_batches(path, group, rng):
                for row in batch:
                    source, id = str(row.get("source") or ""), str(row.get("id") or "")
                    yield CorpusEntry("kept", source, id, row["text"] or "", split=split)

    def _dropped(self) -> Iterator[CorpusEntry]:
        for source, row in self._samples("dropped"):
            yield CorpusEntry("dropped", source, row.get("id", ""), row.get("text", ""), row.get("reason", "unknown"))

    def _changed(self) -> Iterator[CorpusEntry]:
        for source, row in self._samples("changed"):
            before, rule = row.get("before"), row.get("rule", "unknown")
            yield CorpusEntry("changed", source, row.get("id", ""), row.get("after", ""), rule, before=before)

    def _duplicates(self) -> Iterator[CorpusEntry]:
        for row in read_jsonl(self.folder / "clusters.jsonl"):
            members = tuple(row["members"])
            first = members[0]
            reason = f"{row['size']} duplicates"
            yield CorpusEntry("duplicates", first["source"], first["id"], first["text"], reason, members=members)

    def _contaminated(self) -> Iterator[CorpusEntry]:
        for row in read_jsonl(self.folder / "contaminated.jsonl"):
            yield CorpusEntry("contaminated", row["source"], row["id"], "", row["item"])

    def _samples(self, folder: str) -> Iterator[tuple[str, dict[str, Any]]]:
        for path in sorted(self.folder.glob(f"{folder}/*.jsonl")):
            for row in read_jsonl(path):
                yield path.stem, row


def _iter_batches(path: Path, group: int, rng: random.Random | None) -> Iterator[list[dict[str, Any]]]:
    """Rows of one row group, a few at a time; all at once in random order with `rng`."""
    with open_parquet(path, ("text",)) as file:
        columns = [name for name in ("text", "source", "id") if name in file.schema_arrow.names]
        if rng is None:
            for batch in file.iter_batches(BATCH_ROWS, row_groups=[group], columns=columns):
                yield batch.to_pylist()
        else:
            rows = file.read_row_group(group, columns=columns).to_pylist()
            rng.shuffle(rows)
            yield rows


def _num_row_groups(path: Path) -> int:
    with open_parquet(path, ("text",)) as file:
        return file.metadata.num_row_groups


def _normalize_reason(reason: str) -> str:
    return reason.casefold().replace("_", " ")
