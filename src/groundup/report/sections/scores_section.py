"""Report section: evaluation of the base model, with baselines."""

from typing import Any

from groundup.artifacts.contamination_flags import CONTINUATION_TASK, NOT_CHECKED, OF_HELD_OUT_TEXT
from groundup.artifacts.harness_metrics import metric_rows
from groundup.artifacts.measure_rows import MEASURE_COLUMNS, measure_rows
from groundup.report import formatting, training_plots
from groundup.report.elements import Cell, Element, emph, figure, paragraph, section, strong, table
from groundup.report.quality_checks import check_run, word_search
from groundup.report.run_data import masked_lm_scores, stage_metrics

BASELINES: dict[str, str] = {
    "unigram": "token frequencies alone",
    "bigram": "frequencies of token pairs",
    "gzip": "gzip −9",
    "bzip2": "bzip2 −9",
    "xz": "xz −9e",
}
THIS_MODEL = "this model"
CONTAMINATION_NOTE = (
    "Contamination: what the data stage found of a task's questions in the training text, if "
    "data.decontaminate.evaluation_sets names them."
)


def scores_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    scores = stage_metrics(run_data, "scores")
    if not scores:
        return None
    if "masked_lm" in scores:
        masked = masked_lm_scores(run_data)
        lines = [_masked_lm(masked)] if masked else []
        return section("Evaluation", [*lines, *[paragraph(f"{line}.") for line in use_lines(run_data)]])
    return section(
        "Evaluation",
        [
            *_introduction(scores),
            _warnings(run_data),
            _comparison(scores),
            _sources(scores),
            _tasks(scores, run_data["contamination"]),
            _harness(scores, run_data["contamination"]),
            *_language_measures(scores.get("language_measures", {})),
        ],
    )


def use_lines(run_data: dict[str, Any]) -> list[str]:
    """Scores of what the model is for, with their baselines: search, translation, classification."""
    tuned, lines = stage_metrics(run_data, "chat"), []
    retrieval = tuned.get("retrieval") or stage_metrics(run_data, "scores").get("retrieval")
    if retrieval and "classification" not in tuned:
        lines.append(_retrieval_line(retrieval, tuned.get("examples", {})))
    if translation := tuned.get("translation"):
        lines.append(_translation_line(translation))
    if (labels := tuned.get("classification")) and "accuracy" in labels:
        lines.append(
            f"{formatting.percent(labels['accuracy'], 1)} of {labels['examples']:,} held-out texts get their label; "
            f"the most frequent label alone: {formatting.percent(labels['majority'], 1)}"
        )
    return lines


def _retrieval_line(retrieval: dict[str, Any], examples: dict[str, Any]) -> str:
    what = "right text" if "read" in examples else "other half of a held-out passage"
    before = f" ({formatting.percent(retrieval['before'], 1)} before fine-tuning)" if "before" in retrieval else ""
    name, words = max(word_search(retrieval).items(), key=lambda item: item[1])
    return (
        f"The {what} comes first for {formatting.percent(retrieval['accuracy'], 1)} of "
        f"{retrieval['passages']:,}{before}; by words ({name}) for {formatting.percent(words, 1)}"
        + ("" if words < retrieval["accuracy"] else ", which is better")
    )


def _translation_line(translation: dict[str, Any]) -> str:
    copying = translation["copying"]
    rouge = f", ROUGE-L {translation['rouge_l']:.1f}" if "rouge_l" in translation else ""
    return (
        f"BLEU {translation['bleu']:.1f} and chrF {translation['chrf']:.1f}{rouge} on {translation['pairs']:,} held-out pairs; "
        f"the input copied: {copying['bleu']:.1f} and {copying['chrf']:.1f}"
    )


def _masked_lm(scores: dict[str, float]) -> Element:
    return paragraph(
        f"On {formatting.count(scores['masked_tokens'])} masked tokens of held-out text, the model's accuracy is ",
        strong(formatting.percent(scores["accuracy"], 1)),
        f", with a loss of {scores['loss']:.2f} nats per token.",
    )


def _introduction(scores: dict[str, Any]) -> list[Element]:
    bounds = scores["bits_per_byte_interval"]
    interval = " With a single document there is no interval."
    if bounds:
        interval = f" The 95% interval over documents is {formatting.interval(bounds)}."
    held_out = scores.get("held_out", {}).get("tokens", scores["tokens"])
    of_text = "text" in scores.get("held_out", {})
    scored = "Of the text," if of_text else "All"
    if not of_text and scores["tokens"] < 0.98 * held_out:
        scored = f"{formatting.count(scores['tokens'])} of {formatting.count(held_out)}"
    return [
        paragraph(
            "On the text that the recipe names, the model needs "
            if of_text
            else "On held-out documents the model needs ",
            strong(f"{scores['bits_per_byte']:.3f} bits per byte"),
            f", a perplexity of {scores['perplexity']:.1f} per token.{interval}",
        ),
        paragraph(
            f"{scored} {formatting.count(scores['tokens']) if of_text else 'held-out'} tokens of "
            f"{formatting.pluralize(scores['documents'], 'span' if of_text else 'document')} were scored once each, with as "
            "much preceding context as the model supports. ",
            emph("Bits per byte"),
            " are comparable across vocabularies and with compressors; random bytes need 8.",
        ),
    ]


def _warnings(run_data: dict[str, Any]) -> Element | None:
    warnings = check_run({name: stage["metrics"] for name, stage in run_data["stages"].items()})
    return (
        paragraph(strong("Warnings. "), " ".join(f"{each[0].upper()}{each[1:]}." for each in warnings))
        if warnings
        else None
    )


