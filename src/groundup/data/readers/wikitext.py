"""Wikitext to plain text: one pass over nested templates, tables, links and tags, then regular expressions.

Grammar: https://www.mediawiki.org/wiki/Help:Formatting and Help:Links. Templates are removed, except for a few that
print words of the sentence; most print navigation and boxes.
"""

import html
import re
from dataclasses import dataclass

REMOVED_TAGS = (
    "ref", "references", "math", "chem", "gallery", "timeline", "table", "imagemap", "score", "syntaxhighlight", "source",
    "templatedata", "mapframe", "graph", "hiero", "includeonly", "div", "code", "pre",
)  # fmt: skip
"""Removed with their content. (`div` in articles wraps boxes and column lists.)"""

COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
SELF_CLOSED = re.compile(r"<[a-zA-Z][^<>]*/>")
REMOVED = re.compile(rf"<({'|'.join(REMOVED_TAGS)})\b[^<>]*>", re.IGNORECASE)
REMOVED_END = {tag: re.compile(rf"</{tag}\s*>", re.IGNORECASE) for tag in REMOVED_TAGS}
TAG = re.compile(r"</?[a-zA-Z][^<>]*>")
NOWIKI = re.compile(r"</?nowiki\s*/?>", re.IGNORECASE)
MARK = re.compile(r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]")
OTHER_NAMESPACE = re.compile(r"\s*:?\s*([\w \-]+)\s*:", re.UNICODE)
EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*+[ \t]*+([^\[\]]*+)\]")
BARE_ADDRESS = re.compile(r"(?:https?|ftp)://\S+")
EMPHASIS = re.compile(r"'{2,5}")
MAGIC_WORD = re.compile(r"__[A-Z]+__")
HEADING = re.compile(r"^(={1,6})\s*(.+?)\s*\1\s*$")
LIST_MARK = re.compile(r"^[*#:;]+\s*")
EMPTY_BRACKETS = re.compile(r" ?\([,;.\s]*+\)")
LEADING_PUNCTUATION = re.compile(r"\(\s*[,;:]\s*")
SPACE_BEFORE = re.compile(r" ([,.;:)])")
SPACES = re.compile(r"[^\S\n]+")

NO_PROSE_SECTIONS = frozenset([
    "see also", "references", "external links", "further reading", "notes", "bibliography", "sources", "footnotes",
    "notes and references", "citations", "discography", "filmography", "gallery", "works cited", "literature",
    "primary sources", "secondary sources",
])  # fmt: skip


FILE_NAMESPACES = frozenset([
    "file", "image", "category", "media", "datei", "bild", "kategorie", "fichier", "catégorie", "archivo", "категория", "файл",
    "картинка",
])  # fmt: skip
"""Namespaces whose links print no words."""


@dataclass(frozen=True)
class TemplateExpansion:
    """Printed format of a template, and the indices of the unnamed arguments in it."""

    format: str
    arguments: tuple[int, ...]


TEMPLATES = {
    "lang": TemplateExpansion("{}", (1,)),
    "transl": TemplateExpansion("{}", (1,)),
    "nowrap": TemplateExpansion("{}", (0,)),
    "abbr": TemplateExpansion("{}", (0,)),
    "ill": TemplateExpansion("{}", (0,)),
    "val": TemplateExpansion("{}", (0,)),
    "formatnum": TemplateExpansion("{}", (0,)),
    "convert": TemplateExpansion("{} {}", (0, 1)),
    "cvt": TemplateExpansion("{} {}", (0, 1)),
    "frac": TemplateExpansion("{}/{}", (0, 1)),
    "circa": TemplateExpansion("c. {}", (0,)),
    "c.": TemplateExpansion("c. {}", (0,)),
    "as of": TemplateExpansion("As of {}", (0,)),
}
"""Each is documented on its page, such as https://en.wikipedia.org/wiki/Template:Convert."""

LANGUAGE_PREFIX = re.compile(r"^[a-z]{2,3}(-[a-z-]+)?$")
DEPTH_LIMIT = 200


def wikitext_to_text(wikitext: str) -> str:
    """Plain text of an article: paragraphs, list items and headings, separated by blank lines.

    Without reference and link sections, and without headings that have no text under them.
    """
    text = COMMENT.sub("", wikitext)
    text = SELF_CLOSED.sub("", text)
    text = _without_removed(text)
    text = TAG.sub("", NOWIKI.sub("", _unnest(text)))
    text = EXTERNAL.sub(r"\1", text)
    text = BARE_ADDRESS.sub("", text)
    text = html.unescape(EMPHASIS.sub("", MAGIC_WORD.sub("", text)))
    text = SPACES.sub(" ", text)
    text = LEADING_PUNCTUATION.sub("(", text)
    text = SPACE_BEFORE.sub(r"\1", EMPTY_BRACKETS.sub("", text))
    return _lines(text)


