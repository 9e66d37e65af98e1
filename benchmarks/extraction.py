"""How much of a page's main text extraction finds, and how little else: F1 on labelled pages, and pages a second; and which
share of what stands in lists, tables and code.

    python benchmarks/extraction.py crawl/*.warc.gz --peer-python PYTHON
    python benchmarks/extraction.py forums python3.11-doc/ rust-doc/book/    # folders of pages
    python benchmarks/extraction.py article-extraction-benchmark/ --peer-python PYTHON

Labels: of a crawl of documentation, what the template itself marks as main text (Sphinx's role="main", mdBook's <main>,
DocBook's chapters and sections without their navigation); the mark is taken out of the page before anyone reads it, and
pages that are mostly links are left out. "forums": threads in the page layouts of phpBB, Discourse and Stack Exchange. Of a
checkout of Scrapinghub's article-extraction-benchmark (181 news pages labelled by people), its ground-truth.json. The
score is that benchmark's: precision and recall over runs of four words, with their counts, as means over the pages.
Peers: trafilatura as it comes, resiliparse and justext here, readability in an environment of its own.
"""

import argparse
import gzip
import html
import importlib
import json
import os
import random
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
ELEMENTS = {"ul": ".//ul/li", "ol": ".//ol/li", "table": ".//td|.//th", "code": ".//pre"}
FORUMS = (
    "<div id='p{n}' class='post'><dl class='postprofile'><dt>user{n}</dt><dd>Joined: Mon Jan 2, 2012</dd></dl><div "
    "class='postbody'><p class='author'>by user{n}</p><div class='content'>{post}</div></div></div>",
    "<div itemprop='comment' class='topic-body crawler-post'><div class='crawler-post-meta'>user{n}</div><div class='post' "
    "itemprop='text'>{post}</div><div class='post-likes'>{n} Likes</div></div>",
    "<div class='answer'><div class='votecell'>{n}</div><div class='answercell'><div class='s-prose js-post-body'>{post}</div>"
    "<div class='user-info'>answered May 3</div></div></div>",
)
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
    """Pages and what they ought to say, as HTML or text."""
    if place == "forums":
        yield from forum_pages()
        return
    if Path(place, "ground-truth.json").is_file():
        for name, row in json.loads(Path(place, "ground-truth.json").read_text()).items():
            source = gzip.decompress(Path(place, "html", f"{name}.html.gz").read_bytes())
            yield source.decode("utf-8", "replace"), html.escape(row["articleBody"])
        return
    for source in folder_pages(Path(place)) if Path(place).is_dir() else crawl_pages(place):
        if len(source) < 300_000 and (found := labelled(source)) is not None:
            yield found


def folder_pages(folder: Path) -> Iterator[str]:
    for path in sorted(folder.rglob("*.html")):
        yield path.read_text("utf-8", "replace")


def crawl_pages(place: str) -> Iterator[str]:
    from fastwarc.warc import ArchiveIterator, WarcRecordType

    with open(place, "rb") as stream:
        for record in ArchiveIterator(stream, record_types=WarcRecordType.response, parse_http=True):
            if record.http_content_type == "text/html":
                yield record.reader.read().decode("utf-8", "replace")


def forum_pages() -> Iterator[tuple[str, str]]:
    """Threads of two to nine posts, whose words are the docstrings of the standard library."""
    chance = random.Random(3)
    words = [
        html.escape(" ".join(part.split()))
        for name in ("argparse", "decimal", "logging", "unittest.mock", "turtle", "difflib")
        for found in vars(importlib.import_module(name)).values()
        if isinstance(found.__doc__, str)
        for part in found.__doc__.split("\n\n")
        if 80 < len(part) < 500
    ]
    extras = (
        "",
        "<ul><li>first try the thing</li><li>then wait a bit</li></ul>",
        "<pre>def f(x):\n    return x + 1\n</pre>",
    )
    links = "".join(f"<li><a href=/q/{n}>How do I choose a colour for hat number {n}?</a></li>" for n in range(12))
    for number in range(60):
        posts = ["".join(f"<p>{part}</p>" for part in chance.sample(words, chance.randint(1, 3))) + chance.choice(extras)
                 for _ in range(chance.randint(2, 9))]  # fmt: skip
        body = "".join(FORUMS[number % len(FORUMS)].format(n=n, post=post) for n, post in enumerate(posts))
        page = (
            "<html><head><title>A question</title></head><body><div class='navbar'><ul><li><a href=/>Home</a></li><li>"
            f"<a href=/l>Log in</a></li></ul></div><div id='main'><h1>A question</h1>{body}</div><div id='sidebar'><h3>Hot "
            f"questions</h3><ul>{links}</ul></div><div class='footer'><p>All rights reserved.</p></div></body></html>"
        )
        yield page, "".join(posts)