def _comparison(scores: dict[str, Any]) -> Element:
    rows: list[training_plots.Bar] = [(THIS_MODEL, scores["bits_per_byte"], scores["bits_per_byte_interval"])]
    baselines = scores.get("baselines", {})
    for name, bits in sorted(baselines.items(), key=lambda item: item[1]):
        rows.append((BASELINES.get(name) or name, bits, None))
    return figure(
        "scores",
        training_plots.plot_bars(rows, "bits per byte (lower is better)", highlighted=THIS_MODEL),
        f"Bits per byte of the same text for this model,{' n-gram baselines and' if 'bigram' in baselines else ''} compressors "
        "(without training data). The line is the 95% interval.",
        "Bars: " + ", ".join(f"{name} {bits:.2f}" for name, bits, _ in rows),
    )


def _sources(scores: dict[str, Any]) -> Element | None:
    sources = scores.get("sources", {})
    if len(sources) < 2:
        return None
    mix = scores.get("mix", {})
    rows: list[list[Cell]] = [
        [
            name,
            f"{row['documents']:,}",
            formatting.count(row["tokens"]),
            formatting.percent(row["bytes"], scores["bytes"]),
            formatting.percent(mix[name], 1) if name in mix else "–",
            f"{row['bits_per_byte']:.3f}",
            formatting.interval(row["bits_per_byte_interval"]),
            f"{row['perplexity']:.1f}",
        ]
        for name, row in [*sources.items(), ("total", scores)]
    ]
    return table(
        ("source", "documents", "tokens", "of the bytes", "in training", "bits per byte", "95% interval", "perplexity"),
        rows,
        "Held-out text by source, its share of the bytes scored, and the source's share of the training text. "
        f"Intervals: Student's t over documents.{_mix_note(scores)}",
        total=True,
    )


def _mix_note(scores: dict[str, Any]) -> str:
    """The mean in the proportions of the training text, and the sources that have no score."""
    note = ""
    if scores.get("mix_bits_per_byte") is not None:
        note = f" With the shares of the training text as weights: {scores['mix_bits_per_byte']:.3f} bits per byte."
    if missing := scores.get("not_scored"):
        note += f" No held-out text of: {', '.join(missing)}."
    return note


def _tasks(scores: dict[str, Any], contamination: dict[str, str]) -> Element | None:
    tasks = scores.get("tasks", {})
    if not tasks:
        return None
    rows: list[list[Cell]] = [
        [
            name,
            f"{row['items']:,}",
            _share(row, "accuracy", "interval"),
            _share(row, "accuracy_norm", "interval_norm"),
            "–" if row["chance"] is None else f"{100 * row['chance']:.0f}%",
            "–" if name in OF_HELD_OUT_TEXT else contamination.get(name, NOT_CHECKED),
        ]
        for name, row in tasks.items()
    ]
    note = ""
    if CONTINUATION_TASK in tasks:
        note = (
            " True continuation: choose a held-out passage's continuation among those of four passages of its source."
        )
    return table(
        ("task", "items", "accuracy", "per character", "chance", "contamination"),
        rows,
        "Multiple-choice and question-answering tasks, with 95% intervals. Per character: the choice with the highest "
        f"likelihood per character, which helps long choices (acc_norm).{note} {CONTAMINATION_NOTE}",
    )


def _harness(scores: dict[str, Any], contamination: dict[str, str]) -> Element | None:
    if not scores.get("harness"):
        return None
    rows: list[list[Cell]] = [
        [
            task,
            metric,
            "–" if items is None else f"{items:,}",
            f"{value:.4f}",
            f"{bounds[0]:.4f} to {bounds[1]:.4f}" if bounds else "–",
            contamination.get(task, NOT_CHECKED),
        ]
        for task, metric, value, bounds, items in metric_rows(scores["harness"])
    ]
    return table(
        ("task", "metric", "items", "value", "95% interval", "contamination"),
        rows,
        f"Tasks of lm-evaluation-harness, with its metrics. {CONTAMINATION_NOTE}",
    )


def _language_measures(measures: dict[str, Any]) -> list[Element]:
    """A table of all measures, and the reliability plot."""
    if not measures:
        return []
    elements = [
        table(
            MEASURE_COLUMNS,
            list(measure_rows(measures)),
            "Language measures on held-out text. Calibration error: mean distance of the probability of the likeliest token and "
            "the share of right ones. Loops: tokens of one block repeated. Memorized: 32 tokens of text after which greedy "
            "decoding gives its next 32. Needle: the right one of eight numbers is the likeliest; nats by which, from the "
            "beginning of the text to its end.",
            align="lrrl",
        )
    ]
    if calibration := measures.get("calibration"):
        bins = calibration["bins"]
        elements.append(
            figure(
                "reliability",
                training_plots.plot_reliability(bins),
                "Reliability of next-token probabilities: the share of likeliest tokens that are right, by their probability. "
                "The area of a point is the share of the tokens; on the line the model is calibrated.",
                "Points: " + ", ".join(f"{row['confidence']:.2f} right in {row['accuracy']:.2f}" for row in bins),
            )
        )
    return elements


def _share(row: dict[str, Any], name: str, interval: str) -> str:
    if name not in row:
        return "–"
    low, high = (100 * bound for bound in row[interval])
    return f"{100 * row[name]:.1f}% ({low:.0f} to {high:.0f})"
