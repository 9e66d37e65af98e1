"""The vocabulary, and what a text looks like in it."""

from typing import Any

from groundup.report import corpus_plots, formatting
from groundup.report.elements import Cell, Element, chips, code, figure, paragraph, section, table
from groundup.report.elements import token_strip as cut_text
from groundup.report.run_data import stage_metrics

SAMPLE_TOKENS = 160
MAX_LONGEST_TOKENS = 14
ALGORITHMS = {"bpe": "byte-pair encoding", "unigram": "a Unigram model"}
MAX_GROUPS = 12
"""Sources or languages in a table, those with most documents."""


def tokenization_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    vocabulary, encoded = stage_metrics(facts, "tokenizer"), stage_metrics(facts, "tokens")
    if not vocabulary and not encoded:
        return None
    return section(
        "The tokens",
        [*(_vocabulary(vocabulary) if vocabulary else []), *(_encoded(encoded) if encoded else [])],
    )


def _vocabulary(vocabulary: dict[str, Any]) -> list[Element | None]:
    learned = vocabulary["vocab_size"] - len(vocabulary.get("special_tokens", {})) - 256
    special = list(vocabulary.get("special_tokens", {}))
    sample, longest = vocabulary.get("sample", []), vocabulary.get("longest_tokens", [])
    size, control = (
        f"{vocabulary['vocab_size']:,} entries",
        f"{len(special)} control tokens that no text can spell",
    )
    if vocabulary.get("pretrained"):
        words = paragraph(
            f"The vocabulary has {size}, {control} among them. It was taken from ",
            code(vocabulary["pretrained"]),
            ".",
        )
    else:
        words = paragraph(
            f"The vocabulary has {size}: {control}, the 256 bytes, and {learned:,} pieces that "
            f"{ALGORITHMS[vocabulary['algorithm']]} found in {formatting.byte_size(vocabulary['train_bytes'])} of "
            "the training text, which is first cut by the rule of ",
            code(vocabulary["pretokenizer"]),
            ".",
        )
    return [
        words,
        cut_text(
            sample[:SAMPLE_TOKENS], "The beginning of the text as the model sees it: each tint is one token."
        )
        if sample
        else None,
        chips(
            [
                formatting.excerpt(word.strip(), 30, 1)
                for word in longest[:MAX_LONGEST_TOKENS]
                if word.strip()
            ],
            "Its longest entries:",
        )
        if longest
        else None,
        chips(special, "Control tokens:") if special else None,
        *(_fertility(by, rows) for by, rows in vocabulary.get("fertility", {}).items()),
    ]


def _fertility(by: str, rows: dict[str, Any]) -> Element | None:
    """How many bytes a token holds and how many words are split, by source or by language, for each vocabulary."""
    if not rows:
        return None
    names = list(next(iter(rows.values()))["bytes_per_token"])
    cells: list[list[Cell]] = []
    for name, row in list(rows.items())[:MAX_GROUPS]:
        fits = (f"{row['bytes_per_token'][one]:.2f} · {row['split_word_fraction'][one]:.0%}" for one in names)
        cells.append([name, formatting.byte_size(row["bytes"]), *fits])
    return table(
        (by, "held-out text", *names),
        cells,
        f"Bytes for each token, and the share of words that take more than one, by {by}, on text held out.",
    )


def _encoded(encoded: dict[str, Any]) -> list[Element | None]:
    train, validation = encoded["train"], encoded["validation"]
    unused = encoded.get("unused_tokens", 0)
    rows: list[list[Cell]] = [
        [
            name,
            formatting.count(row["tokens"]),
            formatting.percent(row["tokens"], train["tokens"]),
            f"{row['bytes_per_token']:.2f}",
            formatting.count(validation["sources"].get(name, {}).get("tokens", 0)),
        ]
        for name, row in train["sources"].items()
    ]
    rows.append(
        [
            "together",
            formatting.count(train["tokens"]),
            "100%",
            f"{train['bytes_per_token']:.2f}",
            formatting.count(validation["tokens"]),
        ]
    )
    parts = {name: row["tokens"] for name, row in train["sources"].items()}
    parts = dict(sorted(parts.items(), key=lambda part: -part[1]))
    return [
        paragraph(
            f"Encoded, the training text is {formatting.count(train['tokens'])} tokens of {train['bytes_per_token']:.2f} bytes "
            f"in the mean; {formatting.count(validation['tokens'])} more are held out and never trained on. "
            + (
                f"{unused:,} entries of the vocabulary do not occur."
                if unused
                else "Every entry of the vocabulary occurs."
            )
        ),
        figure(
            "mixture",
            corpus_plots.plot_mixtures({"": parts}),
            "What the training tokens are made of.",
            "One bar: "
            + ", ".join(
                f"{name} {formatting.percent(part, train['tokens'])}" for name, part in parts.items()
            ),
        ),
        table(
            ("source", "training tokens", "share", "bytes per token", "held out"),
            rows,
            "Tokens of each source.",
            total=True,
        ),
    ]
