"""What stayed: how long and in which languages, what repeated, and what the model is shown of it."""

from typing import Any

from groundup.report import corpus_plots, formatting
from groundup.report.elements import Cell, Element, figure, lead_in, paragraph, quotation, section, table
from groundup.report.run_data import stage_metrics

MAX_LANGUAGES = 12
MAX_CLUSTERS = 3
MAX_MEMBERS = 3
EXAMPLE_CHARACTERS = 300
REPEATS = {"exact_duplicate": "equal", "near_duplicate": "nearly equal"}


def corpus_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    sources = stage_metrics(facts, "data").get("sources")
    if not sources:
        return None
    sources = dict(sorted(sources.items(), key=lambda row: -row[1].get("train", {}).get("bytes", 0)))
    return section(
        "What the text holds",
        [
            _words(sources),
            _lengths(sources),
            _languages(sources),
            *_repeats(facts, sources),
            *_mix(sources),
        ],
    )


def _words(sources: dict[str, Any]) -> Element | None:
    lengths = _sum_counts(sources, "lengths")
    languages = _sum_counts(sources, "languages")
    parts = []
    if lengths:
        seen, half = 0, sum(lengths.values()) / 2
        for length in sorted(lengths, key=int):
            seen += lengths[length]
            if seen >= half:
                parts.append(f"Half of the documents that stayed have no more than {int(length):,} bytes.")
                break
    if languages:
        most = max(languages, key=languages.__getitem__)
        whole = formatting.pluralize(sum(languages.values()), "text")
        parts.append(f"{languages[most]:,} of {whole} whose language was judged are in “{most}”.")
    return paragraph(" ".join(parts)) if parts else None


def _lengths(sources: dict[str, Any]) -> Element | None:
    rows = {
        name: {int(size): count for size, count in row["lengths"].items()}
        for name, row in sources.items()
        if row.get("lengths")
    }
    if not rows:
        return None
    counts = _sum_counts(sources, "lengths")
    return figure(
        "lengths",
        corpus_plots.plot_lengths(rows),
        "How long the documents are that stayed, each counted under the next power of two.",
        "A histogram: "
        + ", ".join(f"{counts[size]:,} up to {int(size):,} bytes" for size in sorted(counts, key=int)),
    )


def _languages(sources: dict[str, Any]) -> Element | None:
    """One language needs no picture: the words have said it."""
    counts = _sum_counts(sources, "languages")
    if len(counts) < 2:
        return None
    from groundup.report import training_plots

    order = sorted(counts, key=lambda name: (-counts[name], name))
    rows: list[training_plots.Bar] = [(name, counts[name], None) for name in order[:MAX_LANGUAGES]]
    if rest := order[MAX_LANGUAGES:]:
        rows.append((f"{len(rest)} others", sum(counts[name] for name in rest), None))
    return figure(
        "languages",
        training_plots.plot_bars(rows, format_value=lambda value: f"{value:,.0f}"),
        "The languages of the texts that were judged, before the rules on quality and repeats. “Unsure” is none in particular."
        if "unsure" in counts
        else "The languages of the texts that were judged, before the rules on quality and repeats.",
        "Bars: " + ", ".join(f"{name} {value:,.0f}" for name, value, _ in rows),
    )


def _repeats(facts: dict[str, Any], sources: dict[str, Any]) -> list[Element]:
    """How much repeats, and the largest clusters with the beginning of one member each."""
    fell = {
        words: sum(row["dropped"].get(reason, {}).get("documents", 0) for row in sources.values())
        for reason, words in REPEATS.items()
    }
    counts = stage_metrics(facts, "data").get("duplicate_clusters", {})
    clusters = facts.get("clusters", [])
    if not clusters and not any(fell.values()):
        return []
    told = formatting.join_words([f"{count:,} {words}" for words, count in fell.items() if count])
    words = f"Of documents that repeat, one of each cluster stayed: {told} ones fell. " if told else ""
    if counts.get("clusters"):
        pairs = counts["sizes"].get("2", 0)
        words += (
            f"There are {formatting.pluralize(counts['clusters'], 'cluster')} of {counts['documents']:,} documents in all, "
            f"{'all' if pairs == counts['clusters'] else f'{pairs:,}'} of them pairs. "
        )
    shown = [cluster for cluster in clusters[:MAX_CLUSTERS] if cluster["members"]]
    if shown:
        words += "The largest, each with the beginning of its first member:"
    return [lead_in(words.strip()), *map(_cluster, shown)] if shown else [paragraph(words.strip())]


def _cluster(cluster: dict[str, Any]) -> Element:
    members = cluster["members"]
    names = formatting.join_words(sorted({member["source"] for member in members}))
    ids = [formatting.excerpt(member["id"], 60, 1) for member in members[:MAX_MEMBERS]]
    more = cluster["size"] - len(ids)
    return quotation(
        f"{cluster['size']:,} alike · {names}",
        " · ".join(ids) + (f" · {more:,} more" if more else ""),
        formatting.excerpt(members[0]["text"], EXAMPLE_CHARACTERS, 6),
    )


def _mix(sources: dict[str, Any]) -> list[Element]:
    """Read, kept and shown to the model, side by side, and the mix in numbers."""
    shown = {name: row.get("train", {}).get("bytes", 0) for name, row in sources.items()}
    whole = sum(shown.values())
    if not whole:
        return []
    bars = {
        "read": {name: row["read"]["bytes"] for name, row in sources.items()},
        "shown": shown,
    }
    rows: list[list[Cell]] = [
        [
            name,
            f"{row.get('epochs', 1):.3g}",
            f"{row['train']['documents']:,}",
            formatting.byte_size(row["train"]["bytes"]),
            formatting.percent(row["train"]["bytes"], whole),
            formatting.count(row.get("tokens_estimated", 0)),
            f"{row.get('validation', {}).get('documents', 0):,}",
        ]
        for name, row in sources.items()
    ]
    total = {key: sum(row["train"][key] for row in sources.values()) for key in ("documents", "bytes")}
    rows.append(
        [
            "together",
            "",
            f"{total['documents']:,}",
            formatting.byte_size(total["bytes"]),
            "100%",
            formatting.count(sum(row.get("tokens_estimated", 0) for row in sources.values())),
            f"{sum(row.get('validation', {}).get('documents', 0) for row in sources.values()):,}",
        ]
    )
    return [
        figure(
            "mix",
            corpus_plots.plot_mixtures(bars),
            "What was read, and what one pass shows the model, by the bytes of each source.",
            "Two bars; shown to the model: "
            + ", ".join(f"{name} {formatting.percent(part, whole)}" for name, part in shown.items()),
        ),
        table(
            ("source", "epochs", "documents", "bytes", "share", "tokens, about", "held out"),
            rows,
            "The mix. Epochs: how often one pass shows a source; below one, documents are left out by chance. Tokens are "
            "guessed from bytes here; held out are documents that only measure.",
            total=True,
        ),
    ]


def _sum_counts(sources: dict[str, Any], column: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in sources.values():
        for name, count in row.get(column, {}).items():
            counts[name] = counts.get(name, 0) + count
    return counts
