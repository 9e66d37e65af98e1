"""Plans beside what was measured: over all runs, and for each stage of one run."""

import json
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.report import plan_history
from groundup.report.plan_history import format_history, read_history, summarize_errors
from groundup.report.run_data import collect_run
from groundup.report.sections.plan_vs_actual_section import plan_vs_actual_section


def change(path: Path, **values) -> None:
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


@pytest.fixture
def two_runs(write_run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two runs whose pretraining took half and twice the planned time, with a planned 1 GB and 1.25 GB measured."""
    for name, hours in (("fast", 2.0), ("slow", 0.5)):
        run = write_run(tmp_path / name)
        plan, manifest = (
            json.loads((run / "plan.json").read_text()),
            json.loads((run / "04-base/manifest.json").read_text()),
        )
        hours *= manifest["provenance"]["seconds"] / 3600 * plan["train"]["tokens"] / manifest["metrics"]["tokens"]
        plan["memory"]["total"] = 1e9
        change(run / "plan.json", hours=hours, memory=plan["memory"])
        monkeypatch.setattr(plan_history, "processor_name", lambda: "An Imaginary Processor @ 2.60GHz")
    monkeypatch.setattr(plan_history, "peak_memory", lambda _: 1.25e9)
    return tmp_path


def test_history_has_the_error_of_every_run(two_runs: Path):
    history = read_history(two_runs)
    assert [row.run for row in history] == ["fast", "slow"]
    assert [row.time_error for row in history] == pytest.approx([1.0, -0.5])
    summary = summarize_errors(history)
    assert summary["time"]["largest"] == pytest.approx(1.0)
    assert summary["memory"] == pytest.approx({"runs": 2, "median": -0.2, "median_size": 0.2, "largest": -0.2})
    text = format_history(history)
    assert "time: typical error 75%, median +25%, largest +100%, of 2 runs" in text


def test_runs_of_another_processor_are_shown_and_not_counted(two_runs: Path, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(plan_history, "processor_name", lambda: "another")
    summary = summarize_errors(read_history(two_runs))
    assert (summary["runs"], summary["elsewhere"], summary["time"]["median"]) == (0, 2, None)
    assert "fast (elsewhere)" in format_history(read_history(two_runs))


def test_history_needs_a_run(tmp_path: Path):
    with pytest.raises(UserError, match="no run with a complete pretraining"):
        read_history(tmp_path)


def test_report_has_planned_and_actual_time_of_each_stage(write_run, tmp_path: Path):
    run = write_run(tmp_path / "made-up")
    change(run / "plan.json", stage_seconds={"data": 10.0, "train": 20.0, "absent": 1.0})
    section = plan_vs_actual_section(collect_run(run))
    assert section is not None
    [table] = [b for b in section["elements"] if b["kind"] == "table" and "by table of the recipe" in b["caption"]]
    assert [row[0] for row in table["rows"]] == [["[data]"], ["[train]"], ["total"]]
    assert table["rows"][0][1] == ["10\u00a0s"]
