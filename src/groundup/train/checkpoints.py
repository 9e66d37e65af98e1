"""Checkpoints of a training run: engine state and loop state, in safetensors and JSON, without pickle.

A checkpoint is a folder, renamed to `checkpoints/step-00000120/` when complete. A thread writes it from a copy of the state
while training continues.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from types import TracebackType
from typing import Any

from groundup.artifacts.directory import discard_when_complete, fsync, write_atomically
from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import fingerprint
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.machine import Machine
from groundup.model.serialization import save_tensors
from groundup.train.engines import CorruptCheckpoint, Engine
from groundup.train.objectives import Batch

LOOP_STATE_FILE = "state.json"


class CheckpointManager:
    """The checkpoints of one run; as a context manager it waits for the last one to be written.

    Args:
        machine: `keep_checkpoints` newest ones are kept, and one every `keep_checkpoint_every` steps.
        before_commit: called on the writing thread before the rename, to flush other files first.
        keep_best: also keep the checkpoint of `best_step` of the loop state.
    """

    def __init__(
        self,
        folder: Path,
        engine: Engine,
        machine: Machine,
        before_commit: Callable[[], None] = lambda: None,
        keep_best: bool = False,
    ):
        self.keep_best = keep_best
        self.folder, self.engine, self.before_commit = folder, engine, before_commit
        self.keep_newest, self.keep_every = machine.keep_checkpoints, machine.keep_checkpoint_every
        self._log = machine.progress.log
        self._thread = ThreadPoolExecutor(1, "checkpoint")
        self._pending: Future[None] | None = None
        if engine.is_main:
            for path in folder.glob(".step-*.partial"):  # of a run that was killed while writing
                shutil.rmtree(path)

    def restore(self) -> dict[str, Any]:
        """Load the newest intact checkpoint; returns its loop state, {} if there is none. Equal on all ranks.

        The main rank lists the checkpoints: another rank may list them before the main one has renamed the newest.
        Raises UserError if it belongs to a model of another shape, and if there are checkpoints but all are damaged.
        """
        failures: list[str] = []
        for name, state, failure in self.engine.broadcast(self._read_states()):
            try:
                if failure is None:
                    self.engine.load(self.folder / name)
            except (CorruptCheckpoint, ValueError, OSError) as error:
                failure = str(error)
            if not self.engine.any_rank(failure is not None):
                return state
            failures.append(failure or f"{self.folder / name}: not readable on another rank")
            if self.engine.is_main:
                self._log(f"damaged checkpoint, so an older one is used: {failures[-1]}")
        if failures:
            raise UserError(
                f"all {len(failures)} checkpoints in {self.folder} are damaged: {failures[0]}",
                hint=f"copy them again, or remove {self.folder} to start anew",
            )
        return {}

    def _read_states(self) -> list[tuple[str, dict[str, Any], str | None]]:
        """Name, loop state and damage of each checkpoint, newest first."""
        states: list[tuple[str, dict[str, Any], str | None]] = []
        for path in reversed(list_checkpoints(self.folder)):
            try:
                states.append((path.name, _read_loop_state(path / LOOP_STATE_FILE), None))
            except UserError as error:
                states.append((path.name, {}, error.message))
        return states

    def restore_step(self, step: int) -> bool:
        """Load the checkpoint after `step` steps; False on all ranks, with nothing changed, if it is damaged or gone."""
        self.wait()
        failure = None
        try:
            self.engine.load(self.folder / _folder_name(step))
        except (CorruptCheckpoint, ValueError, OSError) as error:
            failure = str(error)
        if not self.engine.any_rank(failure is not None):
            return True
        if self.engine.is_main:
            self._log(f"the checkpoint of step {step} cannot be read, so the last weights are kept: {failure}")
        return False

    def save(self, state: dict[str, Any]) -> None:
        """Write a checkpoint after `state["step"]` finished steps, then remove older ones.

        Raises UserError if the previous one could not be written.
        """
        self.wait()
        final = self.folder / _folder_name(state["step"])
        work = self.folder / f".{final.name}.partial"
        work.mkdir(parents=True, exist_ok=True)
        self._pending = self._thread.submit(self._finish, work, final, state, self.engine.save(work))

    def save_emergency(self, state: dict[str, Any], batch: Batch) -> Path:
        """Write the current state and the batch that failed to a separate folder, from which runs do not resume."""
        path = self.folder / f"emergency-step-{state['step']:08d}"
        path.mkdir(parents=True, exist_ok=True)
        self.engine.save(path)()
        copies = {name: rows.clone() for name, rows in batch.items()}
        save_tensors(copies, path / f"batch-{self.engine.data_rank}.safetensors")
        if self.engine.is_main:
            write_atomically(path / LOOP_STATE_FILE, _encode_loop_state(state))
        return path

    def wait(self) -> None:
        """Wait for pending writes. Raises UserError if one failed."""
        pending, self._pending = self._pending, None
        if pending is None:
            return
        try:
            pending.result()
        except OSError as error:
            newest = list_checkpoints(self.folder)[-1:]
            raise UserError(
                f"a checkpoint could not be written to {self.folder}: {error.strerror or error}",
                hint=f"free disk space; the run resumes from {newest[0].name if newest else 'the beginning'}",
            ) from error

    def _finish(self, work: Path, final: Path, state: dict[str, Any], write: Callable[[], None]) -> None:
        write()
        if not self.engine.is_main:
            return
        self.before_commit()
        (work / LOOP_STATE_FILE).write_bytes(_encode_loop_state(state))
        for path in (*work.iterdir(), work):
            fsync(path)
        shutil.rmtree(final, ignore_errors=True)
        work.rename(final)
        fsync(self.folder)
        older = [path for path in list_checkpoints(self.folder) if path <= final]  # newer ones are damaged
        for old in older[: -self.keep_newest]:
            is_best = self.keep_best and state.get("best_step") == _step_of(old)
            if not is_best and not is_kept(old, self.keep_every):
                shutil.rmtree(old)

    def __enter__(self) -> "CheckpointManager":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._thread.shutdown()
        if error is None:  # else `error` is the one to report
            self.wait()


def _folder_name(step: int) -> str:
    return f"step-{step:08d}"


def _step_of(path: Path) -> int:
    return int(path.name.removeprefix("step-"))


def _encode_loop_state(state: dict[str, Any]) -> bytes:
    """The loop state with its own hash."""
    state = json.loads(json.dumps(state))
    return json.dumps(state | {"sha256": fingerprint(state)}).encode()


def _read_loop_state(path: Path) -> dict[str, Any]:
    """The loop state without its hash. Raises UserError if it is not what was written."""
    state = read_json_object(path)
    stated = state.pop("sha256", None)
    if stated != fingerprint(state):
        raise UserError(f"{path}: its content does not have the hash that it states")
    return state


def is_kept(path: Path, keep_every: int | None) -> bool:
    """Whether a checkpoint is one of those kept every `keep_every` steps."""
    return keep_every is not None and _step_of(path) % keep_every == 0


def discard_checkpoints(out: Path, keep_every: int | None, others: Sequence[Path] = ()) -> None:
    """Mark the checkpoints in the stage folder `out` for removal, except those kept every `keep_every` steps.

    They are removed when the weights are written, flushed to disk and named: until then a kill would lose the training.
    `others`: more paths in it to remove then.
    """
    folder = out / "checkpoints"
    paths = list(folder.glob("*"))
    discarded = [path for path in paths if not (path.name.startswith("step-") and is_kept(path, keep_every))]
    discard_when_complete(out, [*others, *([folder] if len(discarded) == len(paths) else discarded)])


def list_checkpoints(folder: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    return sorted(path for path in folder.glob("step-*") if (path / LOOP_STATE_FILE).is_file())
