"""API keys: several, compared in constant time, from the environment or a file that is read again when it changes."""

import hashlib
import hmac
import logging
import re
from collections.abc import Iterable
from pathlib import Path

from groundup.artifacts.errors import UserError

log = logging.getLogger("groundup.serve")

COMMENT = re.compile(r"(?<!\S)#.*")
"""A key may contain #: what is before it must not become the key."""


class ApiKeys:
    """The keys that a server accepts.

    Args:
        keys: keys without names.
        file: one key a line, alone or after a name and a space; # at the beginning or after a space begins a comment.
            Adding or removing a line takes effect at the next request. While the file cannot be read, the keys that it had
            stay valid.

    Raises UserError for an empty key, and for a file that cannot be read or has no key.
    """

    def __init__(self, keys: Iterable[str] = (), file: Path | None = None):
        keys = list(keys)
        if any(not key.strip() for key in keys):
            raise UserError(
                "the API key is empty, expected at least one character", hint="omit it for a server without a key"
            )
        self._given = _by_digest((None, key) for key in keys)
        self._file, self._of_file, self._version = file, dict[bytes, str](), None
        if file is not None:
            try:
                self._read(file)
            except (OSError, UnicodeDecodeError) as error:
                reason = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise UserError(f"{file}: {reason}", hint="a text file with one API key a line") from None
        if not self._given and not self._of_file:
            raise UserError(f"{file}: no API key", hint="a text file with one API key a line")

    def client_of(self, sent: bytes) -> str | None:
        """The name of a key, or None when it is wrong. Every key is compared, so that the time says nothing about them."""
        self._refresh()
        digest, found = hashlib.sha256(sent).digest(), None
        for each, name in {**self._given, **self._of_file}.items():
            if hmac.compare_digest(digest, each):
                found = name
        return found

    def _refresh(self) -> None:
        if self._file is None:
            return
        try:
            status = self._file.stat()
            if (status.st_mtime_ns, status.st_size, status.st_ino) != self._version:
                self._read(self._file)
                log.warning("%s: %d API keys", self._file, len(self._of_file))
        except (OSError, UnicodeDecodeError) as error:
            if self._version is not None:
                log.error("%s: %s; its last API keys stay valid", self._file, error)
                self._version = None

    def _read(self, file: Path) -> None:
        status = file.stat()
        lines = (COMMENT.sub("", line).split() for line in file.read_text(encoding="utf-8").splitlines())
        self._of_file = _by_digest((words[0] if len(words) > 1 else None, words[-1]) for words in lines if words)
        self._version = (status.st_mtime_ns, status.st_size, status.st_ino)


def _by_digest(keys: Iterable[tuple[str | None, str]]) -> dict[bytes, str]:
    """Names by the SHA-256 of each key; a key without a name has the first letters of that."""
    digests = ((name, hashlib.sha256(key.encode(errors="surrogateescape")).digest()) for name, key in keys)
    return {digest: name or f"key-{digest.hex()[:8]}" for name, digest in digests}
