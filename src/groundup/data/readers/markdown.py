"""Markdown reader: to plain text. Parser: pulldown-cmark (CommonMark, tables, footnotes, formulas; linear time).

Grammar: https://spec.commonmark.org and https://github.github.com/gfm.
"""

import html
import re
from typing import Any

from groundup.data.readers.measurements import subscript, superscript
from groundup.data.readers.text import markup_reader

HTML_TAGS = frozenset([
    "a", "abbr", "address", "area", "article", "aside", "audio", "b", "base", "bdi", "bdo", "big", "blockquote",
    "body", "br", "button", "canvas", "caption", "center", "cite", "code", "col", "colgroup", "data", "dd", "del",
    "details", "dfn", "dialog", "div", "dl", "dt", "em", "embed", "fieldset", "figcaption", "figure", "font",
    "footer", "form", "h1", "h2", "h3", "h4", "h5", "h6", "head", "header", "hr", "html", "i", "iframe", "img",
    "input", "ins", "kbd", "label", "legend", "li", "link", "main", "map", "mark", "menu", "meta", "meter", "nav",
    "noscript", "object", "ol", "optgroup", "option", "output", "p", "param", "picture", "pre", "progress", "q", "rp",
    "rt", "ruby", "s", "samp", "script", "section", "select", "small", "source", "span", "strike", "strong", "style",
    "sub", "summary", "sup", "svg", "path", "table", "tbody", "td", "template", "textarea", "tfoot", "th", "thead",
    "time", "title", "tr", "track", "tt", "u", "ul", "var", "video", "wbr",
])  # fmt: skip
TAG = re.compile(r"</?([a-zA-Z][\w.-]*)([^<>]*)>")
UNSEEN = re.compile(r"<!--.*?(?:-->|\Z)|<(script|style)\b.*?(?:</\1\s*>|\Z)", re.DOTALL | re.IGNORECASE)
BREAK_TAG = re.compile(r"</?(?:br|p|div|li|tr|dd|dt|h[1-6r]|summary|details|table|ul|ol)\b[^<>]*>", re.IGNORECASE)
MANY_SPACES = re.compile("  +")
CELL_END = re.compile(r"</t[dh]\s*>", re.IGNORECASE)
BLOCKS = frozenset(["Paragraph", "Heading", "BlockQuote", "CodeBlock", "HtmlBlock", "List", "Item", "FootnoteDefinition",
                    "Table", "TableHead", "TableRow", "MetadataBlock"])  # fmt: skip
"""Elements whose start and end also end a piece of text."""


def markdown_to_text(source: str) -> str:
    """Headings, paragraphs, lists, code and tables as a reader sees them; without link targets, images and HTML tags.

    >>> markdown_to_text("# Head\\n\\nA *word*, `Vec<T>` and [a link](x.html).\\n\\n- one\\n- two")
    'Head\\n\\nA word, Vec<T> and a link.\\n\\n- one\\n- two'
    """
    import pyromark

    options = pyromark.Options
    chosen = (
        options.ENABLE_TABLES | options.ENABLE_FOOTNOTES | options.ENABLE_STRIKETHROUGH | options.ENABLE_MATH
        | options.ENABLE_GFM | options.ENABLE_YAML_STYLE_METADATA_BLOCKS
    )  # fmt: skip
    text = MarkdownText()
    for event in pyromark.events(source, options=chosen):
        text.read(event)
    return text.finish()


read = markup_reader(markdown_to_text)


class MarkdownText:
    """Plain text of the parser's events: blocks apart by a blank line, list items and table rows by a line end."""

    def __init__(self) -> None:
        self.parts: list[str] = []
        self.piece: list[str] = []
        self.scripts: list[int] = []
        """Where superscripts and subscripts of the piece began."""
        self.lists: list[int | None] = []
        """Open lists, with the number of the next item."""
        self.marker = ""
        self.apart = "\n\n"
        self.verbatim = False
        self.unseen = 0
        """Depth of images and metadata."""

    def read(self, event: Any) -> None:
        """One event: a word, or its name with its content."""
        if isinstance(event, str):
            self.piece += {"SoftBreak": " ", "HardBreak": "\n"}.get(event, "")
            return
        ((name, content),) = event.items()
        if name in ("Start", "End"):
            tag = content if isinstance(content, str) else next(iter(content))
            self._open(tag, content) if name == "Start" else self._close(tag)
        elif self.unseen:
            return
        elif name == "Text" and not self.verbatim and "  " in content:
            self.piece.append(MANY_SPACES.sub(" ", content))
        elif name in ("Text", "Code", "Html"):
            self.piece.append(content)
        elif name in ("InlineMath", "DisplayMath"):
            mark = "$" if name == "InlineMath" else "$$"
            self.piece.append(f"{mark}{content}{mark}")
        elif name == "InlineHtml":
            self._read_tag(content)

    def finish(self) -> str:
        """The whole text."""
        self._end_piece()
        return "".join(self.parts).strip("\n")

    def _open(self, tag: str, value: Any) -> None:
        if tag in BLOCKS:
            self._end_piece()
        if tag == "CodeBlock":
            self.verbatim = True
        if tag in ("Image", "MetadataBlock"):
            self.unseen += 1
        elif tag == "List":
            self.lists.append(value["List"])
        elif tag == "Item":
            number = self.lists[-1]
            self.marker = "- " if number is None else f"{number}. "
            self.lists[-1] = None if number is None else number + 1
        elif tag == "Table":
            self.apart = "\n\n"
        elif tag == "TableCell" and self.piece:
            self.piece.append(" | ")

    def _close(self, tag: str) -> None:
        if tag in ("Image", "MetadataBlock"):
            self.unseen -= 1
        if tag == "HtmlBlock":
            self.piece = [block_text("".join(self.piece))]
        if tag in BLOCKS:
            self._end_piece()
        if tag == "CodeBlock":
            self.verbatim = False
        if tag == "List":
            self.lists.pop()
        if tag in ("TableHead", "TableRow"):
            self.apart = "\n"
        elif tag in ("List", "Table") and not self.lists:
            self.apart = "\n\n"

    def _end_piece(self) -> None:
        text = "".join(self.piece).strip("\n" if self.verbatim else None)
        self.piece, self.scripts = [], []
        if not text.strip():
            return
        indent = "  " * (len(self.lists) - 1) + self.marker
        self.parts += [self.apart, indent, text.replace("\n", "\n" + " " * len(indent)) if indent else text]
        self.marker = ""
        self.apart = "\n" if self.lists else "\n\n"

    def _read_tag(self, tag: str) -> None:
        """What a tag within a paragraph prints. One that HTML does not know is text: `List<String>`, `x<y and y>z`."""
        found = TAG.fullmatch(tag)
        name = found.group(1).lower() if found else ""
        known = name in HTML_TAGS and not (len(name) == 1 and found and found.group(2).strip())
        if found and not known and "=" not in found.group(2):
            self.piece.append(tag)
        elif name == "br":
            self.piece.append("\n")
        elif name in ("sup", "sub") and not tag.startswith("</"):
            self.scripts.append(len(self.piece))
        elif name in ("sup", "sub") and self.scripts:
            start = self.scripts.pop()
            content = "".join(self.piece[start:])
            self.piece[start:] = [superscript(content) if name == "sup" else subscript(content)]


def block_text(source: str) -> str:
    """Text of a block of HTML, line by line."""
    text = TAG.sub("", CELL_END.sub(" ", BREAK_TAG.sub("\n", UNSEEN.sub("", source))))
    lines = (" ".join(line.split()) for line in html.unescape(text).split("\n"))
    return "\n".join(filter(None, lines))
