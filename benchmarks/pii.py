"""PII masking on real text: counts by kind, and samples for manual review.

    python benchmarks/pii.py 'FOLDER/*ham*/*.txt' --kind phone --sample 100 --seed 1
    python benchmarks/pii.py 'FOLDER/*ham*/*.txt' --missed phone --sample 100

The first prints the counts and a sample of one kind; the second samples matches of a wider pattern that were not masked,
which contain the misses. No peer: the reference is human judgement.
"""

import argparse
import glob
import random
import re
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

from groundup.data.clean.pii import pii_mapper
from groundup.recipe.data_config import PiiConfig, PiiTokensConfig

PII_TOKENS = tuple(PiiTokensConfig().model_dump().values())
SPLIT = re.compile("(" + "|".join(PII_TOKENS) + ")")
WIDE = {
    "email": re.compile(r"[^\s<>]{1,64}\s?(?:@|\(at\)|\[at\]| at )\s?[\w-]+(?:\s?(?:\.|\(dot\)| dot )\s?[\w-]+)+"),
    "phone": re.compile(
        r"(?<![\w.:/])(?:\+ ?\d[\d ().-]{7,16}\d|\(?\d{3}\)?[-. ]{1,2}\d{3}[-. ]\d{4}"
        r"|(?<=[a-z.:] )0\d{1,4}[- ]\d{3,4}[- ]?\d{3,4})(?![\w.-]*\d)"
    ),
    "ip": re.compile(r"\d+\.\d+\.\d+\.\d+"),
    "card": re.compile(r"(?:\d[ -]?){13,19}"),
}
CONTEXT_CHARACTERS = 50


def findings(before: str, after: str) -> Iterator[tuple[str, int, int]]:
    """(kind, start, stop) in `before` of everything replaced by a token in `after`."""
    parts = SPLIT.split(after)
    position = 0
    for number in range(1, len(parts), 2):
        start = position + len(parts[number - 1])
        rest = parts[number + 1]
        stop = before.index(rest, start + 1) if rest else (len(before) if number + 2 >= len(parts) else start + 1)
        yield parts[number].strip("<>"), start, stop
        position = stop


def excerpt(text: str, start: int, stop: int) -> str:
    before, found, after = (
        text[max(start - CONTEXT_CHARACTERS, 0) : start],
        text[start:stop],
        text[stop : stop + CONTEXT_CHARACTERS],
    )
    return " ".join(f"{before} >>>{found}<<< {after}".split())


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("files", help="a glob of text files")
    parser.add_argument("--kind", choices=[token.strip("<>") for token in PII_TOKENS])
    parser.add_argument("--missed", choices=list(WIDE))
    parser.add_argument("--sample", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    mask = pii_mapper(PiiConfig())
    counts: Counter[str] = Counter()
    different: dict[str, set[str]] = {}
    examples: dict[str, str] = {}
    for path in sorted(glob.glob(options.files, recursive=True)):
        text = Path(path).read_bytes().decode("utf-8", "replace")
        for token in PII_TOKENS:  # tokens in the input are no findings
            text = text.replace(token, token.strip("<>"))
        after = mask(text)
        for kind, start, stop in findings(text, after):
            counts[kind] += 1
            different.setdefault(kind, set()).add(text[start:stop])
            if kind == options.kind:
                examples.setdefault(text[start:stop], excerpt(text, start, stop))
        if options.missed:
            for match in WIDE[options.missed].finditer(after):
                examples.setdefault(match.group(), excerpt(after, *match.span()))
    print(", ".join(f"{count} {kind} ({len(different[kind])} different)" for kind, count in counts.most_common()))
    found = list(examples.values())
    drawn = random.Random(options.seed).sample(found, min(options.sample, len(found)))
    for number, example in enumerate(drawn, start=1):
        print(f"{number:4} {example}")


if __name__ == "__main__":
    main()
