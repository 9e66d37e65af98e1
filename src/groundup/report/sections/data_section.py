"""Report section: data sources, and documents dropped by filters."""

from typing import Any

from groundup.report import corpus_plots, formatting
from groundup.report.elements import Cell, Element, code, figure, lead_in, paragraph, quotation, section, table
from groundup.report.run_data import stage_metrics

NOT_SAMPLED = "not sampled"
"""Left out because its source has less than one epoch, not by a filter."""

FILTER_STAGES = {
    "readable": (),
    "not contaminated": ("decontaminate",),
    "language": ("language",),
    "quality": ("code", "gopher_quality", "gopher_repetition", "c4", "fineweb", "word_list", "classifier"),
    "deduplicated": ("exact_duplicate", "near_duplicate", "all_passages_repeated"),
    "sampled": ("not_sampled",),
}
"""Filter stages in approximate order, with their rules; all other rules are the readers'."""

MAX_EXAMPLES = 6
MAX_FUNNELS = 12
MAX_REASONS = 14
MAX_FILES = 16
EXAMPLE_CHARACTERS = 340


def data_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    data = stage_metrics(run_data, "data")
    if not data.get("sources"):
        return None
    sources = data["sources"]
    read, kept = _sum(sources, "read"), _sum(sources, "kept")
    percent = formatting.percent(kept["bytes"], read["bytes"])
    return section(
        "Data",
        [
            paragraph(
                f"{formatting.pluralize(read['documents'], 'document')} of "
                f"{formatting.pluralize(len(sources), 'source')} were read "
                f"({formatting.byte_size(read['bytes'])}). {kept['documents']:,} of them were kept: "
                f"{formatting.byte_size(kept['bytes'])}, {percent} of the input." + _trimmed(sources)
            ),
            _sources(sources, read, kept),
            _files(sources),
            _funnels(sources),
            _kept_and_dropped(sources),
            _reasons(sources, read),
            *_examples(run_data),
        ],
    )


def _trimmed(sources: dict[str, Any]) -> str:
    """Bytes removed from kept documents, and the rule that removed most."""
    rules: dict[str, int] = {}
    for row in sources.values():
        for rule, amount in row.get("trimmed", {}).items():
            rules[rule] = rules.get(rule, 0) + amount
    total_bytes = sum(rules.values())
    if total_bytes <= 0:
        return ""
    main_rule = max(rules, key=rules.__getitem__).replace("_", " ")
    return f" {formatting.byte_size(total_bytes)} were removed from kept documents, most by the rule “{main_rule}”."


def _sources(sources: dict[str, Any], read: dict[str, int], kept: dict[str, int]) -> Element:
    rows: list[list[Cell]] = [
        [
            name,
            row.get("kind", ""),
            f"{row['read']['documents']:,}",
            formatting.byte_size(row["read"]["bytes"]),
            f"{row['kept']['documents']:,}",
            formatting.byte_size(row["kept"]["bytes"]),
        ]
        for name, row in [*sources.items(), ("total", {"read": read, "kept": kept})]
    ]
    return table(
        ("source", "kind", "read", "bytes", "kept", "bytes"),
        rows,
        "Documents and bytes by source, before and after cleaning.",
        align="llrrrr",
        total=True,
    )


def _files(sources: dict[str, Any]) -> Element | None:
    files = [(name, file) for name, row in sources.items() for file in row.get("inputs", [])]
    if not files:
        return None
    rows: list[list[Cell]] = [
        [name, file["name"], formatting.byte_size(file["bytes"]), [code(file["sha256"][:16])]]
        for name, file in files[:MAX_FILES]
    ]
    number = sum(row.get("input_files", len(row.get("inputs", []))) for row in sources.values())
    more = f" The first {MAX_FILES} of {number:,}; the manifest lists more." if number > len(rows) else ""
    return table(("source", "file", "bytes", "SHA-256 prefix"), rows, f"Input files.{more}", align="llrr")


def _funnels(sources: dict[str, Any]) -> Element | None:
    """Documents of each source after each filter stage that dropped any."""
    dropped = {name: _dropped_by_stage(row) for name, row in sources.items()}
    steps = [step for step in FILTER_STAGES if any(counts[step] for counts in dropped.values())]
    if not steps:
        return None
    rows = {}
    for name in sorted(sources, key=lambda name: -sources[name]["read"]["documents"])[:MAX_FUNNELS]:
        rows[name] = [sources[name]["read"]["documents"]]
        for step in steps:
            rows[name].append(rows[name][-1] - dropped[name][step])
    more = len(sources) - len(rows)
    return figure(
        "funnels",
        corpus_plots.plot_funnels(rows, ["input", *steps]),
        "Documents of each source after each filter stage. “Readable”: accepted by the source's reader; “sampled”: in the "
        "training mixture." + (f" {formatting.pluralize(more, 'smaller source')} not shown." if more else ""),
        "Funnels: " + "; ".join(f"{name} {counts[0]:,} read, {counts[-1]:,} kept" for name, counts in rows.items()),
    )


