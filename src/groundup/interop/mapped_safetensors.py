"""One safetensors file in memory as far as its tensors are in use: a mapped file whose pages are given back.

A tensor is a view of the file, so that a model in the dtype of its file costs no copy. The pages of a tensor that was converted
are dropped with its last view; otherwise a float32 model would hold its bfloat16 file too.

Source: the format of safetensors 0.4 (README): eight bytes of length, a JSON header with offsets, the tensors.
"""

import json
import mmap
import weakref
from pathlib import Path

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from groundup.artifacts.errors import UserError

DTYPES = {
    "F64": torch.float64, "F32": torch.float32, "F16": torch.float16, "BF16": torch.bfloat16,
    "F8_E4M3": torch.float8_e4m3fn, "F8_E5M2": torch.float8_e5m2, "F8_E8M0": torch.float8_e8m0fnu,
    "I64": torch.int64, "I32": torch.int32, "I16": torch.int16, "I8": torch.int8,
    "U64": torch.uint64, "U32": torch.uint32, "U16": torch.uint16, "U8": torch.uint8, "BOOL": torch.bool,
}  # fmt: skip


class MappedSafetensors:
    """The tensors of a file. Raises UserError for a damaged file and for an unknown dtype.

    Attributes:
        shapes: shape by tensor name.
    """

    def __init__(self, file: Path):
        try:
            with safe_open(file, framework="pt"):  # checks the header, and the size of the file
                pass
        except SafetensorError as error:
            size = file.stat().st_size
            raise UserError(
                f"{file}: not a complete safetensors file ({error}; {size:,} bytes on disk)",
                hint="it may be truncated: copy or download it again",
            ) from None
        with file.open("rb") as opened:
            self._bytes = mmap.mmap(opened.fileno(), 0, access=mmap.ACCESS_COPY)
        length = int.from_bytes(self._bytes[:8], "little")
        header = json.loads(self._bytes[8 : 8 + length])
        header.pop("__metadata__", None)
        self._start = 8 + length
        self.shapes: dict[str, tuple[int, ...]] = {name: tuple(entry["shape"]) for name, entry in header.items()}
        self._entries = {name: (entry["dtype"], *entry["data_offsets"]) for name, entry in header.items()}
        for name, (dtype, *_) in self._entries.items():
            if dtype not in DTYPES:
                raise UserError(f"{file}: tensor {name} is {dtype}, expected one of {', '.join(DTYPES)}")

    def read(self, name: str) -> Tensor:
        """The tensor `name` in the dtype of the file: a view of it."""
        dtype, *offsets = self._entries[name]
        begin, end = (self._start + offset for offset in offsets)
        if begin == end:
            return torch.empty(self.shapes[name], dtype=DTYPES[dtype])
        values = np.frombuffer(self._bytes, np.uint8, end - begin, begin)
        weakref.finalize(values, drop_pages, self._bytes, begin, end).atexit = False
        if begin % DTYPES[dtype].itemsize:
            values = values.copy()
        return torch.from_numpy(values).view(DTYPES[dtype]).reshape(self.shapes[name])


def drop_pages(mapped: mmap.mmap, begin: int, end: int) -> None:
    """Give back the whole pages of a range without views; those at its ends may hold other tensors."""
    first, last = -(-begin // mmap.PAGESIZE) * mmap.PAGESIZE, end // mmap.PAGESIZE * mmap.PAGESIZE
    if last > first and hasattr(mmap, "MADV_DONTNEED"):
        mapped.madvise(mmap.MADV_DONTNEED, first, last - first)
