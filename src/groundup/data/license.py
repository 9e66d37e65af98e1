"""License detection for source files: from the file's header, else from the nearest license file above it.

Names are SPDX identifiers (https://spdx.org/licenses). A license text or notice is recognized by a sentence unique to it.
For selecting training data; not legal advice.
"""

import re
from functools import cache, cached_property
from pathlib import Path, PurePosixPath

from groundup.data import archive
from groundup.data.inputs import InputFile

LICENSE_FILE = re.compile(r"(?:un)?licen[cs]e(?:s|[.-].*)?|copying(?:[.-].*)?|copyright(?:\.txt)?", re.IGNORECASE)
HEADER_CHARACTERS = 4_096
MAX_LICENSE_BYTES = 1 << 16
SPDX_IDENTIFIER = re.compile(r"SPDX-License-Identifier:[ \t]*([\w.+() -]{1,200})", re.IGNORECASE)
PROPRIETARY = "LicenseRef-proprietary"
LICENSE_SENTENCES = {
    "permission is hereby granted, free of charge, to any person obtaining a copy": "MIT",
    "apache license version 2.0": "Apache-2.0",
    "apache license, version 2.0": "Apache-2.0",
    "redistribution and use in source and binary forms": "BSD",
    "permission to use, copy, modify, and/or distribute this software for any purpose": "ISC",
    "permission to use, copy, modify, and distribute this software for any purpose": "ISC",
    "this is free and unencumbered software released into the public domain": "Unlicense",
    "creative commons legal code cc0 1.0": "CC0-1.0",
    "boost software license - version 1.0": "BSL-1.0",
    "boost software license, version 1.0": "BSL-1.0",
    "altered source versions must be plainly marked": "Zlib",
    "python software foundation license version 2": "PSF-2.0",
    "postgresql license": "PostgreSQL",
    "mozilla public license version 2.0": "MPL-2.0",
    "mozilla public license, version 2.0": "MPL-2.0",
    "mozilla public license, v. 2.0": "MPL-2.0",
    "mozilla public license version 1.1": "MPL-1.1",
    "eclipse public license - v 2.0": "EPL-2.0",
    "eclipse public license v2.0": "EPL-2.0",
    "eclipse public license v1.0": "EPL-1.0",
    "common development and distribution license": "CDDL-1.0",
    "the artistic license 2.0": "Artistic-2.0",
    "business source license 1.1": "BUSL-1.1",
    "server side public license": "SSPL-1.0",
    "elastic license 2.0": "Elastic-2.0",
    "gnu affero general public license": "AGPL",
    "gnu lesser general public license": "LGPL",
    "gnu library general public license": "LGPL",
    "gnu general public license": "GPL",
}
"""`identify_license` adds the versions of BSD and GPL licenses."""

STATED = r"licen[sc]ed?_{0,2} ?(?:under|:|=)(?: the)? ['\"]?"
NOTICES = {
    rf"\b(?:mit|expat)[ -]licen[sc]ed?|{STATED}(?:mit|expat)\b": "MIT",
    rf"{STATED}apache[- ](?:license[, ]*)?(?:version )?2(?:\.0)?\b|apache-2\.0": "Apache-2.0",
    rf"{STATED}(?:new |modified |simplified |[23]-clause )?bsd\b(?!-style)": "BSD",
    rf"{STATED}isc\b": "ISC",
    r"\bagpl(?:[- ]?v?3|\b)": "AGPL-3.0",
    r"\blgpl(?:[- ]?v?[23]|\b)": "LGPL",
    rf"(?<![al])gpl[- ]?v?[23]|{STATED}(?:gnu )?gpl\b|\bgpl licen[sc]ed?": "GPL",
    r"proprietary and confidential|confidential and proprietary|proprietary (?:information|license|source code)|"
    r"unauthori[sz]ed (?:copying|use|distribution|reproduction)|trade secrets?\b|"
    r"this (?:file|software|program|code|work|document|material)[^.]{0,40} (?:may|must|can) ?not be (?:copied|reproduced|"
    r"redistributed|used|distributed|disclosed)|no part of [^.]{0,60} (?:may|can|shall) be "
    r"(?:copied|reproduced|distributed)": PROPRIETARY,
}
"""Patterns of short notices in the header of a file, in lower case."""
NOTICE_WORDS = ("licen", "gpl", "apache-2", "propriet", "unauthori", "trade secret", "not be ", "no part of")
"""One of them is in each notice: most headers have none, and their search ends here."""
NOTICE_PATTERNS = [(re.compile(pattern), name) for pattern, name in NOTICES.items()]
FAMILY = r"(?:mit|bsd|apache|isc|l?gpl)"
CHOICE = re.compile(
    r"dual.?licen|triple.?licen|\balternatively\b|under (?:the )?(?:terms of )?either (?:the |of )?(?!version)|"
    rf"\b{FAMILY}[\w .,()-]{{0,40}}\bor\b (?:the )?{FAMILY}\b|at your (?:option|choice),? (?:the|any of)"
)
"""Words by which a header offers its licenses as a choice; without them all apply."""

