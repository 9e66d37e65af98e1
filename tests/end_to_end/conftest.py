"""A tiny recipe of half a minute: English prose from Python's documentation, in four kinds of source."""

import bz2
import html
import json
import subprocess
import sys
from pathlib import Path
from pydoc_data.topics import topics

import pytest

from groundup.stages import STAGES

sys.path.insert(0, str(Path(__file__).parent))

TOML = """
name = "tiny"
seed = 7

[[data.sources]]
name = "wikipedia"
kind = "wikipedia"
path = "{folder}/wiki.xml.bz2"

[[data.sources]]
name = "books"
kind = "books"
path = "{folder}/books/*.txt"

[[data.sources]]
name = "web"
kind = "web"
path = "{folder}/crawl.warc"

[[data.sources]]
name = "code"
kind = "code"
path = "{folder}/code/*.py"

[data]
validation_fraction = 0.1

[tokenizer]
vocab_size = 512

[model]
hidden_size = 64
num_layers = 2
num_heads = 2
context_length = 64
qk_norm = true
tie_embeddings = true

[train]
steps = 40
batch_tokens = 512
learning_rate = 0.01
optimizer = "muon"

[evaluate]
max_tokens = 4000
prompts = ["The value"]
max_new_tokens = 10

[finetune]
epochs = 2
prompts = ["Hello", "What is an integer?"]

[[finetune.conversations]]
name = "mine"
kind = "messages"
path = "{folder}/dialogues.jsonl"

[quantize]
group_size = 32
calibration_tokens = 2048

[export]

[report]

[machine]
threads = 1
progress = "lines"
checkpoint_every_minutes = 0.01
"""


def write_corpus(folder: Path) -> None:
    """Write four sources and some conversations into `folder`."""
    names = sorted(topics)
    pages = "".join(
        f"<page><title>{html.escape(name)}</title><ns>0</ns><revision><text>{html.escape(topics[name])}</text></revision></page>\n"
        for name in names[0::3]
    )
    xml = f'<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.11/">{pages}</mediawiki>'
    (folder / "wiki.xml.bz2").write_bytes(bz2.compress(xml.encode()))
    (folder / "books").mkdir()
    for name in names[1::3]:
        (folder / "books" / f"{name}.txt").write_text(topics[name], encoding="utf-8")
    with (folder / "crawl.warc").open("wb") as warc:
        for name in names[2::3]:
            paragraphs = "".join(f"<p>{html.escape(part)}</p>" for part in topics[name].split("\n\n"))
            body = f"<html><head><title>{name}</title></head><body><article><h1>{name}</h1>{paragraphs}</article></body></html>"
            response = f"HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n{body}".encode()
            head = (
                f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Target-URI: http://example.org/{name}\r\n"
                f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Record-ID: <urn:uuid:00000000-0000-4000-8000-{len(name):012d}>\r\n"
                f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(response)}\r\n\r\n"
            )
            warc.write(head.encode() + response + b"\r\n\r\n")
    (folder / "code").mkdir()
    for path in [*sorted(Path(json.__file__).parent.glob("*.py")), Path(bz2.__file__), Path(html.__file__)]:
        (folder / "code" / f"{path.parent.name}_{path.name}").write_text(
            path.read_text(encoding="utf-8"), encoding="utf-8"
        )
    turns = [
        ("Hello", "Hi, how are you?"),
        ("What is an integer?", "A whole number."),
        ("Thank you", "You are welcome."),
    ]
    lines = [
        json.dumps({"messages": [{"role": "user", "content": question}, {"role": "assistant", "content": answer}]})
        for question, answer in turns * 8
    ]
    (folder / "dialogues.jsonl").write_text("\n".join(lines) + "\n")


@pytest.fixture(scope="session")
def tiny_recipe(tmp_path_factory) -> Path:
    """Path of the recipe; its sources are in the same folder."""
    folder = tmp_path_factory.mktemp("corpus")
    write_corpus(folder)
    path = folder / "tiny.toml"
    path.write_text(TOML.format(folder=folder))
    return path


@pytest.fixture(scope="session")
def tiny_run(tiny_recipe, tmp_path_factory) -> Path:
    """Run folder of the tiny recipe, all stages complete."""
    runs = tmp_path_factory.mktemp("runs")
    command = [sys.executable, "-m", "groundup.cli", "run", str(tiny_recipe), "--runs", str(runs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "groundup chat" in done.stdout
    return runs / "tiny"


@pytest.fixture(scope="session")
def straight(tiny_recipe: Path, tmp_path_factory) -> tuple[Path, dict[str, int]]:
    """An undisturbed run, and how many changes of its folder each stage makes, by the stage's folder."""
    from faulted_runs import ForkedRun, finish, read_log

    runs = tmp_path_factory.mktemp("straight")
    code, stderr = finish(ForkedRun(tiny_recipe, runs, fault={"log": str(runs / "log")}))
    assert code == 0, stderr
    changes = read_log(runs / "log")
    return runs / "tiny", {s.folder: sum(s.folder in change.path for change in changes) for s in STAGES}
