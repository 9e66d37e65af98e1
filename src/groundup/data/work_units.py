"""Which files make one unit of work: cut once, from names and sizes alone, so that every machine cuts alike."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.archive import estimate_text_bytes
from groundup.data.inputs import InputFile, resolve_files
from groundup.recipe.data_config import DataConfig, FilesConfig, SourceConfig

UNIT_BYTES = 64 << 20
"""Of text, about: small files are read together up to this. No unit is tiny, and a kill costs no more than one."""


@dataclass(frozen=True)
class WorkUnit:
    """Files of one source that are read by one worker into one file.

    Attributes:
        number: its place in the whole; of equal documents, the one in the lower unit stays.
        is_previous: it belongs to an earlier corpus, which is compared with and not written.
    """

    index: int
    source: SourceConfig
    files: tuple[InputFile, ...]
    is_dedup_reference: bool = False

    @property
    def name(self) -> str:
        return f"{self.index:05d}"

    @property
    def local_bytes(self) -> int:
        """Of the files that are here already."""
        return sum(file.path.stat().st_size for file in self.files if file.path.exists())


def plan_units(section: DataConfig, machine: Machine, seed: int) -> list[WorkUnit]:
    """All units of a recipe: first the earlier corpora, then the sources, each in the recipe's order."""
    units: list[WorkUnit] = []
    for place in (*section.dedup_against, *section.sources):
        source = place if isinstance(place, SourceConfig) else _reference_source(place)
        group: list[InputFile] = []
        size = 0
        for file in resolve_files(place, machine, seed=seed, lazy=True):
            amount = UNIT_BYTES
            if file.url is None:
                amount = estimate_text_bytes(file.name, file.path.stat().st_size)
            if group and size + amount > UNIT_BYTES:
                units.append(WorkUnit(len(units), source, tuple(group), source is not place))
                group, size = [], 0
            group.append(file)
            size += amount
        units.append(WorkUnit(len(units), source, tuple(group), source is not place))
    return units


def _reference_source(spec: FilesConfig) -> SourceConfig:
    """An earlier corpus is taken as it is."""
    return SourceConfig(**spec.model_dump(), clean=False)


def unit_task(
    unit: WorkUnit, section: DataConfig, folder: Path, seed: int, machine: Machine, **more: Any
) -> dict[str, Any]:
    """What a worker is told of a unit, as JSON values."""
    return {
        "unit": unit.index,
        "section": section.model_dump(mode="json"),
        "source": unit.source.model_dump(mode="json"),
        "keep_downloads": unit.source.keep_downloads,
        "files": [
            [file.name, str(file.path), file.url, file.members, file.is_package] for file in unit.files
        ],
        "folder": str(folder),
        "seed": seed,
        "cache": str(machine.cache_dir),
        "offline": machine.offline,
        **more,
    }