PERMISSIVE_LICENSES = frozenset(
    ["MIT", "MIT-0", "Apache-2.0", "BSD-2-Clause", "BSD-3-Clause", "BSD", "0BSD", "ISC", "Unlicense", "CC0-1.0", "BSL-1.0",
     "Zlib", "PSF-2.0", "Python-2.0", "PostgreSQL"]
)  # fmt: skip
"""Licenses that require at most attribution. "BSD": a notice that does not say how many clauses."""

UNKNOWN_LICENSE = "unknown"


def identify_license(text: str) -> str | None:
    """SPDX name of the first license that a text contains or mentions, or None."""
    if tag := SPDX_IDENTIFIER.search(text, 0, MAX_LICENSE_BYTES):
        return _spdx_name(tag.group(1))
    normalized = _normalize(text[:MAX_LICENSE_BYTES])
    found = _sentences(normalized)
    return found[0][1] if found else None


def identify_header(text: str) -> str | None:
    """SPDX expression of the licenses that the first lines of a source file state, or None."""
    head = text[:HEADER_CHARACTERS]
    if tag := SPDX_IDENTIFIER.search(head):
        return _spdx_name(tag.group(1))
    normalized = _normalize(head)
    found = dict.fromkeys(name for _, name in _sentences(normalized))
    for pattern, name in NOTICE_PATTERNS if any(word in normalized for word in NOTICE_WORDS) else ():
        if pattern.search(normalized) and not any(known.startswith(name.partition("-")[0]) for known in found):
            found[name] = None
    if PROPRIETARY in found and len(found) > 1:  # the terms of a free license sound alike
        del found[PROPRIETARY]
    return (" OR " if len(found) > 1 and CHOICE.search(normalized) else " AND ").join(found) or None


def _normalize(text: str) -> str:
    return re.sub(r"[\s#*;/\"]+", " ", text.lower())


def _sentences(normalized: str) -> list[tuple[int, str]]:
    """(place, license) of the sentences in a text."""
    found = [(start, name) for words, name in LICENSE_SENTENCES.items() if (start := normalized.find(words)) >= 0]
    return [(start, _with_version(name, normalized[start:])) for start, name in sorted(found)]


def _with_version(name: str, text: str) -> str:
    if name == "BSD":
        return "BSD-3-Clause" if "neither the name" in text else "BSD-2-Clause"
    if name.endswith("GPL"):
        version = re.search(r"version (\d(?:\.\d)?)", text[:400])
        return f"{name}-{version.group(1) if '.' in version.group(1) else version.group(1) + '.0'}" if version else name
    return name


def _spdx_name(tag: str) -> str:
    """An SPDX expression in its usual letters; as it is if it holds unknown names."""
    from packaging.licenses import InvalidLicenseExpression, canonicalize_license_expression

    expression = tag.removesuffix("*/").strip(" -")
    try:
        return str(canonicalize_license_expression(expression))
    except InvalidLicenseExpression:
        return expression


def is_allowed(license: str, allowed: frozenset[str]) -> bool:
    """Whether an SPDX expression (A OR B, A AND (B OR C)) is satisfied by the allowed licenses, in any letters."""
    names = {name.lower() for name in allowed}
    tokens = re.findall(r"[()]|[^\s()]+", license)
    position = 0

    def either() -> bool:
        nonlocal position
        value = every()
        while position < len(tokens) and tokens[position].upper() == "OR":
            position += 1
            value = every() or value
        return value

    def every() -> bool:
        nonlocal position
        value = single()
        while position < len(tokens) and tokens[position].upper() == "AND":
            position += 1
            value = single() and value
        return value

    def single() -> bool:
        nonlocal position
        token = tokens[position] if position < len(tokens) else ""
        position += 1
        if token == "(":
            value = either()
            position += 1
            return value
        if position + 1 < len(tokens) and tokens[position].upper() == "WITH":  # an exception only adds permissions
            position += 2
        return re.sub(r"-only$|-or-later$|\+$", "", token.lower()) in names

    return either() and position == len(tokens)


def expand_allowed(names: tuple[str, ...]) -> frozenset[str]:
    """Allowed licenses, with "permissive" expanded."""
    return frozenset(names) - {"permissive"} | (PERMISSIVE_LICENSES if "permissive" in names else frozenset())


class LicenseFinder:
    """Licenses of the files of one input: a file in a folder or checkout, or an archive with license files."""

    def __init__(self, file: InputFile):
        self.file = file

    @cached_property
    def archive_licenses(self) -> dict[str, str]:
        """By the folder that a license file covers."""
        licenses: dict[str, str] = {}
        for member in archive.iter_members(self.file.path, strip_top=self.file.strip_top_folder):
            path = PurePosixPath(member.name)
            if LICENSE_FILE.fullmatch(path.name) and (
                found := identify_license(member.stream.read(MAX_LICENSE_BYTES).decode("utf-8", "replace"))
            ):
                licenses[_covered_folder(path.parent)] = found
        return licenses

    def find(self, name: str, text: str) -> str:
        """License of the member `name` with this text, or "unknown"."""
        if stated := identify_header(text):
            return stated
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
