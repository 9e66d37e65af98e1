"""The GGUF file format: a header of metadata, a table of tensors, then the tensors.

The gguf package's GGUFReader is not used: it creates several arrays for each of the hundred thousand entries of a vocabulary,
which takes seconds. The package unpacks quantized weights: in chunks that fit a core's cache, on all threads.

Source: ggml-org/ggml, docs/gguf.md, version 3 of the format.
"""

import math
import mmap
import struct
import weakref
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import gguf
import numpy as np
import torch
from torch import Tensor

from groundup.artifacts.errors import UserError
from groundup.interop.mapped_safetensors import drop_pages

MAGIC = b"GGUF"
VERSIONS = (2, 3)
SCALARS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
"""Format characters of struct by GGUF value type."""
STRING, ARRAY = 8, 9
LENGTH = struct.Struct("<Q")
MAX_DIMENSIONS = 4
FLOATING = {
    gguf.GGMLQuantizationType.F64: torch.float64,
    gguf.GGMLQuantizationType.F32: torch.float32,
    gguf.GGMLQuantizationType.F16: torch.float16,
    gguf.GGMLQuantizationType.BF16: torch.bfloat16,
}
CHUNK_VALUES = 1 << 15
"""Values that are unpacked at a time: a multiple of them would leave the cache of a core, and so be two to three times slower."""


