"""Under which license is a source file? What its own head says, else the nearest license file above it.

Names are SPDX's (https://spdx.org/licenses). A license file is known by a sentence that only it has; what is not
known is no license. This sorts files for a corpus; it is no advice on law.
"""

import re
from functools import cache
from pathlib import Path, PurePosixPath

from groundup.data import archive
from groundup.data.inputs import InputFile

LICENSE_FILE = re.compile(
    r"(?:un)?licen[cs]e(?:s|[.-].*)?|copying(?:[.-].*)?|copyright(?:\.txt)?", re.IGNORECASE
)
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
"""BSD, GPL and their kin come in versions; see `identify`."""

PERMISSIVE_LICENSES = frozenset(
    ["MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "0BSD", "ISC", "Unlicense", "CC0-1.0", "BSL-1.0", "Zlib",
     "PSF-2.0", "Python-2.0", "PostgreSQL"]
)  # fmt: skip
"""What asks for no more than its own text to be kept."""

UNKNOWN_LICENSE = "unknown"


def identify_license(text: str) -> str | None:
    """The license that a text names or is; the one that comes first when it speaks of several."""
    if said := SPDX_IDENTIFIER.search(text, 0, MAX_LICENSE_BYTES):
        return said.group(1).removesuffix("*/").strip()
    plain = re.sub(r"[\s#*;/\"]+", " ", text[:MAX_LICENSE_BYTES].lower())
    places = [(place, name) for words, name in LICENSE_SENTENCES.items() if (place := plain.find(words)) >= 0]
    if not places:
        return None
    place, name = min(places)
    if name == "BSD":
        return "BSD-3-Clause" if "neither the name" in plain[place:] else "BSD-2-Clause"
    if name.endswith("GPL"):
        version = re.search(r"version (\d(?:\.\d)?)", plain[place : place + 400])
        return (
            f"{name}-{version.group(1) if '.' in version.group(1) else version.group(1) + '.0'}"
            if version
            else name
        )
    return name


def is_allowed(license: str, allowed: frozenset[str]) -> bool:
    """Does an SPDX expression (A OR B, A AND B) let the file be used under the licenses that are allowed?"""
    choices = re.split(r"\s+OR\s+", license.strip("() "))
    return any(
        all(
            re.sub(r"-only$|-or-later$|\+$", "", part.strip("() ")) in allowed
            for part in re.split(r"\s+AND\s+", choice)
        )
        for choice in choices
    )


def expand_allowed(names: tuple[str, ...]) -> frozenset[str]:
    """The licenses that a recipe allows; "permissive" stands for several."""
    return frozenset(names) - {"permissive"} | (PERMISSIVE_LICENSES if "permissive" in names else frozenset())


class LicenseFinder:
    """The licenses of one input: a file in a folder or a checkout, or an archive with a license file inside."""

    def __init__(self, file: InputFile):
        self.file = file
        self.archive_licenses: dict[str, str] = {}
        if file.is_archive:
            for member in archive.iter_members(file.path, strip_top=file.strip_top_folder):
                path = PurePosixPath(member.name)
                if LICENSE_FILE.fullmatch(path.name) and (
                    found := identify_license(_decode(member.stream.read(MAX_LICENSE_BYTES)))
                ):
                    self.archive_licenses[_covered_folder(path.parent)] = found

    def find(self, name: str, text: str) -> str:
        """The license of the file `name` with this text, or "unknown"."""
        if said := SPDX_IDENTIFIER.search(text, 0, HEADER_CHARACTERS):
            return said.group(1).removesuffix("*/").strip()
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
    """A wheel keeps the license of all its files in a folder of its own."""
    return "." if any(part.endswith(".dist-info") for part in folder.parts) else folder.as_posix()


@cache
def _license_in_parents(folder: Path, levels: int) -> str | None:
    """What the license file of a folder says, else of one above it: within the source, or up to the checkout's top."""
    for path in sorted(folder.iterdir()):
        if LICENSE_FILE.fullmatch(path.name) and path.is_file():
            with path.open("rb") as file:
                if found := identify_license(_decode(file.read(MAX_LICENSE_BYTES))):
                    return found
    is_top = (folder / ".git").exists() or folder.parent == folder
    if is_top or (levels <= 0 and not any((above / ".git").exists() for above in folder.parents)):
        return None
    return _license_in_parents(folder.parent, levels - 1)


def _decode(data: bytes) -> str:
    return data.decode("utf-8", "replace")
