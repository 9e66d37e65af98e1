"""How good the model is, beside what one gets without it."""

from typing import Any

from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, emph, figure, paragraph, section, strong, table
from groundup.report.run_data import stage_metrics

BASELINES: dict[str, str] = {
    "unigram": "token frequencies alone",
    "bigram": "frequencies of token pairs",
    "gzip": "gzip −9",
    "bzip2": "bzip2 −9",
    "xz": "xz −9e",
}
THIS_MODEL = "this model"


def scores_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    found = stage_metrics(facts, "scores")
    if not found:
        return None
    if guessed := found.get("masked_lm"):
        return section("Scores", [_masked_lm(guessed)])
    return section("Scores", [*_words(found), _beside(found), _sources(found), _tasks(found)])


def _masked_lm(found: dict[str, float]) -> Element:
    return paragraph(
        f"Of {formatting.count(found['masked_tokens'])} tokens of held-out text that were hidden from it, the model guessed ",
        strong(formatting.percent(found["accuracy"], 1)),
        f", at {found['loss']:.2f} nats for each.",
    )


def _words(found: dict[str, Any]) -> list[Element]:
    edges = found["bits_per_byte_interval"]
    sure = (
        f" With other documents of the same kind it would lie "
        f"between {formatting.interval(edges, separator=' and ')} (95% interval)."
        if edges
        else " From one document, how far this could be off cannot be told."
    )
    held_out = found.get("held_out", {}).get("tokens", found["tokens"])
    scored = (
        "all"
        if found["tokens"] >= 0.98 * held_out
        else f"{formatting.count(found['tokens'])} of {formatting.count(held_out)}"
    )
    return [
        paragraph(
            "A model is as good as it can foresee text that it has not seen. On the held-out documents it needs ",
            strong(f"{found['bits_per_byte']:.3f} bits for each byte"),
            f", which is a perplexity of {found['perplexity']:.1f} for each token.{sure}",
        ),
        paragraph(
            f"Scored were {scored} of the held-out tokens, in {formatting.pluralize(found['documents'], 'document')}, each token "
            "once and with as much of its document before it as the model can read. ",
            emph("Bits per byte"),
            " can be compared across vocabularies, and with compressors; a text without any pattern needs 8.",
        ),
    ]


def _beside(found: dict[str, Any]) -> Element:
    rows: list[training_plots.Bar] = [(THIS_MODEL, found["bits_per_byte"], found["bits_per_byte_interval"])]
    baselines = found.get("baselines", {})
    for name, bits in sorted(baselines.items(), key=lambda item: item[1]):
        rows.append((BASELINES.get(name) or name, bits, None))
    return figure(
        "scores",
        training_plots.plot_bars(rows, "bits per byte; less is better", highlighted=THIS_MODEL),
        "The same text, foreseen by this model, by counting, and by compressors, which have seen no other text "
        "before. The line is the 95% interval.",
        "Bars: " + ", ".join(f"{name} {bits:.2f}" for name, bits, _ in rows),
    )


def _sources(found: dict[str, Any]) -> Element | None:
    sources = found.get("sources", {})
    if len(sources) < 2:
        return None
    rows: list[list[Cell]] = [
        [
            name,
            f"{row['documents']:,}",
            formatting.count(row["tokens"]),
            f"{row['bits_per_byte']:.3f}",
            formatting.interval(row["bits_per_byte_interval"]),
            f"{row['perplexity']:.1f}",
        ]
        for name, row in sources.items()
    ]
    rows.append(
        [
            "together",
            f"{found['documents']:,}",
            formatting.count(found["tokens"]),
            f"{found['bits_per_byte']:.3f}",
            formatting.interval(found["bits_per_byte_interval"]),
            f"{found['perplexity']:.1f}",
        ]
    )
    return table(
        ("source", "documents", "tokens", "bits per byte", "95% interval", "perplexity"),
        rows,
        "Held-out text by its source. Intervals are a bootstrap over documents.",
        total=True,
    )


def _tasks(found: dict[str, Any]) -> Element | None:
    tasks = found.get("tasks", {})
    if not tasks:
        return None
    rows: list[list[Cell]] = [
        [
            name,
            f"{row['items']:,}",
            f"{100 * row['accuracy']:.1f}%",
            "–"
            if not row["interval"]
            else f"{100 * row['interval'][0]:.0f} to {100 * row['interval'][1]:.0f}%",
            "–" if row["chance"] is None else f"{100 * row['chance']:.0f}%",
        ]
        for name, row in tasks.items()
    ]
    own = "true continuation" in tasks
    note = (
        " True continuation: a held-out passage goes on in one of four ways, three of them those of other passages of its source."
        if own
        else ""
    )
    return table(
        ("questions", "asked", "right", "95% interval", "by chance"),
        rows,
        f"Questions with known answers.{note}",
    )
