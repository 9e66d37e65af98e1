"""License detection for source files: from the file's header, else from the nearest license file above it.

Names are SPDX identifiers (https://spdx.org/licenses). A license text is recognized by a sentence unique to it. For
selecting training data; not legal advice.
"""

import re
from functools import cache
from pathlib import Path, PurePosixPath

from groundup.data import archive
from groundup.data.inputs import InputFile

LICENSE_FILE = re.compile(r"(?:un)?licen[cs]e(?:s|[.-].*)?|copying(?:[.-].*)?|copyright(?:\.txt)?", re.IGNORECASE)
HEADER_CHARACTERS = 4_096
MAX_LICENSE_BYTES = 1 << 16
SPDX_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() -]{1,200})")
LICENSE_SENTENCES = {
    "permission is hereby granted, free of charge, to any person obtaining a copy": "MIT",
    "apache license version 2.0": "Apache-2.0",
    "licensed under the apache license, version 2.0": "Apache-2.0",
    "redistribution and use in source and binary forms": "BSD",
    "permission to use, copy, modify, and/or distribute this software for any purpose": "ISC",
    "permission to use, copy, modify, and distribute this software for any purpose": "ISC",
    "this is free and unencumbered software released into the public domain": "Unlicense",
    "creative commons legal code cc0 1.0": "CC0-1.0",
    "boost software license - version 1.0": "BSL-1.0",
    "altered source versions must be plainly marked": "Zlib",
    "python software foundation license version 2": "PSF-2.0",
    "postgresql license": "PostgreSQL",
    "mozilla public license version 2.0": "MPL-2.0",
    "mozilla public license, version 2.0": "MPL-2.0",
    "eclipse public license - v 2.0": "EPL-2.0",
    "the artistic license 2.0": "Artistic-2.0",
    "gnu affero general public license": "AGPL",
    "gnu lesser general public license": "LGPL",
    "gnu library general public license": "LGPL",
    "gnu general public license": "GPL",
}
"""`identify_license` adds the versions of BSD and GPL licenses."""

PERMISSIVE_LICENSES = frozenset(
    ["MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Unlicense", "CC0-1.0", "BSL-1.0", "Zlib",
     "PSF-2.0", "Python-2.0", "PostgreSQL"]
)  # fmt: skip
"""Licenses that require at most attribution."""

UNKNOWN_LICENSE = "unknown"


def identify_license(text: str) -> str | None:
    """SPDX name of the first license that a text contains or mentions, or None."""
    if tag := SPDX_IDENTIFIER.search(text, 0, MAX_LICENSE_BYTES):
        return tag.group(1).removesuffix("*/").strip()
    normalized = re.sub(r"[\s#*;/\"]+", " ", text[:MAX_LICENSE_BYTES].lower())
    matches = [(start, name) for words, name in LICENSE_SENTENCES.items() if (start := normalized.find(words)) >= 0]
    if not matches:
        return None
    start, name = min(matches)
    if name == "BSD":
        return "BSD-3-Clause" if "neither the name" in normalized[start:] else "BSD-2-Clause"
    if name.endswith("GPL"):
        version = re.search(r"version (\d(?:\.\d)?)", normalized[start : start + 400])
        return f"{name}-{version.group(1) if '.' in version.group(1) else version.group(1) + '.0'}" if version else name
    return name


def is_allowed(license: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression (A OR B, A AND B) is satisfied by the allowed licenses."""
    choices = re.split(r"\s+OR\s+", license.strip("() "))
    return any(
        all(
            re.sub(r"-only$|-or-later$|\+$", "", part.strip("() ")) in allowed
            for part in re.split(r"\s+AND\s+", choice)
        )
        for choice in choices
    )


def expand_allowed(names: tuple[str, ...]) -> frozenset[str]:
    """Allowed licenses, with "permissive" expanded."""
    return frozenset(names) - {"permissive"} | (PERMISSIVE_LICENSES if "permissive" in names else frozenset())


class LicenseFinder:
    """Licenses of the files of one input: a file in a folder or checkout, or an archive with license files."""

    def __init__(self, file: InputFile):
        self.file = file
        self.archive_licenses: dict[str, str] = {}
        if file.is_archive:
            for member in archive.iter_members(file.path, strip_top=file.strip_top_folder):
                path = PurePosixPath(member.name)
                if LICENSE_FILE.fullmatch(path.name) and (
                    found := identify_license(member.stream.read(MAX_LICENSE_BYTES).decode("utf-8", "replace"))
                ):
                    self.archive_licenses[_covered_folder(path.parent)] = found

    def find(self, name: str, text: str) -> str:
        """License of the member `name` with this text, or "unknown"."""
        if tag := SPDX_IDENTIFIER.search(text, 0, HEADER_CHARACTERS):
            return tag.group(1).removesuffix("*/").strip()
        if self.file.is_archive:
            folders = [folder.as_posix() for folder in PurePosixPath(name).parents]
            return next(
                (self.archive_licenses[folder] for folder in folders if folder in self.archive_licenses),
                UNKNOWN_LICENSE,
            )
        return (
            _license_in_parents(self.file.path.parent.resolve(), len(PurePosixPath(self.file.name).parts) - 1)
            or UNKNOWN_LICENSE
        )


def _covered_folder(folder: PurePosixPath) -> str:
    """Folder to which a license file applies; a wheel has it in NAME.dist-info."""
    return "." if any(part.endswith(".dist-info") for part in folder.parts) else folder.as_posix()


@cache
def _license_in_parents(folder: Path, levels: int) -> str | None:
    """License of a folder, else of its parents: within the source, or up to the root of the checkout."""
    for path in sorted(folder.iterdir()):
        if LICENSE_FILE.fullmatch(path.name) and path.is_file():
            with path.open("rb") as file:
                if found := identify_license(file.read(MAX_LICENSE_BYTES).decode("utf-8", "replace")):
                    return found
    is_top = (folder / ".git").exists() or folder.parent == folder
    if is_top or (levels <= 0 and not any((above / ".git").exists() for above in folder.parents)):
        return None
    return _license_in_parents(folder.parent, levels - 1)
