"""How much of a page's main text extraction finds, and how little else: F1 on labelled pages, and pages a second.

    python benchmarks/extraction.py crawl/*.warc.gz --peer-python PYTHON
    python benchmarks/extraction.py article-extraction-benchmark/ --peer-python PYTHON

Labels: of a crawl of documentation, what the template itself marks as main text (Sphinx's role="main", mdBook's <main>,
DocBook's chapters and sections without their navigation); the mark is taken out of the page before anyone reads it. Of a
checkout of Scrapinghub's article-extraction-benchmark (181 news pages labelled by people), its ground-truth.json. The
score is that benchmark's: precision and recall over runs of four words, with their counts, as means over the pages.
Peers: trafilatura as it comes, resiliparse and justext here, readability in an environment of its own.
"""

import argparse
import gzip
import json
import os
import re
import subprocess
import time
from collections import Counter
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

MARKS = (
    re.compile(r'<div class="body" role="main">|<div itemscope="itemscope" itemtype="https://schema.org/Article" role="main">|'
               r'<div role="main"[^>]*>'),
    re.compile(r"<main>"),
    re.compile(r'(?<=</div>)<div class="(?:sect1|sect2|chapter|refentry|appendix|preface)"[^>]*>'),
)  # fmt: skip
ENDS = ('<div class="sphinxsidebar"', "<footer>", "</main>", '<div class="navfooter"', "<div xmlns=", '<div id="nav')
WORD = re.compile(r"\w+")
THEIRS = """
import json, logging, sys
logging.disable(logging.CRITICAL)
from lxml import html
from readability import Document
for line in sys.stdin:
    try:
        text = html.fromstring(Document(json.loads(line)).summary()).text_content()
    except Exception:
        text = ""
    print(json.dumps(text), flush=True)
"""


def pages(place: str) -> Iterator[tuple[str, str]]:
    """Pages and what they ought to say."""
    if Path(place).is_dir():
        for name, row in json.loads(Path(place, "ground-truth.json").read_text()).items():
            source = gzip.decompress(Path(place, "html", f"{name}.html.gz").read_bytes())
            yield source.decode("utf-8", "replace"), row["articleBody"]
        return
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with open(place, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
            if record.http_content_type != "text/html":
                continue
            source = record.reader.read().decode("utf-8", "replace")
            if len(source) < 300_000 and (found := labelled(source)) is not None:
                yield found


def labelled(source: str) -> tuple[str, str] | None:
    """The page without its mark, and the text that the mark stood before; None for pages of other templates."""
    from lxml import html

    for mark in MARKS:
        found = mark.search(source)
        if found is None:
            continue
        ends = [place for end in ENDS if (place := source.find(end, found.end())) >= 0]
        main = source[found.end() : min(ends, default=len(source))]
        main = re.sub(r"(?s)<(script|style|table|nav)\b.*?</\1>", " ", main)
        text = html.fromstring(f"<div>{main}</div>").text_content() if main.strip() else ""
        if len(WORD.findall(text)) > 50:
            return source[: found.start()] + "<div>" + source[found.end() :], text
    return None


def score(found: str, wanted: str) -> tuple[float, float]:
    """Precision and recall over runs of four words."""
    a, b = (Counter(zip(*(words[n:] for n in range(4)), strict=False)) for words in map(WORD.findall, (found, wanted)))
    shared = (a & b).total()
    return shared / max(a.total(), 1), shared / max(b.total(), 1)


def justext_text(source: str) -> str:
    import justext

    paragraphs = justext.justext(source.encode(), justext.get_stoplist("English"))
    return "\n".join(each.text for each in paragraphs if not each.is_boilerplate)


def trafilatura_text(source: str) -> str:
    import trafilatura

    return trafilatura.extract(source, include_comments=False, include_tables=False) or ""


def resiliparse_text(source: str) -> str:
    from resiliparse.extract.html2text import extract_plain_text

    return extract_plain_text(source, main_content=True)


def peer(python: str) -> Callable[[str], str]:
    process = subprocess.Popen([python, "-c", THEIRS], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def extract(source: str) -> str:
        assert process.stdin is not None
        assert process.stdout is not None
        process.stdin.write(json.dumps(source) + "\n")
        process.stdin.flush()
        return json.loads(process.stdout.readline())

    extract("<p>its libraries are loaded now</p>")
    return extract


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("places", nargs="+")
    parser.add_argument("--limit", type=int, default=500, help="pages, evenly drawn")
    parser.add_argument("--peer-python", help="of the environment that readability-lxml is installed in")
    given = parser.parse_args()
    from groundup.artifacts.machine import processor_name
    from groundup.data.readers import html

    found = [page for place in given.places for page in pages(place)]
    found = found[:: max(1, len(found) // given.limit)]
    contestants = {
        "groundup, trafilatura": html.extract_trafilatura,
        "groundup, resiliparse": html.extract_resiliparse, "trafilatura": trafilatura_text,
        "resiliparse": resiliparse_text, "justext": justext_text,
    }  # fmt: skip
    if given.peer_python:
        contestants["readability"] = peer(given.peer_python)
    print(f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores; {len(found)} labelled pages")
    print(f"{'':20} {'F1':>6} {'precision':>10} {'recall':>7} {'pages/s':>8}")
    for name, extract in contestants.items():
        extract(found[0][0])
        began = time.perf_counter()
        texts = [extract(source) for source, _ in found]
        seconds = time.perf_counter() - began
        scores = [score(text, wanted) for text, (_, wanted) in zip(texts, found, strict=True)]
        precision, recall = (sum(part) / len(scores) for part in zip(*scores, strict=True))
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        print(f"{name:20} {f1:6.3f} {precision:10.3f} {recall:7.3f} {len(found) / seconds:8.1f}", flush=True)


if __name__ == "__main__":
    main()
