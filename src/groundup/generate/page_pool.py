"""Bookkeeping of a paged key/value cache (Kwon et al. 2023, "PagedAttention", sections 4.3 and 4.4): which page is whose.

A page holds the keys and values of `page_size` consecutive tokens. Several sequences may refer to one page, which then is not
written to. A full page of a known text has a key, the hash of all tokens up to its end; when nobody refers to it any more it
stays as an idle page, for a later text with the same beginning, until its place is needed.
"""

import hashlib
from array import array
from collections import OrderedDict
from collections.abc import Iterable, Sequence

NULL_PAGE = 0
"""The page that pads tables: never written, all zeros."""


class PagePool:
    """The pages of one cache, by number; page 0 belongs to nobody.

    Attributes:
        num_pages: without page 0.
        max_idle: idle pages that are kept at most.
    """

    def __init__(self, num_pages: int, page_size: int, max_idle: int):
        self.num_pages, self.page_size, self.max_idle = num_pages, page_size, max_idle
        self._unseen = 1  # the lowest page that was never taken
        self._free: list[int] = []
        self._references: dict[int, int] = {}
        self._idle: OrderedDict[int, None] = OrderedDict()  # the least recently used first
        self._page_of: dict[bytes, int] = {}
        self._key_of: dict[int, bytes] = {}

    @property
    def used(self) -> int:
        """Pages that sequences refer to."""
        return len(self._references)

    @property
    def idle(self) -> int:
        """Pages that only hold the beginning of a possible later text."""
        return len(self._idle)

    @property
    def available(self) -> int:
        """Pages that can be taken now, idle ones included."""
        return self.num_pages - self.used

    def pages_for(self, num_tokens: int) -> int:
        return -(-num_tokens // self.page_size)

    def take(self) -> int:
        """A page with one reference; its former content is to be overwritten. Raises IndexError when none is available."""
        if self._free:
            page = self._free.pop()
        elif self._unseen <= self.num_pages:
            page, self._unseen = self._unseen, self._unseen + 1
        elif self._idle:
            page = self._forget_oldest()
        else:
            raise IndexError(f"all {self.num_pages} pages are in use")
        self._references[page] = 1
        return page

    def share(self, page: int) -> None:
        """One more reference to a page."""
        self._references[page] = self._references.get(page, 0) + 1
        self._idle.pop(page, None)

    def is_shared(self, page: int) -> bool:
        return self._references[page] > 1

    def release(self, pages: Iterable[int]) -> list[int]:
        """Give back one reference to each page. Returns the pages whose content nobody will read again."""
        dropped = []
        for page in pages:
            self._references[page] -= 1
            if self._references[page]:
                continue
            del self._references[page]
            if page in self._key_of:
                self._idle[page] = None
            else:
                dropped.append(page)
        while len(self._idle) > self.max_idle:
            dropped.append(self._forget_oldest())
        self._free += dropped
        return dropped

    def forget_idle(self) -> list[int]:
        """Free all idle pages. Returns them."""
        dropped = [self._forget_oldest() for _ in range(len(self._idle))]
        self._free += dropped
        return dropped

    # ---- pages by content

    def find(self, key: bytes) -> int | None:
        """The page with this key."""
        return self._page_of.get(key)

    def register(self, page: int, key: bytes) -> None:
        """Give a full page its key, unless another page has it."""
        if key not in self._page_of and page not in self._key_of:
            self._page_of[key], self._key_of[page] = page, key

    def _forget_oldest(self) -> int:
        page, _ = self._idle.popitem(last=False)
        del self._page_of[self._key_of.pop(page)]
        return page


def page_key(previous: bytes, tokens: Sequence[int]) -> bytes:
    """The key of a page with these tokens after the page with key `previous`.

    A cryptographic hash: two texts with one key would read each other's answers.
    """
    return hashlib.blake2b(array("q", tokens).tobytes(), key=previous, digest_size=32).digest()
