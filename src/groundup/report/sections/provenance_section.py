"""Report section: fingerprints of artifacts, packages, machine."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, code, key_values, paragraph, section, table


def provenance_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    stages = run_data["stages"]
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
                "A fingerprint is the SHA-256 of a stage's settings, version and input fingerprints. Equal fingerprints give "
                "bit-identical artifacts on the same kind of machine. The ",
                code("manifest.json"),
                " of each folder contains its settings and the hash of every file.",
            ),
            table(("artifact", "fingerprint", "files", "bytes", "time"), rows, "Artifacts of the run.", align="llrrr"),
            key_values(_machine(run_data)),
        ],
    )


def _machine(run_data: dict[str, Any]) -> list[tuple[str, Cell]]:
    """Provenance of all stages; differing values are listed."""
    entries = [stage["provenance"] for stage in run_data["stages"].values()]

    def values(key: str) -> str:
        return formatting.join_words(
            list(dict.fromkeys(str(entry[key]) for entry in entries if entry.get(key) is not None))
        )

    packages: dict[str, str] = {}
    for entry in entries:
        packages |= entry.get("packages", {})
    rows = [
        ("Processor", values("processor")),
        ("Threads", values("threads")),
        ("Requested device", values("device")),
        ("System", values("platform")),
        ("Python", values("python")),
        ("Packages", ", ".join(f"{name} {version}" for name, version in packages.items())),
        ("Source commit", values("commit")),
        ("Seed", str(run_data["plan"].get("seed", ""))),
    ]
    return [(name, value) for name, value in rows if value]
