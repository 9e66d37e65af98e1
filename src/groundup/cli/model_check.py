"""Whether a model can be used by commands that write text."""

import sys
from pathlib import Path

from groundup.artifacts.errors import UserError


def check_writes_text(path: Path) -> None:
    """Raises UserError for a reward model; says it if a run has a later model that is unfinished."""
    from groundup.generate.reward_model import REWARD_FILE  # torch, which `groundup --help` needs not
    from groundup.interop.model_loading import MODEL_FOLDERS, resolve_model_path

    if not path.is_dir():
        return
    folder = resolve_model_path(path)
    if folder.is_dir() and (folder / REWARD_FILE).is_file():
        raise UserError(
            f"{folder}: a reward model, which scores answers and writes none",
            hint="groundup.generate.score_answers in Python, see book/preferences.md",
        )
    for name in MODEL_FOLDERS if folder.parent == path else ():
        if name == folder.name:
            return
        if (path / f"{name}.partial").exists():
            print(f"note: {name} is unfinished; this is the model of {folder.name}", file=sys.stderr)
            return
