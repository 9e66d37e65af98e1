"""Terminal pager for a corpus: one document per screen, keys to change document, kind, reason and source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from groundup.viewers import corpus_render
from groundup.viewers.alternate_screen import alternate_screen
from groundup.viewers.corpus_browser import ENTRY_KINDS, Corpus, CorpusEntry, EntryFilters

KEYS = {
    b"\x1b[A": "up", b"\x1b[B": "down", b"\x1b[C": "next", b"\x1b[D": "back", b"\x1b[5~": "page up",
    b"\x1b[6~": "page down", b"\x1b[Z": "last kind", b"\x1b[H": "top", b"\x1b[F": "end",
    b"\x1b[1~": "top", b"\x1b[4~": "end", b"\x1bOA": "up", b"\x1bOB": "down", b"\x1bOC": "next", b"\x1bOD": "back",
    b"\x1bOH": "top", b"\x1bOF": "end", b"\x1b": "leave",
    b"n": "next", b"l": "next", b"p": "back", b"h": "back", b"k": "up", b"j": "down", b" ": "page down",
    b"b": "page up", b"\t": "kind", b"r": "reason", b"R": "last reason", b"s": "source", b"/": "search",
    b"o": "overview", b"g": "top", b"G": "end", b"?": "help", b"q": "quit", b"\x04": "quit",
}  # fmt: skip
HELP = """n → l      the next document
p ← h      the previous document
↑ ↓ j k    scroll a line; space and b a page, g and G to the ends
tab        kept, dropped, changed, duplicates, evaluation items
r R        next or previous reason
s          next source
/          search for a text; Enter applies it, an empty text clears it
o          overview: kept and dropped documents
q          quit"""
FOOTER = "q quit · ? keys · n next · p back · ↑↓ scroll · tab kind · r reason · s source · / search · o all"
T = TypeVar("T")


@dataclass
class EntryBuffer:
    """Lazily read list of entries."""

    source: Iterator[CorpusEntry]
    entries: list[CorpusEntry] = field(default_factory=list)
    complete: bool = False

    def get(self, index: int) -> CorpusEntry | None:
        """Entry number `index`, or None beyond the end."""
        while len(self.entries) <= index and not self.complete:
            entry = next(self.source, None)
            if entry is None:
                self.complete = True
            else:
                self.entries.append(entry)
        return self.entries[index] if index < len(self.entries) else None


class Pager:
    """State of the pager: `press` handles a key by name, `lines` renders the screen."""

    def __init__(self, corpus: Corpus, kind: str, filters: EntryFilters):
        self.corpus, self.kind, self.filters = corpus, kind, filters
        self.overlay = ""  # "overview", "help" or "" for documents
        self.search_input: str | None = None
        self.index = self.top = 0
        self.done = False
        self._wrapped: tuple[object, list[Text]] = (None, [])
        self._reload()

    def press(self, key: str, page_lines: int = 20) -> None:
        """Handle a key; `page_lines` is the height of the text area."""
        moves = {"up": -1, "down": 1, "page up": -page_lines, "page down": page_lines, "end": 1 << 30, "top": -self.top}
        if key in moves:
            self.top = max(0, self.top + moves[key])
        elif key in ("overview", "help"):
            self.overlay, self.top = ("" if self.overlay == key else key), 0
        elif key == "quit":
            self.done = True
        elif self.overlay:
            self.overlay, self.top = "", 0
        elif key == "leave" and self.filters.search:
            self._set_filters(search=None)
        elif key == "next" and self.buffer.get(self.index + 1):
            self.index, self.top = self.index + 1, 0
        elif key == "back" and self.index > 0:
            self.index, self.top = self.index - 1, 0
        elif key in ("kind", "last kind"):
            self.kind = _cycle(ENTRY_KINDS, self.kind, -1 if key == "last kind" else 1)
            self._set_filters(reason=None)
        elif key in ("reason", "last reason"):
            reasons: list[str | None] = [None, *self.corpus.reasons(self.kind)]
            self._set_filters(reason=_cycle(reasons, self.filters.reason, -1 if key == "last reason" else 1))
        elif key == "source":
            sources: list[str | None] = [None, *self.corpus.sources()]
            self._set_filters(source=_cycle(sources, self.filters.source, 1))
        elif key == "search":
            self.search_input = self.filters.search or ""

    def type_search(self, data: bytes) -> None:
        """Handle input while a search text is typed."""
        assert self.search_input is not None
        if data in (b"\r", b"\n"):
            text, self.search_input = self.search_input, None
            self._set_filters(search=text or None)
        elif data.startswith(b"\x1b"):
            self.search_input = None
        elif data in (b"\x7f", b"\x08"):
            self.search_input = self.search_input[:-1]
        else:
            self.search_input += "".join(c for c in data.decode("utf-8", "ignore") if c.isprintable())

    def lines(self, console: Console, width: int, height: int) -> list[Text]:
        """The screen, `height` lines of at most `width` cells."""
        header = self._header()
        content = self._content(console, width - 2)
        room = max(1, height - 4)
        self.top = min(self.top, max(0, len(content) - room))
        shown = content[self.top : self.top + room]
        percent = f"{min(100, 100 * (self.top + room) // len(content))}%" if len(content) > room else ""
        footer = Text(f" {FOOTER}", corpus_render.MUTED)
        if self.search_input is not None:
            footer = Text.assemble((" search: ", "bold"), self.search_input, ("▏", "bold"))
        elif percent:
            footer = Text.assemble((f" {percent} ", "bold"), footer)
        rule = Text("─" * width, corpus_render.MUTED)
        lines = [header, rule, *(Text(" ") + line for line in shown), *[Text()] * (room - len(shown)), rule, footer]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
        return lines

    def _header(self) -> Text:
        if self.overlay == "overview":
            return Text(f" {self.corpus.folder}", "bold")
        if self.overlay == "help":
            return Text(" keys", "bold")
        entry = self.buffer.get(self.index)
        count = f"{len(self.buffer.entries):,}" if self._count_all() else "…"
        position = f"{self.index + 1:,} of {count}" if entry else "none"
        parts: list[tuple[str, str] | Text] = [(f" {self.kind} ", "reverse bold"), (f" {position}  ", "bold")]
        if entry:
            parts.append(corpus_render.entry_title(entry))
            parts.append((f"  {corpus_render.entry_stats(entry, self.corpus.pii_tokens)}", corpus_render.MUTED))
        return Text.assemble(*parts)

    def _count_all(self) -> bool:
        """Whether all entries are read. Samples are few and read to the end; kept documents are not."""
        if self.kind != "kept":
            while not self.buffer.complete:
                self.buffer.get(len(self.buffer.entries))
        return self.buffer.complete

    def _content(self, console: Console, width: int) -> list[Text]:
        entry = None if self.overlay else self.buffer.get(self.index)
        key = (self.overlay, entry, self.filters, width)
        if self._wrapped[0] != key:
            text = {"overview": lambda: corpus_render.overview(self.corpus), "help": lambda: Text(HELP)}.get(
                self.overlay,
                lambda: (
                    corpus_render.entry_text(entry, self.corpus.pii_tokens, self.filters.search)
                    if entry
                    else self._empty_message()
                ),
            )()
            self._wrapped = (key, list(text.wrap(console, max(10, width))))
        return self._wrapped[1]

    def _entry_text(self, entry: CorpusEntry) -> Text:
        return corpus_render.entry_text(entry, self.corpus.pii_tokens, self.filters.search)

    def _empty_message(self) -> Text:
        filters = {"source": self.filters.source, "reason": self.filters.reason, "text": self.filters.search}
        words = ", ".join(f"{name} {value!r}" for name, value in filters.items() if value)
        return Text(f"No {self.kind} documents" + (f" with {words}." if words else "."), corpus_render.MUTED)

    def _set_filters(self, **changes: str | None) -> None:
        self.filters = replace(self.filters, **changes)  # pyright: ignore[reportArgumentType]
        self._reload()

    def _reload(self) -> None:
        self.buffer = EntryBuffer(self.corpus.entries(self.kind, self.filters))
        self.index = self.top = 0


def run_pager(corpus: Corpus, kind: str, filters: EntryFilters) -> None:
    """Show `corpus` on this terminal until the user quits."""
    pager = Pager(corpus, kind, filters)
    with alternate_screen() as screen:
        while not pager.done:
            size = screen.size()
            screen.draw(pager.lines(screen.console, *size))
            for key in screen.read_keys():
                if pager.search_input is not None:
                    pager.type_search(key)
                else:
                    pager.press(KEYS.get(key, ""), size.lines - 4)


def _cycle(choices: Sequence[T], current: T, step: int) -> T:
    """The choice `step` after `current`, cyclically."""
    index = choices.index(current) if current in choices else 0
    return choices[(index + step) % len(choices)]
