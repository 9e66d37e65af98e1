"""Corpus entries as styled text, for the pager and for plain output.

Control characters and bidirectional overrides in documents are shown as U+FFFD.
"""

import difflib
import itertools
import re
from collections import Counter
from collections.abc import Sequence
from typing import Any

from rich.console import Console
from rich.text import Text

from groundup.artifacts.sanitize import sanitize_for_terminal
from groundup.data.filter_stats import describe_reason
from groundup.viewers.corpus_browser import Corpus, CorpusEntry, EntryFilters

MAX_CHARACTERS = 200_000
"""Characters shown of a document."""
BAR_WIDTH = 24
MUTED, EMPHASIS, WARN = "dim", "bold cyan", "yellow"
REMOVED, ADDED, MATCHED = "red", "green", "black on yellow"


def entry_title(entry: CorpusEntry) -> Text:
    """Source, split, reason and id, in one line."""
    parts = [(_one_line(entry.source) or "?", EMPHASIS)]
    if entry.split:
        parts.append((f"  {entry.split}", MUTED))
    if entry.reason:
        parts.append((f"  {_one_line(entry.reason).replace('_', ' ')}", WARN))
    parts.append((f"  {_one_line(entry.id)}", MUTED))
    return Text.assemble(*parts)


def entry_text(entry: CorpusEntry, pii_tokens: Sequence[str], search: str | None = None) -> Text:
    """The text, with search matches and the tokens of personal data highlighted."""
    if entry.kind == "changed":
        text = _diff_text(entry)
    elif entry.members:
        text = _cluster_text(entry)
    else:
        text = Text(sanitize_for_terminal(entry.text[:MAX_CHARACTERS]))
        if len(entry.text) > MAX_CHARACTERS:
            text.append(f"\n… {len(entry.text) - MAX_CHARACTERS:,} characters more", MUTED)
        if not entry.text:
            text.append("(no text stored)", MUTED)
    text.highlight_regex(_any_of(pii_tokens), WARN)
    if search:
        text.highlight_regex(re.compile(re.escape(search), re.IGNORECASE), MATCHED)
    return text


def _any_of(tokens: Sequence[str]) -> re.Pattern[str]:
    return re.compile("|".join(map(re.escape, sorted(filter(None, tokens), key=len, reverse=True))) or "(?!)")


def entry_stats(entry: CorpusEntry, pii_tokens: Sequence[str]) -> str:
    """Length and number of tokens of personal data."""
    length = [f"{len(entry.text):,} characters"] if entry.text and not entry.members else []
    counts = Counter(_any_of(pii_tokens).findall(entry.text))
    return " · ".join([*length, *(f"{count} {name}" for name, count in counts.items())])


def overview(corpus: Corpus) -> Text:
    """Kept documents by source, drop reasons and removed bytes by step."""
    text = Text()
    sources: dict[str, Any] = corpus.metrics.get("sources", {})
    if not sources:
        return Text(f"{corpus.folder}: no manifest, so no counts; documents can be viewed.")
    width = max(len(name) for name in sources)
    digits = max(len(f"{row['read']['documents']:,}") for row in sources.values())
    for name, row in sources.items():
        read, kept = row["read"]["documents"], row["kept"]["documents"]
        filled = round(BAR_WIDTH * kept / read) if read else 0
        text.append(f"{name:<{width}}  ", EMPHASIS).append("━" * filled, "cyan").append(
            "─" * (BAR_WIDTH - filled), MUTED
        )
        text.append(f"  {kept:>{digits},} of {read:>{digits},} documents kept")
        text.append(f"  {_format_bytes(row['kept']['bytes']):>9}\n", MUTED)
    text.append(_mixture_table(sources, width))
    reasons: Counter[str] = Counter()
    trimmed: Counter[str] = Counter()
    for row in sources.values():
        reasons.update({reason: counts["documents"] for reason, counts in row["dropped"].items()})
        trimmed.update(row.get("trimmed", {}))
    if reasons:
        text.append("\ndropped\n", "bold")
    for reason, count in sorted(reasons.items(), key=lambda item: (-item[1], item[0])):
        text.append(f"{count:>11,}  ").append(f"{sanitize_for_terminal(describe_reason(reason))}\n", WARN)
    if trimmed:
        text.append("\nremoved from kept documents\n", "bold")
    for rule, amount in sorted(trimmed.items(), key=lambda item: (-item[1], item[0])):
        text.append(f"{_format_bytes(amount):>11}  ").append(f"{rule.replace('_', ' ')}\n", WARN)
    return text


def _mixture_table(sources: dict[str, Any], width: int) -> Text:
    """Training text of one pass by source; tokens estimated at 4 bytes each."""
    text = Text().append("\ntraining mixture\n", "bold")
    text.append(f"{'':<{width}}  {'documents':>11}  {'tokens, est.':>13}  {'bytes':>6}  {'epochs':>6}\n", MUTED)
    rows = {name: row for name, row in sources.items() if "train" in row}
    for name, row in rows.items():
        text.append(f"{name:<{width}}  ", EMPHASIS)
        text.append(f"{row['train']['documents']:>11,}  {row['tokens_estimated']:>13,}  ")
        text.append(f"{row['byte_fraction']:>6.1%}  {row['epochs']:>6.2f}\n")
    documents = sum(row["train"]["documents"] for row in rows.values())
    tokens = sum(row["tokens_estimated"] for row in rows.values())
    return text.append(f"{'':<{width}}  {documents:>11,}  {tokens:>13,}\n") if rows else Text()


def print_entries(corpus: Corpus, kinds: Sequence[str], filters: EntryFilters, limit: int, console: Console) -> None:
    """Print at most `limit` entries of each kind (0: all), after the overview if there are several kinds."""
    if len(kinds) > 1:
        console.print(overview(corpus), soft_wrap=True)
    for kind in kinds:
        for entry in itertools.islice(corpus.entries(kind, filters), limit or None):
            console.print(Text.assemble((f"── {kind}  ", MUTED), entry_title(entry)), soft_wrap=True)
            console.print(entry_text(entry, corpus.pii_tokens, filters.search).append("\n"), soft_wrap=True)


def _diff_text(entry: CorpusEntry) -> Text:
    after = sanitize_for_terminal(entry.text).split("\n")
    if entry.before is None:
        return Text("\n".join(after)).append("\n\n(the text before the change is not stored)", MUTED)
    text = Text()
    before = sanitize_for_terminal(entry.before).split("\n")
    for line in difflib.ndiff(before, after):
        mark, content = line[0], line[2:]
        if mark != "?":
            style = {"-": REMOVED, "+": ADDED}.get(mark, "")
            text.append(f"{ {'-': '−', '+': '+'}.get(mark, ' ') } {content}\n", style)
    return text


def _cluster_text(entry: CorpusEntry) -> Text:
    text = Text()
    for member in entry.members:
        text.append(_one_line(member.get("source", "")), EMPHASIS).append(
            f"  {_one_line(member.get('id', ''))}\n", MUTED
        )
        text.append(f"{sanitize_for_terminal(member.get('text', ''))} …\n\n")
    return text


def _one_line(text: str) -> str:
    return " ".join(sanitize_for_terminal(text).split())


def _format_bytes(amount: float) -> str:
    for unit in ("B", "kB", "MB", "GB"):
        if abs(amount) < 1000:
            return f"{amount:.0f} {unit}" if unit == "B" else f"{amount:.1f} {unit}"
        amount /= 1000
    return f"{amount:.1f} TB"
