"""A corpus under one's fingers: one document a screen, keys to go on, back, and to another kind, reason or source."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeVar

from rich.console import Console
from rich.text import Text

from groundup.artifacts.screen import whole_screen
from groundup.data import show
from groundup.data.browse import KINDS, Corpus, Entry, Filters

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
p ← h      the one before
↑ ↓ j k    scroll a line; space and b a page, g and G to the ends
tab        kept, dropped, changed, duplicates, evaluation items
r R        another reason, or the one before
s          another source
/          only what holds these words; Enter takes it, nothing clears it
o          the whole funnel
q          leave"""
FOOT = "q quit · ? keys · n next · p back · ↑↓ scroll · tab kind · r reason · s source · / search · o funnel"
T = TypeVar("T")


@dataclass
class Shelf:
    """The entries of one kind under some filters, as far as they were asked for."""

    found: Iterator[Entry]
    entries: list[Entry] = field(default_factory=list)
    complete: bool = False

    def get(self, index: int) -> Entry | None:
        """Number `index`; None when there are not so many."""
        while len(self.entries) <= index and not self.complete:
            entry = next(self.found, None)
            if entry is None:
                self.complete = True
            else:
                self.entries.append(entry)
        return self.entries[index] if index < len(self.entries) else None


class Pager:
    """What is on the screen. `press` takes the name of a key; `lines` draws."""

    def __init__(self, corpus: Corpus, kind: str, filters: Filters):
        self.corpus, self.kind, self.filters = corpus, kind, filters
        self.page = ""  # "overview", "help" or, for documents, nothing
        self.typing: str | None = None
        self.index = self.top = 0
        self.done = False
        self._wrapped: tuple[object, list[Text]] = (None, [])
        self._open()

    def press(self, key: str, page: int = 20) -> None:
        """React to a key; `page` is the height of the text on the screen."""
        moves = {"up": -1, "down": 1, "page up": -page, "page down": page, "end": 1 << 30, "top": -(1 << 30)}
        if key in moves:
            self.top = max(0, self.top + moves[key])
        elif key in ("overview", "help"):
            self.page, self.top = ("" if self.page == key else key), 0
        elif key == "quit":
            self.done = True
        elif self.page:
            self.page, self.top = "", 0
        elif key == "leave" and self.filters.search:
            self._filter(search=None)
        elif key == "next" and self.shelf.get(self.index + 1):
            self.index, self.top = self.index + 1, 0
        elif key == "back" and self.index > 0:
            self.index, self.top = self.index - 1, 0
        elif key in ("kind", "last kind"):
            self.kind = _turn(KINDS, self.kind, -1 if key == "last kind" else 1)
            self._filter(reason=None)
        elif key in ("reason", "last reason"):
            reasons: list[str | None] = [None, *self.corpus.reasons(self.kind)]
            self._filter(reason=_turn(reasons, self.filters.reason, -1 if key == "last reason" else 1))
        elif key == "source":
            sources: list[str | None] = [None, *self.corpus.sources()]
            self._filter(source=_turn(sources, self.filters.source, 1))
        elif key == "search":
            self.typing = self.filters.search or ""

    def type(self, data: bytes) -> None:
        """What is typed while searching."""
        assert self.typing is not None
        if data in (b"\r", b"\n"):
            wanted, self.typing = self.typing, None
            self._filter(search=wanted or None)
        elif data.startswith(b"\x1b"):
            self.typing = None
        elif data in (b"\x7f", b"\x08"):
            self.typing = self.typing[:-1]
        else:
            self.typing += "".join(c for c in data.decode("utf-8", "ignore") if c.isprintable())

    def lines(self, console: Console, width: int, height: int) -> list[Text]:
        """The screen, `height` lines of at most `width` cells."""
        head = self._head()
        body = self._body(console, width - 2)
        room = max(1, height - 4)
        self.top = min(self.top, max(0, len(body) - room))
        shown = body[self.top : self.top + room]
        where = f"{min(100, 100 * (self.top + room) // len(body))}%" if len(body) > room else ""
        foot = Text(f" {FOOT}", show.SOFT)
        if self.typing is not None:
            foot = Text.assemble((" search: ", "bold"), self.typing, ("▏", "bold"))
        elif where:
            foot = Text.assemble((f" {where} ", "bold"), foot)
        rule = Text("─" * width, show.SOFT)
        lines = [
            head,
            rule,
            *(Text(" ") + line for line in shown),
            *[Text()] * (room - len(shown)),
            rule,
            foot,
        ]
        for line in lines:
            line.truncate(width, overflow="ellipsis")
            line.no_wrap = True
        return lines

    def _head(self) -> Text:
        if self.page == "overview":
            return Text(f" {self.corpus.folder}", "bold")
        if self.page == "help":
            return Text(" keys", "bold")
        entry = self.shelf.get(self.index)
        count = f"{len(self.shelf.entries):,}" if self._count_all() else "…"
        place = f"{self.index + 1:,} of {count}" if entry else "none"
        parts: list[tuple[str, str] | Text] = [(f" {self.kind} ", "reverse bold"), (f" {place}  ", "bold")]
        if entry:
            parts.append(show.title(entry))
            parts.append((f"  {show.facts(entry)}", show.SOFT))
        return Text.assemble(*parts)

    def _count_all(self) -> bool:
        """Whether all are known; examples are few and are counted, a corpus is not read to its end for that."""
        if self.kind != "kept":
            while not self.shelf.complete:
                self.shelf.get(len(self.shelf.entries))
        return self.shelf.complete

    def _body(self, console: Console, width: int) -> list[Text]:
        entry = None if self.page else self.shelf.get(self.index)
        key = (self.page, entry, self.filters, width)
        if self._wrapped[0] != key:
            text = {"overview": lambda: show.overview(self.corpus), "help": lambda: Text(HELP)}.get(
                self.page, lambda: show.body(entry, self.filters.search) if entry else self._nothing()
            )()
            self._wrapped = (key, list(text.wrap(console, max(10, width))))
        return self._wrapped[1]

    def _nothing(self) -> Text:
        asked = {
            "source": self.filters.source,
            "reason": self.filters.reason,
            "text": self.filters.search,
        }
        words = ", ".join(f"{name} {value!r}" for name, value in asked.items() if value)
        return Text(f"Nothing {self.kind}" + (f" with {words}." if words else " here."), show.SOFT)

    def _filter(self, **changes: str | None) -> None:
        self.filters = replace(self.filters, **changes)  # pyright: ignore[reportArgumentType]
        self._open()

    def _open(self) -> None:
        self.shelf = Shelf(self.corpus.entries(self.kind, self.filters))
        self.index = self.top = 0


def page_through(corpus: Corpus, kind: str, filters: Filters) -> None:
    """Show `corpus` on this terminal until the user leaves."""
    pager = Pager(corpus, kind, filters)
    with whole_screen() as screen:
        while not pager.done:
            size = screen.size()
            screen.draw(pager.lines(screen.console, *size))
            for key in screen.wait():
                if pager.typing is not None:
                    pager.type(key)
                else:
                    pager.press(KEYS.get(key, ""), size.lines - 4)


def _turn(choices: Sequence[T], now: T, step: int) -> T:
    """The choice after `now`, round and round."""
    place = choices.index(now) if now in choices else 0
    return choices[(place + step) % len(choices)]
