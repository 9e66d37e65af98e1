"""Report as a self-contained HTML page, with inline figures and styles."""

import re
from importlib.resources import files
from typing import Any

from markupsafe import Markup

TEMPLATE = "report.html"


def render_html(document: dict[str, Any]) -> str:
    """HTML page of a report document (see report_document.py). All text is escaped."""
    import jinja2  # slow to import

    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["inline_svg"] = inline_svg
    template = environment.from_string(files("groundup.report").joinpath(TEMPLATE).read_text(encoding="utf-8"))
    return template.render(document=document, cover=document["cover"])


def inline_svg(figure: dict[str, Any]) -> Markup:
    """A figure as inline SVG: without XML declaration and fixed size, with ids unique in the page."""
    svg = figure["svg"][figure["svg"].index("<svg") :]
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{figure['name']}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = Markup.escape(figure["alt"])
    return Markup(f'{head} role="img" aria-label="{label}">{rest}')
