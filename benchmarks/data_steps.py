"""Throughput of each reading and cleaning step on one core, and the cost of a Common Crawl snapshot.

    python benchmarks/data_steps.py CRAWL.warc.gz ... [--pages 1500]

Each step processes the output of the previous one, as in the stage. MB refer to the step's own input (HTML for the
extractors, text for the others). Use real WARC files: synthetic pages give other results.
"""

import argparse
import io
import time
from collections.abc import Callable
from datetime import date
from pathlib import Path

from groundup.artifacts.machine import processor_name
from groundup.data.clean.cleaning_steps import FilterContext, build_steps, utf8_bytes
from groundup.data.clean.step_types import Mapper
from groundup.data.readers import html, web
from groundup.data.readers.encoding import decode_bytes
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import DataConfig, SourceConfig

SNAPSHOT_TB = 100.0
"""Approximate uncompressed WARC of one Common Crawl snapshot."""


def timed(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("crawl", nargs="+", type=Path)
    parser.add_argument("--pages", type=int, default=1_500)
    options = parser.parse_args()

    pages: list[str] = []
    original, raw = web.extract_page, [0]

    def record_page(
        _name: str, data: bytes, charset: str | None, _options: ReaderOptions
    ):  # the reader without extraction
        raw[0] += len(data)
        pages.append(decode_bytes(data, charset).text)
        return html.Document("", "")

    web.extract_page = record_page  # type: ignore[assignment]
    files = [path.read_bytes() for path in options.crawl]
    seconds = timed(lambda: [list(web.read("c.warc.gz", io.BytesIO(data), ReaderOptions())) for data in files])
    web.extract_page = original
    total = raw[0] / 1e6
    cost = {"WARC, HTTP, characters": seconds / total}
    print(f"{date.today()}, {processor_name()}, one core; {len(pages)} pages, {total:.1f} MB of HTML")
    print(f"{'step':28} {'MB/s of its input':>18} {'s for each GB of HTML':>22} {'documents left':>15}")

    step_pages = pages[:: max(len(pages) // options.pages, 1)]
    megabytes = sum(map(utf8_bytes, step_pages)) / 1e6

    def line(name: str, amount: float, seconds: float, left: int) -> None:
        print(f"{name:28} {amount / max(seconds, 1e-9):18.1f} {1000 * seconds / megabytes:22.2f} {left:15}")

    print(f"{'WARC, HTTP, characters':28} {total / seconds:18.1f} {1000 * seconds / total:22.2f} {len(pages):15}")
    totals = {}
    for extraction, extract in html.EXTRACTORS.items():
        found: list[str] = []
        spent = timed(lambda extract=extract, found=found: found.extend(extract(page) for page in step_pages))
        line(f"extraction: {extraction}", megabytes, spent, sum(map(bool, found)))
        totals[extraction] = cost["WARC, HTTP, characters"] + spent / megabytes
        texts = [text for text in found if text]
        source = SourceConfig(name="crawl", kind="web", path="x")
        cleaning = 0.0
        for step in build_steps(DataConfig(sources=(source,)), source.kind, source.clean, FilterContext()):
            amount, after = sum(map(utf8_bytes, texts)) / 1e6, []
            if isinstance(step, Mapper):
                spent = timed(lambda step=step, after=after, texts=texts: after.extend(map(step.apply, texts)))
            else:
                spent = timed(
                    lambda step=step, after=after, texts=texts: after.extend(
                        text for text in texts if step.drop_reason(text) is None
                    )
                )
            texts = after
            cleaning += spent
            if extraction == "trafilatura":
                line(step.name, amount, spent, len(texts))
        totals[extraction] += cleaning / megabytes
    for extraction, each in totals.items():
        hours = each * SNAPSHOT_TB * 1e6 / 3600
        print(
            f"{SNAPSHOT_TB:.0f} TB of HTML, extraction for {extraction}: {1 / each:.2f} MB/s/core, {hours:,.0f} core-hours"
        )


if __name__ == "__main__":
    main()
