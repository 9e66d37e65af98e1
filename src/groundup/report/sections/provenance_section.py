"""Where every number came from: fingerprints, packages, machine."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, code, key_values, paragraph, section, table


def provenance_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    stages = facts["stages"]
    if not stages:
        return None
    rows: list[list[Cell]] = [
        [
            stage["folder"],
            [code(stage["fingerprint"][:16])],
            f"{stage['files']:,}",
            formatting.byte_size(stage["bytes"]),
            formatting.duration(stage["provenance"].get("seconds", 0.0)),
        ]
        for stage in stages.values()
    ]
    return section(
        "Provenance",
        [
            paragraph(
                "A stage's fingerprint is the SHA-256 of the knobs that it may read, of the fingerprints of its inputs and of "
                "its version: equal fingerprints, equal bits, on the same kind of machine. Each folder's ",
                code("manifest.json"),
                " holds the hash of every file and the knobs in full.",
            ),
            table(
                ("artifact", "fingerprint", "files", "bytes", "time"),
                rows,
                "The artifacts of the run.",
                align="llrrr",
            ),
            key_values(_machine(facts)),
        ],
    )


def _machine(facts: dict[str, Any]) -> list[tuple[str, Cell]]:
    """What all stages have in common is told once; where they differ, all values are told."""
    everywhere = [stage["provenance"] for stage in facts["stages"].values()]

    def told(key: str) -> str:
        return formatting.join_words(
            list(dict.fromkeys(str(entry[key]) for entry in everywhere if entry.get(key) is not None))
        )

    packages: dict[str, str] = {}
    for entry in everywhere:
        packages |= entry.get("packages", {})
    rows = [
        ("Processor", told("processor")),
        ("Threads", told("threads")),
        ("Device asked for", told("device")),
        ("System", told("platform")),
        ("Python", told("python")),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("Source commit", told("commit")),
        ("Seed", str(facts["plan"].get("seed", ""))),
    ]
    return [(name, value) for name, value in rows if value]
