"""Memory of a paged cache: zeros at first, occupied only where pages are written, given back to the system page by page.

On a CPU the whole budget is one anonymous mapping: the system backs an address with memory when it is written, and takes it
back with `madvise`. Elsewhere the tensor grows by doubling, up to the budget.
"""

import mmap

import torch
from jaxtyping import Shaped
from torch import Tensor

FIRST_PAGES = 64
"""Pages that a device other than the CPU allocates at first."""


class PageMemory:
    """One tensor of pages.

    Attributes:
        pages: (P, *shape); on a CPU all `num_pages`, elsewhere as many as were asked for.
    """

    def __init__(self, num_pages: int, shape: tuple[int, ...], dtype: torch.dtype, device: torch.device):
        self._num_pages, self._mapping = num_pages, None
        self.page_bytes = torch.Size(shape).numel() * dtype.itemsize
        if device.type == "cpu" and self.page_bytes:
            # shared memory, the default, could not be given back
            private = {"flags": mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS} if hasattr(mmap, "MAP_PRIVATE") else {}
            self._mapping = mmap.mmap(-1, num_pages * self.page_bytes, **private)
            self.pages: Shaped[Tensor, "P ..."] = torch.frombuffer(self._mapping, dtype=dtype).view(num_pages, *shape)
        else:
            self.pages = torch.zeros(min(num_pages, FIRST_PAGES), *shape, dtype=dtype, device=device)

    def clear(self, page: int) -> None:
        """Make room for a page and fill it with zeros: numbers that are not finite would pass the mask of its new owner."""
        if page >= len(self.pages):
            old = self.pages
            self.pages = old.new_zeros(min(max(2 * len(old), page + 1), self._num_pages), *old.shape[1:])
            self.pages[: len(old)] = old
        else:
            self.pages[page].zero_()

    def give_back(self, pages: list[int]) -> None:
        """Return the memory of pages to the system; they read as zeros or as they were."""
        if self._mapping is None or not hasattr(mmap, "MADV_DONTNEED"):
            return
        for first, end in _runs(pages):
            start = -(-first * self.page_bytes // mmap.PAGESIZE) * mmap.PAGESIZE
            length = end * self.page_bytes // mmap.PAGESIZE * mmap.PAGESIZE - start
            if length > 0:
                self._mapping.madvise(mmap.MADV_DONTNEED, start, length)


def _runs(pages: list[int]) -> list[tuple[int, int]]:
    """The consecutive numbers among `pages`: (first, one after the last) of each run."""
    runs: list[tuple[int, int]] = []
    for page in sorted(pages):
        if runs and runs[-1][1] == page:
            runs[-1] = (runs[-1][0], page + 1)
        else:
            runs.append((page, page + 1))
    return runs