def _dropped_by_stage(row: dict[str, Any]) -> dict[str, int]:
    """Dropped documents of a source by filter stage."""
    dropped = dict.fromkeys(FILTER_STAGES, 0)
    for reason, counts in row["dropped"].items():
        rule = reason.split(":")[0].strip()
        step = next((step for step, rules in FILTER_STAGES.items() if rule in rules), "readable")
        dropped[step] += counts["documents"]
    return dropped


def _kept_and_dropped(sources: dict[str, Any]) -> Element:
    rows = {}
    for name, row in sources.items():
        num_documents = row["read"]["documents"] or 1
        dropped: dict[str, float] = {}
        for reason, counts in row["dropped"].items():
            rule = rule_name(reason)
            dropped[rule] = dropped.get(rule, 0.0) + counts["documents"] / num_documents
        rows[name] = (row["kept"]["documents"] / num_documents, dropped)
    return figure(
        "reasons",
        corpus_plots.plot_drop_reasons(rows),
        "Kept documents and reasons of drops, as fractions of each source.",
        "Stacked bars: " + ", ".join(f"{name} {formatting.percent(kept, 1)} kept" for name, (kept, _) in rows.items()),
    )


def _reasons(sources: dict[str, Any], read: dict[str, int]) -> Element | None:
    reasons: dict[str, dict[str, Any]] = {}
    for name, row in sources.items():
        for reason, counts in row["dropped"].items():
            entry = reasons.setdefault(reason, {"documents": 0, "bytes": 0, "sources": {}})
            entry["documents"] += counts["documents"]
            entry["bytes"] += counts["bytes"]
            entry["sources"][name] = counts["documents"]
    if not reasons:
        return None
    ordered = sorted(reasons.items(), key=lambda item: (-item[1]["documents"], item[0]))
    rows: list[list[Cell]] = [
        [
            reason.replace("_", " "),
            f"{entry['documents']:,}",
            formatting.percent(entry["documents"], read["documents"]),
            formatting.byte_size(entry["bytes"]),
            max(entry["sources"], key=entry["sources"].__getitem__),
        ]
        for reason, entry in ordered[:MAX_REASONS]
    ]
    if rest := [entry for _, entry in ordered[MAX_REASONS:]]:
        documents = sum(entry["documents"] for entry in rest)
        amount = formatting.byte_size(sum(entry["bytes"] for entry in rest))
        percent = formatting.percent(documents, read["documents"])
        rows.append([f"{len(rest)} other reasons", f"{documents:,}", percent, amount, ""])
    return table(
        ("reason", "documents", "percent of input", "bytes", "main source"),
        rows,
        "Reasons of drops. Each document is counted under the first rule that it failed.",
        align="lrrrl",
    )


def _examples(run_data: dict[str, Any]) -> list[Element]:
    """One dropped document for each rule, the longest example."""
    chosen: dict[str, tuple[str, dict[str, str]]] = {}
    for source, rows in run_data["dropped"].items():
        for row in sorted(rows, key=lambda row: -len(row.get("text", ""))):
            rule = rule_name(row["reason"])
            if row.get("text", "").strip() and rule != NOT_SAMPLED:
                chosen.setdefault(rule, (source, row))
    blocks = [
        quotation(
            f"{row['reason'].replace('_', ' ')} · {source}",
            formatting.excerpt(row.get("id", ""), 90, 1),
            formatting.excerpt(row["text"], EXAMPLE_CHARACTERS, 7),
        )
        for source, row in list(chosen.values())[:MAX_EXAMPLES]
    ]
    introduction = lead_in("Examples of dropped documents. The run folder has more.")
    return [introduction, *blocks] if blocks else []


def rule_name(reason: str) -> str:
    """The rule of a reason: "gopher_quality: min_words" -> "gopher quality"."""
    return reason.split(":")[0].strip().replace("_", " ")


def _sum(sources: dict[str, Any], column: str) -> dict[str, int]:
    return {key: sum(row[column][key] for row in sources.values()) for key in ("documents", "bytes")}
