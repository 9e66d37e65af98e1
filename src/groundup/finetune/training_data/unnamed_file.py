"""A temporary file for what is larger than memory should be, read piece by piece."""

import os
import tempfile
import weakref


class UnnamedFile:
    """A file without a name, which is gone with the last reference to it."""

    def __init__(self):
        self._descriptor, path = tempfile.mkstemp()
        os.unlink(path)
        weakref.finalize(self, os.close, self._descriptor)
        self._end = 0

    def append(self, data: bytes) -> int:
        """Write at the end. Returns where the data begin."""
        begin = self._end
        while data:
            written = os.pwrite(self._descriptor, data, self._end)
            self._end += written
            data = data[written:]
        return begin

    def read(self, begin: int, length: int) -> bytes:
        """`length` bytes from `begin`; threads may read at once."""
        return os.pread(self._descriptor, length, begin)