class GGUFFile:
    """Metadata and named tensors of a memory-mapped file.

    Attributes:
        metadata: value by key; arrays are lists.
        shapes: shape by tensor name, outermost dimension first.

        dtype: of the quantized tensors that are unpacked.

    Raises UserError for another format and for a truncated file.
    """

    def __init__(self, path: Path, dtype: torch.dtype = torch.float32):
        self.path, self.dtype = path, dtype
        with path.open("rb") as file:
            if (magic := file.read(4)) != MAGIC:
                raise UserError(f"{path}: begins with {magic!r}, expected {MAGIC!r}", hint="is it a .gguf file?")
            self._bytes = mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_COPY)
        self._position = len(MAGIC)
        self.metadata: dict[str, Any] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}
        self._types: dict[str, gguf.GGMLQuantizationType] = {}
        self._byte_ranges: dict[str, tuple[int, int]] = {}
        try:
            self._read_header()
        except (struct.error, ValueError, KeyError, OverflowError, RecursionError) as error:
            raise self._damaged(str(error)) from None

    def read(self, name: str) -> Tensor:
        """The tensor `name`: a view of the file if it is floating point, else unpacked to `dtype`.

        Raises UserError for a packed type that the gguf package does not unpack.
        """
        begin, end = self._byte_ranges[name]
        kind, shape = self._types[name], self.shapes[name]
        stored = np.frombuffer(self._bytes, np.uint8, end - begin, begin)
        weakref.finalize(stored, drop_pages, self._bytes, begin, end).atexit = False
        if kind not in FLOATING:
            return self._unpack(name, stored)
        if (
            len(shape) < 2 or begin % FLOATING[kind].itemsize
        ):  # vectors: a page in use brings its neighbours into memory
            stored = stored.copy()
        return torch.from_numpy(stored).view(FLOATING[kind]).reshape(shape)

    def packed(self, name: str) -> tuple[str, Tensor]:
        """Name of the type, and the bytes of each row (... rows bytes), of a matrix or a stack of matrices."""
        begin, end = self._byte_ranges[name]
        stored = np.frombuffer(self._bytes, np.uint8, end - begin, begin)
        weakref.finalize(stored, drop_pages, self._bytes, begin, end).atexit = False
        return self._types[name].name, torch.from_numpy(stored).view(*self.shapes[name][:-1], -1)

    def type_of(self, name: str) -> str:
        """Name of the type of a tensor."""
        return self._types[name].name

    def types(self) -> set[str]:
        """Names of the types that tensors of the file have."""
        return {kind.name for kind in self._types.values()}

    def _unpack(self, name: str, packed: np.ndarray) -> Tensor:
        kind, shape = self._types[name], self.shapes[name]
        values = torch.empty(shape, dtype=self.dtype)
        rows = values.view(-1, *shape[-1:] or (1,))
        packed = packed.reshape(len(rows), -1)
        step = max(CHUNK_VALUES // rows.shape[1], 1)

        threads = min(torch.get_num_threads(), -(-len(rows) // step)) or 1

        def unpack(thread: int) -> None:
            for begin in range(thread * step, len(rows), threads * step):
                chunk = slice(begin, begin + step)
                rows[chunk] = torch.from_numpy(gguf.dequantize(packed[chunk], kind))

        try:
            with ThreadPoolExecutor(threads) as pool:
                list(pool.map(unpack, range(threads)))
        except NotImplementedError:
            raise UserError(f"{self.path}: tensor {name} has the unsupported type {kind.name}") from None
        return values

    def _read_header(self) -> None:
        version = self._scalar("I")
        if version not in VERSIONS:
            raise ValueError(f"version {version}, expected one of {VERSIONS}")
        num_tensors, num_entries = self._scalar("Q"), self._scalar("Q")
        for _ in range(num_entries):
            key = self._string()
            self.metadata[key] = self._value(self._scalar("I"))
        offsets = {}
        for _ in range(num_tensors):
            name = self._string()
            count = self._scalar("I")
            if count > MAX_DIMENSIONS:
                raise ValueError(f"tensor {name} has {count} dimensions, expected {MAX_DIMENSIONS} at most")
            dimensions = [self._scalar("Q") for _ in range(count)]
            self.shapes[name] = tuple(reversed(dimensions))
            self._types[name] = gguf.GGMLQuantizationType(self._scalar("I"))
            offsets[name] = self._scalar("Q")
        alignment = self.metadata.get("general.alignment", 32)
        if not isinstance(alignment, int) or alignment < 1:
            raise ValueError(f"general.alignment = {alignment!r}")
        start = -(-self._position // alignment) * alignment
        for name, offset in offsets.items():
            per_block, size = gguf.GGML_QUANT_SIZES[self._types[name]]
            if self.shapes[name][-1:] and self.shapes[name][-1] % per_block:
                raise ValueError(f"tensor {name} has rows of {self.shapes[name][-1]}, in blocks of {per_block}")
            begin = start + offset
            end = begin + math.prod(self.shapes[name]) // per_block * size
            if end > len(self._bytes):
                raise ValueError(f"tensor {name} ends at byte {end:,}")
            self._byte_ranges[name] = begin, end

    def _value(self, kind: int) -> Any:
        if kind == STRING:
            return self._string()
        if kind != ARRAY:
            return self._scalar(SCALARS[kind])
        item, count = self._scalar("I"), self._scalar("Q")
        if item in SCALARS:
            return list(self._scalars(SCALARS[item], count))
        if count > len(self._bytes):
            raise ValueError(f"an array of {count} entries")
        if item == STRING:
            return self._strings(count)
        return [self._value(item) for _ in range(count)]

    def _strings(self, count: int) -> list[str]:
        """Texts, each after its length; a plain loop, because a large vocabulary has half a million."""
        texts, position, size = [], self._position, len(self._bytes)
        for _ in range(count):
            begin = position + LENGTH.size
            position = begin + LENGTH.unpack_from(self._bytes, position)[0]
            if position > size:
                raise ValueError(f"a text that ends at byte {position:,}")
            texts.append(self._bytes[begin:position].decode())
        self._position = position
        return texts

    def _string(self) -> str:
        return self._strings(1)[0]

    def _scalar(self, code: str) -> Any:
        return self._scalars(code, 1)[0]

    def _scalars(self, code: str, count: int) -> tuple[Any, ...]:
        if count > len(self._bytes):
            raise ValueError(f"an array of {count} numbers")
        values = struct.unpack_from(f"<{count}{code}", self._bytes, self._position)
        self._position += struct.calcsize(f"<{count}{code}")
        return values

    def _damaged(self, reason: str) -> UserError:
        return UserError(
            f"{self.path}: not a complete GGUF file ({reason}; {len(self._bytes):,} bytes on disk)",
            hint="it may be truncated: copy or download it again",
        )
