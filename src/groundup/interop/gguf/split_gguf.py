"""GGUF models in several files, NAME-00001-of-00003.gguf and so on: metadata in the first, tensors in all of them.

Source: llama.cpp, tools/gguf-split (`split.no`, `split.count`, `split.tensors.count`).
"""

import re
from pathlib import Path

import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.gguf.gguf_file import GGUFFile

SPLIT_NAME = re.compile(r"(.*)-(\d{5})-of-(\d{5})\.gguf")


class SplitGGUFFile:
    """The files of one model as one: the attributes and `read` of GGUFFile. Raises UserError if one is missing.

    `dtype` None: that of the matrices, which is bfloat16 where they are packed.
    """

    def __init__(self, path: Path, dtype: torch.dtype | None = None):
        self.path = path
        first = GGUFFile(path)
        count = first.metadata.get("split.count", 1)
        self.metadata = first.metadata
        files = [first] if count == 1 else [GGUFFile(part) for part in _parts(path, count)]
        if files[0].metadata.get("split.no", 0) != 0:
            raise UserError(f"{path}: split.no = {files[0].metadata['split.no']} in the first file, expected 0")
        self.metadata = files[0].metadata
        self._file_of = {name: file for file in files for name in file.shapes}
        self.shapes = {name: file.shapes[name] for name, file in self._file_of.items()}
        expected = self.metadata.get("split.tensors.count", len(self.shapes))
        if len(self.shapes) != expected:
            raise UserError(f"{path}: {len(self.shapes)} tensors in {count} files, expected {expected}")
        self.dtype = dtype or self._own_dtype()
        for file in files:
            file.dtype = self.dtype

    def _own_dtype(self) -> torch.dtype:
        found = {self.type_of(name) for name, shape in self.shapes.items() if len(shape) > 1}
        if found <= {"F64", "F32"}:
            return torch.float32
        return torch.float16 if found <= {"F32", "F16"} else torch.bfloat16

    def read(self, name: str) -> Tensor:
        return self._file_of[name].read(name)

    def packed(self, name: str) -> tuple[str, Tensor]:
        return self._file_of[name].packed(name)

    def type_of(self, name: str) -> str:
        return self._file_of[name].type_of(name)

    def types(self) -> set[str]:
        """Names of the types that tensors of the model have."""
        return set().union(*(file.types() for file in self._file_of.values()))


def _parts(path: Path, count: int) -> list[Path]:
    match = SPLIT_NAME.fullmatch(path.name)
    if match is None or int(match[3]) != count:
        raise UserError(
            f"{path}: one of {count} files of a model, expected a name that ends in -00001-of-{count:05d}.gguf",
            hint="keep the names of the files, or join them with llama.cpp's gguf-split --merge",
        )
    parts = [path.with_name(f"{match[1]}-{number:05d}-of-{count:05d}.gguf") for number in range(1, count + 1)]
    missing = [part.name for part in parts if not part.is_file()]
    if missing:
        raise UserError(f"{path}: {missing[0]} is missing, expected all {count} files in one folder")
    return parts
