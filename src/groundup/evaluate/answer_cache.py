"""Answers of a model to the questions of tasks, in a file: an interrupted evaluation goes on, a repeated one costs nothing.

JSON lines of {"key", "answer"}; the key is a hash of the model's weights and of the question. A line that was not finished is
dropped.
"""

import hashlib
import json
from collections.abc import Hashable
from itertools import chain
from pathlib import Path
from typing import Any

import torch
from torch import nn

from groundup.artifacts.errors import UserError


class AnswerCache:
    """Answers in memory, and in a file if `path` is given.

    Raises UserError for a file that is not of this kind.
    """

    def __init__(self, path: Path | None, model: nn.Module | None = None):
        self.answers: dict[str, Any] = {}
        self.path = path
        self.identity = ""
        if path is None:
            return
        assert model is not None
        self.identity = weights_hash(model)
        data = path.read_bytes() if path.exists() else b""
        complete = data[: data.rfind(b"\n") + 1]
        for number, line in enumerate(complete.splitlines(), 1):
            try:
                entry = json.loads(line)
                self.answers[entry["key"]] = entry["answer"]
            except (ValueError, TypeError, KeyError):
                raise UserError(
                    f"{path}, line {number}: no answer of a cache", hint="name a new file, or one that --cache wrote"
                ) from None
        if data and not complete:
            raise UserError(f"{path}: no answers of a cache", hint="name a new file, or one that --cache wrote")
        try:
            with path.open("ab") as file:
                file.truncate(len(complete))
        except OSError as error:
            raise UserError(f"{path}: cannot be written: {error.strerror}", hint="--cache FILE") from None

    def key(self, *question: Hashable) -> str:
        return hashlib.sha256(repr((self.identity, *question)).encode()).hexdigest()[:32]

    def store(self, key: str, answer: Any) -> None:
        self.answers[key] = answer
        if self.path is not None:
            with self.path.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"key": key, "answer": answer}) + "\n")


@torch.no_grad()
def weights_hash(model: nn.Module) -> str:
    """Of all parameters and buffers, and of logits, since packed weights may be stored elsewhere."""
    found = hashlib.sha256()
    tensors = dict(chain(model.named_parameters(), model.named_buffers()))
    probe = torch.arange(8, device=next(iter(tensors.values())).device)[None]
    for name, tensor in (*sorted(tensors.items()), ("logits", model(probe).logits)):
        found.update(f"{name} {tuple(tensor.shape)} {tensor.dtype}".encode())
        found.update(tensor.detach().cpu().contiguous().flatten().view(torch.uint8).numpy().data)
    return found.hexdigest()
