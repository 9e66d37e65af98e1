"""The command that converts pickled weights (.bin, .pt, .ckpt) into safetensors without running code in them.

groundup never opens a pickle. PyTorch's `torch.load` with `weights_only=True` accepts tensors and plain containers alone.
"""

import shlex
from collections.abc import Sequence
from pathlib import Path

PICKLES = (".bin", ".pt", ".pth", ".ckpt")
SHARDS = "pytorch_model-"
NO_WEIGHTS = ("training_args", "optimizer", "scheduler", "rng_state", "scaler")
"""Beginnings of the names of files that trainers write beside the weights."""


def find_pickles(folder: Path) -> list[str]:
    """Names of the files of pickled weights in `folder`."""
    names = sorted(path.name for path in folder.iterdir() if path.suffix in PICKLES)
    return [name for name in names if not name.startswith(NO_WEIGHTS)] or names


def conversion_command(folder: Path, names: Sequence[str]) -> str:
    """A shell command that writes model.safetensors into `folder`, from the files `names` in it.

    The weights of a training checkpoint are under `state_dict` or `model`. Tied weights become copies, which safetensors needs.
    """
    code = (
        "import sys, torch; from safetensors.torch import save_file; "
        "files = [torch.load(f, map_location='cpu', weights_only=True) for f in sys.argv[2:]]; "
        "files = [f.get('state_dict', f.get('model', f)) for f in files]; "
        "save_file({k: t.clone().contiguous() for f in files for k, t in f.items() if torch.is_tensor(t)}, "
        "sys.argv[1], {'format': 'pt'})"
    )
    target, *sources = (shlex.quote(str(folder / name)) for name in ("model.safetensors", *names))
    if len(sources) > 1 and all(name.startswith(SHARDS) and name.endswith(".bin") for name in names):
        sources = [f"{shlex.quote(str(folder))}/{SHARDS}*.bin"]
    return f'python -c "{code}" {target} {" ".join(sources)}'
