"""A story as one HTML file that needs nothing else: drawings are inside, and so is the style."""

import re
from importlib.resources import files
from typing import Any

import jinja2
from markupsafe import Markup

TEMPLATE = "report.html"


def render_html(document: dict[str, Any]) -> str:
    """The page that `story` (see report_document.py) becomes. Every text is escaped."""
    environment = jinja2.Environment(
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
        keep_trailing_newline=True,
    )
    environment.filters["drawing"] = inline_svg
    template = environment.from_string(
        files("groundup.report").joinpath(TEMPLATE).read_text(encoding="utf-8")
    )
    return template.render(story=document, cover=document["cover"])


def inline_svg(figure: dict[str, Any]) -> Markup:
    """An SVG to be put into a page: without its XML head, and with names that no other drawing has."""
    svg = figure["svg"][figure["svg"].index("<svg") :]
    svg = re.sub(r'\b(id="|xlink:href="#|url\(#)', rf"\g<1>{figure['name']}-", svg)
    svg = re.sub(r"<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    head, rest = svg.split(">", 1)
    head = re.sub(r' (width|height)="[^"]*"', "", head)
    label = Markup.escape(figure["alt"])
    return Markup(f'{head} role="img" aria-label="{label}">{rest}')
