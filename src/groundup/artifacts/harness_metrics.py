"""The scores of tasks of lm-evaluation-harness, as a stage writes them and the report reads them."""

from collections.abc import Iterator, Mapping
from typing import Any

INTERVAL = "_interval"
"""End of the names of intervals among the metrics of a task."""


def metric_rows(
    scores: Mapping[str, Mapping[str, Any]],
) -> Iterator[tuple[str, str, float, list[float] | None, int | None]]:
    """(task, metric, value, its interval or None, items or None) of each metric of each task."""
    for task, values in scores.items():
        for metric, value in values.items():
            if metric != "items" and not metric.endswith(INTERVAL):
                yield task, metric, value, values.get(f"{metric}{INTERVAL}"), values.get("items")