def _without_removed(text: str) -> str:
    """The text without REMOVED_TAGS elements, in linear time: the end of an unclosed tag is searched once."""
    out, position = [], 0
    unclosed: set[str] = set()
    for opening in REMOVED.finditer(text):
        tag = opening.group(1).lower()
        if opening.start() < position or tag in unclosed:
            continue
        closing = REMOVED_END[tag].search(text, opening.end())
        if closing is None:
            unclosed.add(tag)
            continue
        out.append(text[position : opening.start()])
        position = closing.end()
    return "".join([*out, text[position:]])


def _unnest(text: str) -> str:
    """Resolve {{ }}, {| |} and [[ ]] in one pass: remove templates and tables, replace links by their labels."""
    out: list[list[str]] = [[]]
    open_marks: list[str] = []
    position = 0
    for mark in MARK.finditer(text):
        kind = mark.group()
        if kind == "{|" and not _at_line_start(text, mark.start()):
            continue
        if kind == "|}" and "{|" not in open_marks:
            continue
        out[-1].append(text[position : mark.start()])
        position = mark.end()
        if kind in ("{{", "{|", "[["):
            if len(open_marks) >= DEPTH_LIMIT:
                continue
            open_marks.append(kind)
            out.append([])
            continue
        opening = {"}}": "{{", "|}": "{|", "]]": "[["}[kind]
        if opening not in open_marks:
            continue
        while True:  # unclosed inner marks end here as well
            inner, content = open_marks.pop(), "".join(out.pop())
            if inner == opening:
                break
            out[-1].append("" if inner != "[[" else content)
        if opening == "[[":
            out[-1].append(_link(content))
        elif opening == "{{":
            out[-1].append(_template(content))
    out[-1].append(text[position:])
    while len(out) > 1:
        content, inner = "".join(out.pop()), open_marks.pop()
        out[-1].append(_unclosed(inner, content))
    return "".join(out[0])


def _unclosed(kind: str, content: str) -> str:
    """Text behind an unclosed mark: from the next blank line on, so that an error costs one paragraph."""
    if kind == "[[":
        return content
    _, blank, rest = content.partition("\n\n")
    return blank + rest


def _link(content: str) -> str:
    target, bar, label = content.partition("|")
    other = OTHER_NAMESPACE.match(target)
    if other and not target.lstrip().startswith(":"):
        name = other.group(1).strip().lower()
        if name in FILE_NAMESPACES:
            return ""
        if LANGUAGE_PREFIX.match(name) and not bar:
            return ""
    if not bar:
        return target.strip().lstrip(":")
    return label.rsplit("|", 1)[-1].strip() or target.split(":", 1)[-1].split("(")[0].strip()


def _template(content: str) -> str:
    """Printed text of a template in TEMPLATES; "" for all others."""
    name, *arguments = content.split("|")
    template = TEMPLATES.get(name.strip().lower())
    values = [argument.strip() for argument in arguments if "=" not in argument]
    if template is None or len(values) <= max(template.arguments):
        return ""
    return template.format.format(*(values[index] for index in template.arguments))


def _at_line_start(text: str, position: int) -> bool:
    before = text[max(position - 64, 0) : position]
    return not before.rpartition("\n")[2].strip(" :*#")


def _lines(text: str) -> str:
    kept: list[str] = []
    skipping_level = 0
    pending: list[tuple[int, str]] = []  # headings without text so far
    for raw in text.split("\n"):
        line = raw.strip()
        if not line:
            continue
        if heading := HEADING.match(line):
            level, title = len(heading.group(1)), heading.group(2).strip()
            if skipping_level and level > skipping_level:
                continue
            skipping_level = level if title.lower() in NO_PROSE_SECTIONS else 0
            pending = [entry for entry in pending if entry[0] < level]
            if not skipping_level:
                pending.append((level, title))
            continue
        if skipping_level or line.startswith(("|", "!", "{", "}")):
            continue
        line = LIST_MARK.sub("", line).strip()
        if not any(character.isalnum() for character in line):
            continue
        kept += [title for _, title in pending]
        pending = []
        kept.append(line)
    return "\n\n".join(kept)
