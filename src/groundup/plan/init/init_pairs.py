"""`groundup init` for the goals translate and summarize: pairs of texts, which are text of pretraining, too."""

from collections.abc import Sequence
from pathlib import Path

from groundup.recipe.data_config import FilesConfig

MIN_PAIR_WIDTH, PAIR_BLOCKS = 128, 3
"""Smaller models learn no translation, however long (lab book); blocks of the encoder and of the decoder."""
TABLES = (".csv", ".tsv", ".parquet", ".arrow")
CATALOGUE_TEXT = 0.3
"""Translated messages in the bytes of a gettext catalogue, by and large."""


def grouped_paths(paths: Sequence[str]) -> list[str]:
    """`paths`; all files of one suffix in a folder as one glob.

    >>> grouped_paths(["a.jsonl"])
    ['a.jsonl']
    """
    groups: dict[str, list[str]] = {}
    for path in paths:
        groups.setdefault(str(Path(path).parent / f"*{Path(path).suffix}"), []).append(path)
    grouped: list[str] = []
    for glob, members in groups.items():
        folder = Path(glob).parent.expanduser()
        is_all = len(members) > 1 and len(set(members)) == len(list(folder.glob(Path(glob).name)))
        grouped += [glob] if is_all else members
    return grouped


def pair_sources(paths: Sequence[str]) -> list[FilesConfig]:
    """Sources of text with the pairs in `paths`."""
    return [
        FilesConfig(name=f"pairs-{number}", kind="gettext", path=path)
        if path.endswith(".po")
        else FilesConfig(
            name=f"pairs-{number}",
            kind="table" if path.endswith(TABLES) else "jsonl",
            path=path,
            text_column="messages",
        )
        for number, path in enumerate(grouped_paths(paths), start=1)
    ]


def pair_bytes(paths: Sequence[str]) -> float:
    """Estimated text in the files of pairs."""
    return sum(
        Path(path).expanduser().stat().st_size * (CATALOGUE_TEXT if path.endswith(".po") else 1.0) for path in paths
    )