def labelled(source: str) -> tuple[str, str] | None:
    """The page without its mark, and what the mark stood before; None for pages of other templates, or mostly of links."""
    for mark in MARKS:
        found = mark.search(source)
        if found is None:
            continue
        ends = [place for end in ENDS if (place := source.find(end, found.end())) >= 0]
        main = source[found.end() : min(ends, default=len(source))]
        main = re.sub(r"(?s)<(script|style|nav)\b.*?</\1>", " ", main)
        text, links = text_of(main), text_of(main, ".//a")
        if len(WORD.findall(text)) > 50 and len(links) < 0.5 * len(text):
            return source[: found.start()] + "<div>" + source[found.end() :], main
    return None


def elements(main: str, path: str = ".") -> list[str]:
    """Texts of the elements of a label."""
    from lxml import html

    return [element.text_content() for element in html.fromstring(f"<div>{main}</div>").xpath(path)]


def text_of(main: str, path: str = ".") -> str:
    """Their text together."""
    return "\n".join(elements(main, path))


def runs(text: str) -> list[tuple[str, ...]]:
    """Runs of four words."""
    words = WORD.findall(text)
    return list(zip(*(words[n:] for n in range(4)), strict=False))


def score(found: str, wanted: str) -> tuple[float, float]:
    """Precision and recall over runs of four words."""
    a, b = Counter(runs(found)), Counter(runs(wanted))
    shared = (a & b).total()
    return shared / max(a.total(), 1), shared / max(b.total(), 1)


def element_recall(texts: list[str], found: list[tuple[str, str]], path: str) -> float:
    """Share of the runs of four words in these elements that are found."""
    hits = total = 0
    for text, (_, wanted) in zip(texts, found, strict=True):
        everywhere = set(runs(text))
        inside = [run for element in elements(wanted, path) for run in runs(element)]
        hits += sum(map(everywhere.__contains__, inside))
        total += len(inside)
    return hits / total if total else float("nan")


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
    from groundup.data.readers import html as readers

    found = [page for place in given.places for page in pages(place)]
    found = found[:: max(1, len(found) // given.limit)]
    contestants = {
        "groundup, trafilatura": readers.extract_trafilatura,
        "groundup, resiliparse": readers.extract_resiliparse, "trafilatura": trafilatura_text,
        "resiliparse": resiliparse_text, "justext": justext_text,
    }  # fmt: skip
    if given.peer_python:
        contestants["readability"] = peer(given.peer_python)
    print(f"{date.today()}, {processor_name()}, {len(os.sched_getaffinity(0))} cores; {len(found)} labelled pages")
    print(
        f"{'':20} {'F1':>6} {'precision':>10} {'recall':>7} {'pages/s':>8}   "
        + " ".join(f"{name:>7}" for name in ELEMENTS)
    )
    for name, extract in contestants.items():
        extract(found[0][0])
        began = time.perf_counter()
        texts = [extract(source) for source, _ in found]
        seconds = time.perf_counter() - began
        scores = [score(text, text_of(wanted)) for text, (_, wanted) in zip(texts, found, strict=True)]
        precision, recall = (sum(part) / len(scores) for part in zip(*scores, strict=True))
        within = " ".join(f"{element_recall(texts, found, path):7.3f}" for path in ELEMENTS.values())
        f1 = 2 * precision * recall / max(precision + recall, 1e-9)
        print(f"{name:20} {f1:6.3f} {precision:10.3f} {recall:7.3f} {len(found) / seconds:8.1f}  {within}", flush=True)


if __name__ == "__main__":
    main()
