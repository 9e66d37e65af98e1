"""Training dashboard: record reader, panels, terminal and web page."""

import json
import math
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from starlette.testclient import TestClient

from groundup.artifacts.errors import UserError
from groundup.report.curves import downsample, smooth
from groundup.train.jsonl_log import JsonlLog
from groundup.viewers.braille_canvas import DOTS, EMPTY, BrailleCanvas, ticks
from groundup.viewers.dashboard import QUIET_SECONDS, build_dashboard, format_tick
from groundup.viewers.dashboard_server import create_dashboard_app
from groundup.viewers.run_reader import JsonlTail, RunReader, StepColumns
from groundup.viewers.terminal_dashboard import render_frame


def record(step: int, loss: float | None = None, **more) -> dict:
    loss = 8.0 / (1 + step) if loss is None else loss
    return {
        "step": step, "loss": loss, "learning_rate": 1e-3, "tokens_per_second": 4000.0, "memory": 10**9, "seconds": 0.5,
    } | more  # fmt: skip


def write(path: Path, records: list[dict], mode: str = "w") -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open(mode) as file:
        file.writelines(json.dumps(each) + "\n" for each in records)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run of 200 steps that has come to its step 100."""
    run = tmp_path / "made-up"
    write(run / "04-base.partial" / "steps.jsonl", [record(step) for step in range(100)])
    write(
        run / "04-base.partial" / "eval.jsonl",
        [{"step": 50, "bits_per_byte": 2.5}, {"step": 100, "bits_per_byte": 2.25}],
    )
    (run / "recipe.json").write_text("{}")
    (run / "plan.json").write_text(json.dumps({"name": "made-up", "train": {"steps": 200}}))
    return run


def read_run(path: Path, stage: str | None = None) -> RunReader:
    journals = RunReader(path, stage)
    journals.refresh()
    return journals


# ---- a file that grows


def test_incomplete_lines_are_not_read(tmp_path: Path) -> None:
    path, tail = tmp_path / "steps.jsonl", JsonlTail()
    assert tail.read(path) == (False, [])
    path.write_text('{"step": 0}\n{"step": 1, "lo')
    assert tail.read(path) == (True, [{"step": 0}])
    assert tail.read(path) == (False, [])
    with path.open("a") as file:
        file.write('ss": 2.5}\n')
    assert tail.read(path) == (False, [{"step": 1, "loss": 2.5}])


def test_invalid_lines_are_skipped(tmp_path: Path) -> None:
    path = tmp_path / "steps.jsonl"
    path.write_bytes(b'{"step": 0}\n{"step": 1, "lo{"step": 1}\n[]\n\xff\xfe\n{"loss": 3}\n\n{"step": 2}\n')
    assert [each["step"] for each in JsonlTail().read(path)[1]] == [0, 2]


def test_moved_and_replaced_files(tmp_path: Path) -> None:
    path, tail = tmp_path / "a", JsonlTail()
    write(path, [record(0), record(1)])
    assert len(tail.read(path)[1]) == 2
    moved = path.rename(tmp_path / "b")
    write(moved, [record(2)], "a")
    replaced, found = tail.read(moved)
    assert (replaced, [each["step"] for each in found]) == (False, [2])
    other = tmp_path / "c"  # as a run that continues writes it: whole, and then renamed
    write(other, [record(0)])
    os.replace(other, moved)
    replaced, found = tail.read(moved)
    assert (replaced, [each["step"] for each in found]) == (True, [0])
    write(moved, [])
    assert tail.read(moved) == (True, [])


@given(st.lists(st.integers(0, 12), max_size=60))
def test_repeated_steps(steps: list[int]) -> None:
    columns, kept = StepColumns(), []
    for number, step in enumerate(steps):
        columns.add({"step": step, "loss": float(number)})
        kept = [pair for pair in kept if pair[0] < step] + [(step, number)]
    assert list(zip(columns.columns["step"], columns.columns["loss"], strict=True)) == kept


def test_huge_integers_of_a_damaged_record_are_no_values() -> None:
    columns = StepColumns()
    columns.add({"step": 1, "loss": 10**400})
    assert math.isnan(columns.columns["loss"][0])


def test_skipped_steps_have_no_loss() -> None:
    columns = StepColumns()
    columns.add(record(0))
    columns.add(record(1, loss=99.0, skipped="a spike"))
    columns.add({"step": 2, "loss": None})
    assert [math.isnan(loss) for loss in columns.columns["loss"]] == [False, True, True]


# ---- which training


def test_before_the_first_step(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no such folder"):
        RunReader(tmp_path / "none")
    with pytest.raises(UserError, match="neither a run"):
        RunReader(tmp_path)
    (tmp_path / ".lock").touch()  # a run that has only begun
    (tmp_path / "01-data.partial").mkdir()
    seen = build_dashboard(read_run(tmp_path))
    assert seen.status == "no step yet; running 01-data"
    assert (seen.panels, seen.finished) == ([], False)
    (tmp_path / "04-base.partial").mkdir()
    (tmp_path / "04-base.partial" / "steps.jsonl").touch()
    assert build_dashboard(read_run(tmp_path)).panels == []


def test_a_run_that_trains_nothing(tmp_path: Path) -> None:
    (tmp_path / ".lock").touch()
    (tmp_path / "plan.json").write_text('{"name": "x"}')
    with pytest.raises(UserError, match="trains nothing"):
        read_run(tmp_path)
    (tmp_path / "recipe.json").write_text('{"finetune": {}, "train": null}')
    assert build_dashboard(read_run(tmp_path)).panels == []


def test_running_training(run: Path) -> None:
    journals = read_run(run)
    seen = build_dashboard(journals)
    assert seen.title == "made-up · 04-base"
    assert seen.status == "step 100 of 200 · 50% · 0:50 left"
    assert [panel.name for panel in seen.panels] == [
        "training loss",
        "validation loss",
        "learning rate",
        "speed",
        "memory",
    ]
    assert [panel.value for panel in seen.panels] == ["0.080", "2.250", "0.001", "4.00 k", "1.00 GB"]
    assert seen.panels[0].curve[0][0] == 1
    assert seen.panels[0].curve[0][-1] == seen.panels[1].curve[0][-1] == 100  # steps done, in both files
    before = journals.version
    journals.refresh()
    assert journals.version == before
    write(run / "04-base.partial" / "steps.jsonl", [record(step, 1.0) for step in range(100, 150)], "a")
    journals.refresh()
    assert journals.version > before
    assert build_dashboard(journals).status.startswith("step 150 of 200 · 75%")


def test_rollback_and_silence(run: Path) -> None:
    journals = read_run(run)
    write(run / "new", [record(step) for step in range(40)])
    os.replace(run / "new", run / "04-base.partial" / "steps.jsonl")
    journals.refresh()
    assert build_dashboard(journals).status.startswith("step 40 of 200")
    past = os.path.getmtime(run / "04-base.partial" / "steps.jsonl") - QUIET_SECONDS - 60
    os.utime(run / "04-base.partial" / "steps.jsonl", (past, past))
    assert "no step for 1:3" in build_dashboard(journals).status


def test_records_across_a_resume(tmp_path: Path) -> None:
    folder = tmp_path / "04-base.partial"
    folder.mkdir()
    (tmp_path / ".lock").touch()
    writer = JsonlLog(folder / "steps.jsonl")
    for step in range(8):
        writer.append(record(step, float("nan") if step == 3 else 5.0))
    journals = read_run(tmp_path)
    with (folder / "steps.jsonl").open("a") as file:
        file.write('{"step": 8, "lo')  # killed here
    journals.refresh()
    again = JsonlLog(folder / "steps.jsonl")
    again.truncate(5)
    again.append(record(5, 4.0))
    journals.refresh()
    assert list(journals.steps.columns["step"]) == [0, 1, 2, 3, 4, 5]
    assert [loss for loss in journals.steps.columns["loss"] if math.isfinite(loss)] == [5, 5, 5, 5, 4]
    again.append(record(6, 3.0))
    journals.refresh()
    assert journals.steps.columns["loss"][-1] == 3.0
    assert build_dashboard(journals).status.startswith("step 7")


def test_finished_training(run: Path) -> None:
    journals = read_run(run)
    (run / "04-base.partial").rename(run / "04-base")
    journals.refresh()
    seen = build_dashboard(journals)
    assert (seen.status, seen.finished, seen.progress) == ("finished after 100 steps", True, 1.0)
    write(run / "06-chat.partial" / "steps.jsonl", [record(0), record(1)])
    write(run / "06-chat.partial" / "eval.jsonl", [{"step": 2, "loss": 1.5}])
    journals.refresh()  # follows what goes on
    assert build_dashboard(journals).title == "made-up · 06-chat"
    assert build_dashboard(journals).status == "step 2"
    assert build_dashboard(journals).panels[1].unit == "nats per token"
    (run / "06-chat.partial").rename(run / "06-chat")
    assert build_dashboard(read_run(run)).title == "made-up · 04-base"
    assert build_dashboard(read_run(run, "chat")).title == "made-up · 06-chat"
    assert build_dashboard(read_run(run / "06-chat")).status == "finished after 2 steps"
    with pytest.raises(UserError, match="no training 'scores' yet"):
        read_run(run, "scores")


# ---- drawing


@given(st.lists(st.floats(-1e3, 1e3), min_size=1, max_size=400), st.integers(4, 50))
def test_smooth_and_downsample(values: list[float], most: int) -> None:
    reach = max(1, len(values) // 80)
    parts = [values[max(0, i - reach) : i + reach + 1] for i in range(len(values))]
    assert smooth(values) == pytest.approx([sum(part) / len(part) for part in parts], abs=1e-6)
    at, heights = downsample(range(len(values)), values, most)
    assert len(at) <= most or len(at) == len(values)
    assert (at[0], at[-1]) == (0, len(values) - 1)
    assert at == sorted(set(at))
    assert [values[int(step)] for step in at] == heights
    assert (min(heights), max(heights)) == (min(values), max(values))


def dots(canvas: BrailleCanvas) -> set[tuple[int, int]]:
    """(column, row from the bottom) of every dot, read from the letters."""
    found = set()
    for line, text in enumerate(canvas.lines()):
        for column, letter in enumerate(text.plain):
            bits = 0 if letter == " " else ord(letter) - EMPTY
            found |= {
                (2 * column + x, 4 * (canvas.height - 1 - line) + 3 - y)
                for y in range(4)
                for x in range(2)
                if bits & DOTS[y][x]
            }
    return found


def test_braille_line() -> None:
    canvas = BrailleCanvas(4, 2, 0, 7, 0, 7)  # eight dots by eight, so that a value is a dot
    canvas.draw_curve([0, 7], [0, 7], "")
    assert dots(canvas) == {(i, i) for i in range(8)}
    canvas = BrailleCanvas(4, 2, 0, 7, 0, 7)
    canvas.draw_points([0, 3, 9, 2], [7, 0, 1, -4], "")
    assert dots(canvas) == {(0, 7), (3, 0)}  # beyond the edges there is nothing
    assert [canvas.line_at(value) for value in (0, 3, 4, 7)] == [1, 1, 0, 0]


@given(st.floats(-1e6, 1e6), st.floats(1e-6, 1e6), st.integers(2, 9))
def test_ticks(low: float, size: float, most: int) -> None:
    found = ticks(low, low + size, most)
    assert 1 <= len(found) <= most
    assert all(low - 1e-6 * size - 1e-9 <= value <= low + size * (1 + 1e-6) + 1e-9 for value in found)


@pytest.mark.parametrize("width", [1, 7, 20, 33, 50, 80, 200])
@pytest.mark.parametrize("height", [1, 2, 3, 5, 9, 14, 24, 60])
def test_frame_fits_any_terminal(run: Path, width: int, height: int) -> None:
    lines = render_frame(build_dashboard(read_run(run)), width, height)
    assert len(lines) <= height
    assert max(line.cell_len for line in lines) <= width
    if width >= 50 and height >= 24:
        assert "training loss" in "".join(line.plain for line in lines)


def test_axis_labels(run: Path) -> None:
    loss, _, _, speed, memory = build_dashboard(read_run(run)).panels
    assert [format_tick(loss, value) for value in (2.5, 3.0, 10.0, 0.125)] == ["2.5", "3", "10", "0.125"]
    assert [format_tick(speed, value) for value in (0, 500, 4000)] == ["0", "500", "4 k"]
    assert format_tick(memory, 1.5e9) == "1.5 GB"


# ---- both faces


def test_pipe_without_torch(run: Path) -> None:
    code = (
        "import sys; from groundup.cli import app; app(['watch', sys.argv[1]], standalone_mode=False); "
        "sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code, run], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "step 100 of 200" in done.stdout
    assert "validation loss 2.250 bits per byte" in done.stdout
    assert "\x1b" not in done.stdout


def test_terminal(run: Path, in_terminal) -> None:
    for key in (b"q", b"\x03"):
        drawn, code = in_terminal(["watch", str(run)], [b"\t", key])
        assert code == 0, drawn
        assert "training loss" in drawn
        assert drawn.rstrip().endswith("\x1b[?1049l")


def test_page(run: Path) -> None:
    with TestClient(create_dashboard_app(read_run(run)), base_url="http://127.0.0.1") as client:
        page = client.get("/")
        assert "script-src 'self'" in page.headers["content-security-policy"]
        for name in ("watch.js", "watch.css"):
            assert name in page.text
            assert client.get(f"/{name}").status_code == 200
        first = client.get("/dashboard").json()
        assert first["status"] == "step 100 of 200 · 50% · 0:50 left"
        assert len(first["panels"]) == 5
        script = client.get("/watch.js").text
        keys = re.findall(r"\b(view|dashboard|data|panel)\.(\w+)", script)
        assert {key for name, key in keys if name == "panel"} <= set(first["panels"][0])
        assert {key for name, key in keys if name != "panel"} <= {*first, "error"}
        again = client.get("/dashboard", params={"since": first["version"]}).json()
        assert "panels" not in again
        write(run / "04-base.partial" / "steps.jsonl", [record(100)], "a")
        more = client.get("/dashboard", params={"since": first["version"]}).json()
        assert more["panels"][0]["curve"][0][-1] == 101
        write(run / "06-chat" / "steps.jsonl", [record(0)])
        assert client.get("/dashboard").json()["stages"] == ["base", "chat"]
        assert client.get("/dashboard", params={"stage": "chat"}).json()["title"] == "made-up · 06-chat"
        assert client.get("/dashboard", params={"stage": "../x"}).json()["title"] == "made-up · 04-base"
        assert client.get("/steps.jsonl").status_code == 404
        assert client.get("/dashboard", headers={"Host": "elsewhere.example"}).status_code == 400
        (run / "plan.json").write_text("{")
        broken = client.get("/dashboard")
        assert broken.status_code == 503
        assert "plan.json: not valid JSON" in broken.json()["error"]


# ---- tuning of a model that exists


def test_tuning_stages_have_their_own_panels(tmp_path: Path):
    run = tmp_path / "tuned"
    write(run / "06-chat" / "steps.jsonl", [record(step) for step in range(4)])
    write(run / "07-preference" / "steps.jsonl", [record(step) for step in range(4)])
    write(run / "07-preference" / "eval.jsonl", [{"step": 4, "loss": 0.6, "accuracy": 0.75, "margin": 0.5}])
    rewards = [record(step, reward=0.25 * step, kl=0.01, answer_tokens=3.0) for step in range(4)]
    write(run / "08-reinforcement" / "steps.jsonl", rewards)
    write(run / "08-reinforcement" / "eval.jsonl", [{"step": 4, "error_rate": 0.2, "accuracy": 0.8, "reward": 0.8}])
    (run / "recipe.json").write_text("{}")
    (run / "plan.json").write_text(json.dumps({"name": "tuned", "base": {"model": "small"}}))  # no [train]
    panels = {}
    for stage in ("chat", "preference", None):
        dashboard = build_dashboard(read_run(run, stage))
        panels[stage] = {panel.name: panel.value for panel in dashboard.panels}
    assert "reward" not in panels["chat"]
    assert panels["preference"]["held-out chosen answers preferred"] == "0.750"
    assert panels["preference"]["held-out margin of rewards"] == "0.500"
    assert panels[None]["held-out problems solved"] == "0.800"  # the last training
    assert list(panels[None])[:2] == ["reward", "training loss"]
    assert panels[None]["KL divergence"] == "0.010"
