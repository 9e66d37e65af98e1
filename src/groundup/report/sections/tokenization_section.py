"""Report section: vocabulary, fertility and token counts."""

from typing import Any

from groundup.report import corpus_plots, formatting
from groundup.report.elements import Cell, Element, chips, code, figure, paragraph, section, table, token_strip
from groundup.report.run_data import stage_metrics

SAMPLE_TOKENS = 160
MAX_LONGEST_TOKENS = 14
ALGORITHMS = {"bpe": "byte-pair encoding", "unigram": "a Unigram model"}
MAX_GROUPS = 12
"""Maximum number of sources or languages in a table."""


def tokenization_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    vocabulary, encoded = stage_metrics(run_data, "tokenizer"), stage_metrics(run_data, "tokens")
    if not vocabulary and not encoded:
        return None
    return section(
        "Tokenization", [*(_vocabulary(vocabulary) if vocabulary else []), *(_encoded(encoded) if encoded else [])]
    )


def _vocabulary(vocabulary: dict[str, Any]) -> list[Element | None]:
    learned = vocabulary["vocab_size"] - len(vocabulary.get("special_tokens", {})) - 256
    special = list(vocabulary.get("special_tokens", {}))
    sample, longest = vocabulary.get("sample", []), vocabulary.get("longest_tokens", [])
    size, control = f"{vocabulary['vocab_size']:,} entries", f"{len(special)} control tokens"
    if vocabulary.get("pretrained"):
        introduction = paragraph(
            f"The vocabulary has {size}, including {control}. It was loaded from ", code(vocabulary["pretrained"]), "."
        )
    else:
        introduction = paragraph(
            f"The vocabulary has {size}: {control}, 256 bytes, and {learned:,} tokens learned by "
            f"{ALGORITHMS[vocabulary['algorithm']]} from {formatting.byte_size(vocabulary['train_bytes'])} of training "
            "text, with the pre-tokenizer ",
            code(vocabulary["pretokenizer"]),
            ".",
        )
    return [
        introduction,
        token_strip(sample[:SAMPLE_TOKENS], "The beginning of the text as tokens, one color each.") if sample else None,
        chips(
            [formatting.excerpt(word.strip(), 30, 1) for word in longest[:MAX_LONGEST_TOKENS] if word.strip()],
            "Longest entries:",
        )
        if longest
        else None,
        chips(special, "Control tokens:") if special else None,
        *(_fertility(by, rows) for by, rows in vocabulary.get("fertility", {}).items()),
    ]


def _fertility(by: str, rows: dict[str, Any]) -> Element | None:
    """Bytes per token and split words by source or language, for each vocabulary."""
    if not rows:
        return None
    names = list(next(iter(rows.values()))["bytes_per_token"])
    cells: list[list[Cell]] = []
    for name, row in list(rows.items())[:MAX_GROUPS]:
        values = (
            f"{row['bytes_per_token'][tokenizer]:.2f} · {row['split_word_fraction'][tokenizer]:.0%}"
            for tokenizer in names
        )
        cells.append([name, formatting.byte_size(row["bytes"]), *values])
    return table(
        (by, "held-out text", *names),
        cells,
        f"Bytes per token, and percentage of words with more than one token, by {by}, on held-out text.",
    )


def _encoded(encoded: dict[str, Any]) -> list[Element | None]:
    train, validation = encoded["train"], encoded["validation"]
    held_out = {**validation["sources"], "total": validation}
    unused = encoded.get("unused_tokens", 0)
    rows: list[list[Cell]] = [
        [
            name,
            formatting.count(row["tokens"]),
            formatting.percent(row["tokens"], train["tokens"]),
            f"{row['bytes_per_token']:.2f}",
            formatting.count(held_out.get(name, {}).get("tokens", 0)),
        ]
        for name, row in [*train["sources"].items(), ("total", train)]
    ]
    parts = {name: row["tokens"] for name, row in train["sources"].items()}
    parts = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return [
        paragraph(
            f"The training text has {formatting.count(train['tokens'])} tokens with {train['bytes_per_token']:.2f} bytes per "
            f"token; {formatting.count(validation['tokens'])} further tokens are held out for evaluation. "
            + (f"{unused:,} vocabulary entries do not occur." if unused else "Every vocabulary entry occurs.")
        ),
        figure(
            "mixture",
            corpus_plots.plot_mixtures({"": parts}),
            "Training tokens by source.",
            "One bar: "
            + ", ".join(f"{name} {formatting.percent(part, train['tokens'])}" for name, part in parts.items()),
        ),
        table(
            ("source", "training tokens", "percent", "bytes per token", "held out"),
            rows,
            "Tokens by source.",
            total=True,
        ),
    ]
