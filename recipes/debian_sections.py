"""Write sections.jsonl and sections-held-out.jsonl from Debian's package lists: for recipes/sections.toml.

    apt-get update
    python recipes/debian_sections.py /var/lib/apt/lists/*_bookworm_main_binary-amd64_Packages.lz4

A task that a program can check: to a package's one-line summary, the section that its maintainers put it in. Packages of one
source are on one side of the split, because their summaries are nearly alike.
"""

import argparse
import hashlib
import json
import subprocess
from collections.abc import Iterable
from pathlib import Path

SECTIONS = ("games", "graphics", "mail", "science", "sound", "text", "video", "web")
PROMPT = "In which section of a software archive is this program? {summary}"


def summaries(text: str) -> Iterable[tuple[str, str]]:
    """(summary, section) of one package of each source in SECTIONS, in an order without meaning."""
    found: dict[str, tuple[str, str]] = {}
    for entry in text.split("\n\n"):
        fields = dict(line.split(": ", 1) for line in entry.splitlines() if ": " in line and line[0] != " ")
        if fields.get("Section") in SECTIONS and "Description" in fields:
            source = fields.get("Source", fields["Package"]).split()[0]
            found.setdefault(source, (fields["Description"], fields["Section"]))
    in_order = sorted(found, key=lambda source: hashlib.sha256(source.encode()).digest())
    return {found[source][0]: found[source][1] for source in in_order}.items()


def balanced(rows: Iterable[tuple[str, str]], count: int) -> tuple[list[tuple[str, str]], list[tuple[str, str]]]:
    """(the first `count` of each section, the rest)."""
    taken, rest, seen = [], [], dict.fromkeys(SECTIONS, 0)
    for row in rows:
        seen[row[1]] += 1
        (taken if seen[row[1]] <= count else rest).append(row)
    return taken, rest


def write(path: str, records: Iterable[dict[str, object]]) -> None:
    Path(path).write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("file", help="Packages, in any compression that apt uses")
    parser.add_argument("--train", type=int, default=100, help="packages of each section to learn")
    parser.add_argument("--held-out", type=int, default=25, help="packages of each section to ask")
    options = parser.parse_args()
    command = ["/usr/lib/apt/apt-helper", "cat-file", options.file]
    text = subprocess.run(command, capture_output=True, check=True).stdout.decode()
    held_out, rest = balanced(summaries(text), options.held_out)
    train, _ = balanced(rest, options.train)
    asked = [(PROMPT.format(summary=summary), section) for summary, section in held_out]
    write(
        "sections-held-out.jsonl",
        ({"question": q, "choices": SECTIONS, "answer": SECTIONS.index(section)} for q, section in asked),
    )
    write("sections.jsonl", ({"prompt": PROMPT.format(summary=s), "completion": section} for s, section in train))
    print(f"sections.jsonl: {len(train)} packages; sections-held-out.jsonl: {len(held_out)}")


if __name__ == "__main__":
    main()
