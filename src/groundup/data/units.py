"""Which files make one unit of work: cut once, from names and sizes alone, so that every machine cuts alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.archive import unpacked_bytes
from groundup.data.place import Input, resolve
from groundup.recipe.data import DataSection, Files, Source

GROUP_BYTES = 64 << 20
"""Of text, about: small files are read together up to this. No unit is tiny, and a kill costs no more than one."""


@dataclass(frozen=True)
class Unit:
    """Files of one source that are read by one worker into one file.

    Attributes:
        number: its place in the whole; of equal documents, the one in the lower unit stays.
        is_previous: it belongs to an earlier corpus, which is compared with and not written.
    """

    number: int
    source: Source
    files: tuple[Input, ...]
    is_previous: bool = False

    @property
    def name(self) -> str:
        return f"{self.number:05d}"

    @property
    def bytes(self) -> int:
        """Of the files that are here already."""
        return sum(file.path.stat().st_size for file in self.files if file.path.exists())


def cut(section: DataSection, machine: Machine, seed: int) -> list[Unit]:
    """All units of a recipe: first the earlier corpora, then the sources, each in the recipe's order."""
    units: list[Unit] = []
    for place in (*section.previous, *section.sources):
        source = place if isinstance(place, Source) else _as_source(place)
        group: list[Input] = []
        size = 0
        for file in resolve(place, machine, seed=seed, later=True):
            amount = GROUP_BYTES
            if file.url is None:
                amount = unpacked_bytes(file.name, file.path.stat().st_size)
            if group and size + amount > GROUP_BYTES:
                units.append(Unit(len(units), source, tuple(group), source is not place))
                group, size = [], 0
            group.append(file)
            size += amount
        units.append(Unit(len(units), source, tuple(group), source is not place))
    return units


def _as_source(place: Files) -> Source:
    """An earlier corpus is taken as it is."""
    return Source(**place.model_dump(), steps=False)


def task(
    unit: Unit, section: DataSection, folder: Path, seed: int, machine: Machine, **more: Any
) -> dict[str, Any]:
    """What a worker is told of a unit, as JSON values."""
    return {
        "number": unit.number,
        "section": section.model_dump(mode="json"),
        "source": unit.source.model_dump(mode="json"),
        "keep_downloads": unit.source.keep_downloads,
        "files": [
            [file.name, str(file.path), file.url, file.members, file.is_package] for file in unit.files
        ],
        "folder": str(folder),
        "seed": seed,
        "cache": str(machine.cache),
        "offline": machine.offline,
        **more,
    }
