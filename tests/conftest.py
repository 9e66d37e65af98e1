"""What every test has: one thread (two cores are shared), no network by accident, nothing written to the home folder."""

import os
from pathlib import Path

import pytest

os.environ.setdefault("DO_NOT_TRACK", "true")
os.environ.setdefault("HF_HUB_OFFLINE", "1")


@pytest.fixture(autouse=True, scope="session")
def _one_thread():
    import torch

    torch.set_num_threads(1)


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A download cache of the test's own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("GROUNDUP_CACHE", str(folder))
    return folder
