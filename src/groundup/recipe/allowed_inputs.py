"""machine.allowed_inputs: the folders and addresses that a recipe may read, for recipes of other people."""

import glob
import posixpath
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

from groundup.artifacts.errors import UserError

INPUT_KNOBS = frozenset(("path", "pretrained", "compare", "token_shards", "text"))
"""Knobs that name files or addresses to read, in any table. With `package`, `path` names members of its archive."""

SECRET_PARAMETER = (
    r"(?:x-(?:amz|goog)-(?:signature|credential|security-token)|signature|sig|access_?key_?(?:id)?|awsaccesskeyid|"
    r"(?:access|auth|api|private|refresh|id|session)?_?-?token|api_?-?key|password|passwd|pwd|secret|auth)"
)
"""Names of parameters of addresses whose values give access: presigned addresses of S3, Google and Azure, API keys."""


def is_allowed(location: str, allowed: Iterable[str]) -> bool:
    """Whether a path, glob or address lies in one of the folders or begins with one of the addresses in `allowed`.

    Links inside an allowed folder are followed: who may write there is trusted.
    """
    if "::" in location:
        return False  # a chain of fsspec: the address of one file system in another
    address = urlsplit(location) if "://" in location else None
    if address is not None and address.scheme in ("file", "local"):
        return is_allowed(unquote(address.netloc + address.path), allowed)
    if address is None:
        fixed = _fixed_part(location)
        return fixed is not None and any(fixed.is_relative_to(_resolve(root)) for root in allowed if "://" not in root)
    path = posixpath.normpath("/" + unquote(address.path).lstrip("/"))
    for root in allowed:
        prefix = urlsplit(root)
        same_server = (prefix.scheme, prefix.netloc) == (address.scheme, address.netloc)
        if "://" in root and same_server and f"{path}/".startswith(f"{prefix.path.rstrip('/')}/"):
            return True
    return False


def check_inputs(values: Any, allowed: Iterable[str], name: str = "") -> None:
    """Raise UserError for the first knob in the tables `values` that names another file or address."""
    for knob, location in _locations(values, name):
        if not is_allowed(location, allowed):
            raise UserError(
                f"{knob} = {location}, which machine.allowed_inputs does not allow",
                hint=f"allowed: {', '.join(allowed) or 'nothing'}",
            )


def _locations(values: Any, name: str) -> Iterator[tuple[str, str]]:
    if isinstance(values, dict):
        for key, value in values.items():
            inner = f"{name}.{key}" if name else key
            if inner == "base.model" or (key in INPUT_KNOBS and not (key == "path" and values.get("package"))):
                texts = value.values() if isinstance(value, dict) else [value]
                yield from ((inner, text) for text in texts if isinstance(text, str))
            else:
                yield from _locations(value, inner)
    elif isinstance(values, list | tuple):
        for index, value in enumerate(values):
            yield from _locations(value, f"{name}[{index}]")


def _fixed_part(pattern: str) -> Path | None:
    """The folder before the first glob, without links; None where a glob is followed by .., which can lead anywhere."""
    parts = Path(pattern).expanduser().parts
    magic = next((index for index, part in enumerate(parts) if glob.has_magic(part)), len(parts))
    return None if ".." in parts[magic:] else _resolve(Path(*parts[:magic]))


def _resolve(path: Path | str) -> Path:
    return Path(path).expanduser().resolve()
