"""Report section: the kept corpus: lengths, languages, duplicates, training mixture."""

from typing import Any

from groundup.report import corpus_plots, formatting
from groundup.report.elements import Cell, Element, figure, lead_in, paragraph, quotation, section, table
from groundup.report.run_data import stage_metrics

MAX_LANGUAGES = 12
MAX_CLUSTERS = 3
MAX_MEMBERS = 3
EXAMPLE_CHARACTERS = 300
REPEATS = {"exact_duplicate": "exact", "near_duplicate": "near"}


def corpus_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    sources = stage_metrics(run_data, "data").get("sources")
    if not sources:
        return None
    sources = dict(sorted(sources.items(), key=lambda row: -row[1].get("train", {}).get("bytes", 0)))
    return section(
        "Corpus",
        [_introduction(sources), _lengths(sources), _languages(sources), *_repeats(run_data, sources), *_mix(sources)],
    )


def _introduction(sources: dict[str, Any]) -> Element | None:
    lengths = _sum_counts(sources, "lengths")
    languages = _sum_counts(sources, "languages")
    parts = []
    if lengths:
        seen, half = 0, sum(lengths.values()) / 2
        for length in sorted(lengths, key=int):
            seen += lengths[length]
            if seen >= half:
                parts.append(f"Half of the kept documents have at most {int(length):,} bytes.")
                break
    if languages:
        main_language = max(languages, key=languages.__getitem__)
        documents = formatting.pluralize(sum(languages.values()), "document")
        parts.append(f"Language identification: {languages[main_language]:,} of {documents} are “{main_language}”.")
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
        "Kept documents by length, in bins of powers of two.",
        "A histogram: " + ", ".join(f"{counts[size]:,} up to {int(size):,} bytes" for size in sorted(counts, key=int)),
    )


def _languages(sources: dict[str, Any]) -> Element | None:
    """Documents by language, if there are at least two."""
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
        "Documents by language, before quality filters and deduplication."
        + (" “Unsure”: no language above the threshold." if "unsure" in counts else ""),
        "Bars: " + ", ".join(f"{name} {value:,.0f}" for name, value, _ in rows),
    )


def _repeats(run_data: dict[str, Any], sources: dict[str, Any]) -> list[Element]:
    """Numbers of duplicates, and the largest clusters with an excerpt each."""
    duplicates = {
        kind: sum(row["dropped"].get(reason, {}).get("documents", 0) for row in sources.values())
        for reason, kind in REPEATS.items()
    }
    counts = stage_metrics(run_data, "data").get("duplicate_clusters", {})
    clusters = run_data.get("clusters", [])
    if not clusters and not any(duplicates.values()):
        return []
    dropped = formatting.join_words([f"{count:,} {kind}" for kind, count in duplicates.items() if count])
    introduction = f"Deduplication kept one document per cluster and dropped {dropped} duplicates. " if dropped else ""
    if counts.get("clusters"):
        pairs = counts["sizes"].get("2", 0)
        introduction += (
            f"There are {formatting.pluralize(counts['clusters'], 'cluster')} with {counts['documents']:,} documents, "
            f"{'all' if pairs == counts['clusters'] else f'{pairs:,}'} of them pairs. "
        )
    largest = [cluster for cluster in clusters[:MAX_CLUSTERS] if cluster["members"]]
    if largest:
        introduction += "The largest clusters, with an excerpt of the first member:"
    if not largest:
        return [paragraph(introduction.strip())]
    return [lead_in(introduction.strip()), *map(_cluster, largest)]


def _cluster(cluster: dict[str, Any]) -> Element:
    members = cluster["members"]
    names = formatting.join_words(sorted({member["source"] for member in members}))
    ids = [formatting.excerpt(member["id"], 60, 1) for member in members[:MAX_MEMBERS]]
    more = cluster["size"] - len(ids)
    return quotation(
        f"{cluster['size']:,} duplicates · {names}",
        " · ".join(ids) + (f" · {more:,} more" if more else ""),
        formatting.excerpt(members[0]["text"], EXAMPLE_CHARACTERS, 6),
    )


def _mix(sources: dict[str, Any]) -> list[Element]:
    """The input and the training mixture by source."""
    train_bytes = {name: row.get("train", {}).get("bytes", 0) for name, row in sources.items()}
    total_bytes = sum(train_bytes.values())
    if not total_bytes:
        return []
    total = {
        "train": {"documents": sum(row["train"]["documents"] for row in sources.values()), "bytes": total_bytes},
        "tokens_estimated": sum(row.get("tokens_estimated", 0) for row in sources.values()),
        "validation": {"documents": sum(row.get("validation", {}).get("documents", 0) for row in sources.values())},
    }
    bars = {"read": {name: row["read"]["bytes"] for name, row in sources.items()}, "training": train_bytes}
    rows: list[list[Cell]] = [
        [
            name,
            f"{row.get('epochs', 1):.3g}",
            f"{row['train']['documents']:,}",
            formatting.byte_size(row["train"]["bytes"]),
            formatting.percent(row["train"]["bytes"], total_bytes),
            formatting.count(row.get("tokens_estimated", 0)),
            f"{row.get('validation', {}).get('documents', 0):,}",
        ]
        for name, row in [*sources.items(), ("total", total)]
    ]
    rows[-1][1] = ""  # epochs
    return [
        figure(
            "mix",
            corpus_plots.plot_mixtures(bars),
            "Input and training text (one epoch of the mixture) by source, in bytes.",
            "Two bars; training text: "
            + ", ".join(f"{name} {formatting.percent(part, total_bytes)}" for name, part in train_bytes.items()),
        ),
        table(
            ("source", "epochs", "documents", "bytes", "percent", "tokens (est.)", "held out"),
            rows,
            "Training mixture. Epochs: repetitions of a source in one pass; below 1, a random sample. Tokens are estimated "
            "from bytes. Held out: documents of the validation split.",
            total=True,
        ),
    ]


def _sum_counts(sources: dict[str, Any], column: str) -> dict[str, int]:
    counts: dict[str, int] = {}
    for row in sources.values():
        for name, count in row.get(column, {}).items():
            counts[name] = counts.get(name, 0) + count
    return counts
