"""Work units: files of one source that one worker reads. Planned from names and sizes, equal on every machine."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.archive import estimate_text_bytes
from groundup.data.inputs import InputFile, resolve_files
from groundup.recipe.data_config import DataConfig, SourceConfig

UNIT_BYTES = 64 << 20
"""Approximate text of one unit; smaller files are grouped. An interruption loses at most the units in progress."""


@dataclass(frozen=True)
class WorkUnit:
    """Files of one source, read by one worker into one parquet file.

    Attributes:
        index: position in the plan; of equal documents the one in the lower unit stays.
        is_dedup_reference: part of data.dedup_against: compared with, not written.
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
        """Bytes of the files that are on this machine."""
        return sum(file.path.stat().st_size for file in self.files if file.path.exists())


def plan_units(config: DataConfig, machine: Machine, seed: int) -> list[WorkUnit]:
    """All units: first data.dedup_against, then data.sources, each in the recipe's order."""
    units: list[WorkUnit] = []
    for spec in (*config.dedup_against, *config.sources):
        is_source = isinstance(spec, SourceConfig)
        source = spec if is_source else SourceConfig(**spec.model_dump(), clean=False)
        group: list[InputFile] = []
        group_bytes = 0
        for file in resolve_files(spec, machine, seed=seed, lazy=True):
            text_bytes = UNIT_BYTES
            if file.url is None:
                text_bytes = estimate_text_bytes(file.name, file.path.stat().st_size)
            if group and group_bytes + text_bytes > UNIT_BYTES:
                units.append(WorkUnit(len(units), source, tuple(group), not is_source))
                group, group_bytes = [], 0
            group.append(file)
            group_bytes += text_bytes
        units.append(WorkUnit(len(units), source, tuple(group), not is_source))
    return units


def unit_task(
    unit: WorkUnit, config: DataConfig, folder: Path, seed: int, machine: Machine, **more: Any
) -> dict[str, Any]:
    """Argument of `process_unit` as JSON values."""
    return {
        "unit": unit.index,
        "config": config.model_dump(mode="json"),
        "source": unit.source.model_dump(mode="json"),
        "keep_downloads": unit.source.keep_downloads,
        "files": [[file.name, str(file.path), file.url, file.members, file.is_package] for file in unit.files],
        "folder": str(folder),
        "seed": seed,
        "cache": str(machine.cache_dir),
        "offline": machine.offline,
        **more,
    }
