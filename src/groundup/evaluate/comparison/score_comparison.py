"""Entries of one or several seeds side by side: each with the first one, paired by item."""

import math
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from groundup.artifacts.errors import UserError
from groundup.evaluate.comparison.item_scores import LOWER_IS_BETTER, ItemScore
from groundup.evaluate.intervals import (
    PairedDifference,
    paired_difference,
    ratio_interval,
    share_interval,
    student_quantile,
)

Measure = tuple[str, str]
"""Task and metric."""


@dataclass(frozen=True)
class EntryScore:
    """One entry under one measure.

    Attributes:
        score: mean over its seeds, of the items that all entries have.
        interval: [low, high] at 95%; of several seeds, over seeds too. None for one item.
        seed_scores: of each seed.
        difference: this entry less the first one; None for the first.
    """

    name: str
    score: float
    interval: list[float] | None
    seed_scores: list[float]
    difference: PairedDifference | None


@dataclass(frozen=True)
class MeasureComparison:
    """All entries under one measure; `unpaired` items are not in all of them and left out."""

    task: str
    metric: str
    items: int
    unpaired: int
    entries: list[EntryScore]

    @property
    def lower_is_better(self) -> bool:
        return self.metric in LOWER_IS_BETTER

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"lower_is_better": self.lower_is_better}


def compare_entries(entries: Mapping[str, Sequence[Sequence[ItemScore]]]) -> list[MeasureComparison]:
    """Comparisons of the measures that all entries have, in the order of the first one.

    Args:
        entries: by name, the item scores of each seed.

    Raises UserError with fewer than two entries, and where they have no measure in common.
    """
    if len(entries) < 2:
        raise UserError(f"{len(entries)} entry to compare, expected at least two")
    tables = {name: [_by_measure(scores) for scores in seeds] for name, seeds in entries.items()}
    everything = [table for seeds in tables.values() for table in seeds]
    common = [measure for measure in everything[0] if all(measure in table for table in everything)]
    found = [comparison for measure in common if (comparison := _compare(measure, tables))]
    if not found:
        raise UserError(
            f"{', '.join(entries)}: no items in common",
            hint="scores pair on the same held-out text and the same task files; --text FILE or --task FILE scores both now",
        )
    return found


def _by_measure(scores: Sequence[ItemScore]) -> dict[Measure, dict[tuple[str, int], ItemScore]]:
    """Items by key; copies of an item are numbered."""
    tables: dict[Measure, dict[tuple[str, int], ItemScore]] = defaultdict(dict)
    copies: Counter[tuple[str, str, str]] = Counter()
    for score in scores:
        name = (score.task, score.metric, score.item)
        tables[score.task, score.metric][score.item, copies[name]] = score
        copies[name] += 1
    return tables


def _compare(measure: Measure, tables: Mapping[str, Sequence[Mapping[Measure, Any]]]) -> MeasureComparison | None:
    everything = [table[measure] for seeds in tables.values() for table in seeds]
    keys = [key for key in everything[0] if all(key in table for table in everything)]
    if not keys:
        return None
    unpaired = len(set().union(*everything)) - len(keys)
    sizes = [everything[0][key].size for key in keys]
    clusters = [everything[0][key].cluster or key[0] for key in keys]
    rows = {name: [[table[measure][key].score for key in keys] for table in seeds] for name, seeds in tables.items()}
    is_share = set(sizes) == {1.0} and all(0 <= each <= 1 for seeds in rows.values() for row in seeds for each in row)
    first = next(iter(rows))
    scores = []
    for name, seeds in rows.items():
        difference = (
            paired_difference(rows[first], seeds, sizes, clusters, is_share=is_share) if name != first else None
        )
        seed_scores = [sum(row) / sum(sizes) for row in seeds]
        interval = _interval(seeds, sizes, clusters, is_share)
        scores.append(EntryScore(name, sum(seed_scores) / len(seeds), interval, seed_scores, difference))
    return MeasureComparison(*measure, len(keys), unpaired, scores)


def _interval(
    seeds: Sequence[Sequence[float]], sizes: Sequence[float], clusters: Sequence[str], is_share: bool
) -> list[float] | None:
    """Over items; with several seeds, their variance is added."""
    mean = np.mean(seeds, axis=0).tolist()
    bounds = share_interval(mean, clusters) if is_share else ratio_interval(mean, sizes, clusters)
    if bounds is None or len(seeds) == 1:
        return bounds
    totals = np.sum(seeds, axis=1) / sum(sizes)
    of_seeds = student_quantile(len(seeds) - 1) * float(totals.std(ddof=1)) / math.sqrt(len(seeds))
    score = float(totals.mean())
    low, high = score - math.hypot(score - bounds[0], of_seeds), score + math.hypot(bounds[1] - score, of_seeds)
    return [max(0.0, low), min(1.0, high)] if is_share else [low, high]
