"""Wikitext to plain text: one pass over nested templates, tables and links, then tags, emphasis and lines.

Grammar: https://www.mediawiki.org/wiki/Help:Formatting and Help:Links. What prints no words is removed without a trace;
where a template prints words that are not known, its sentence is dropped and counted.
"""

import html
import re
from collections.abc import Iterator

from groundup.data.readers.measurements import subscript, superscript
from groundup.data.readers.wiki_sites import WikiSite
from groundup.data.readers.wikitext_local_templates import CONVERSION, chosen_variant
from groundup.data.readers.wikitext_templates import BREAK, GONE, HOLE, expand_template

KEPT, BAR, EQUALS = "\x04", "\x05", "\x06"
"""Marks in the text: the number of a verbatim part, and "|" and "=" of inner templates."""
MARKS = re.compile("[\x01-\x06]")

COMMENT = re.compile(r"<!--.*?(?:-->|\Z)", re.DOTALL)
VERBATIM_TAGS = ("nowiki", "pre", "math", "chem", "ce", "syntaxhighlight", "source")
REMOVED_TAGS = (
    "ref", "references", "gallery", "timeline", "table", "imagemap", "score", "templatedata", "mapframe", "graph", "hiero",
    "includeonly", "maplink", "categorytree", "inputbox", "indicator", "style",
)  # fmt: skip
ELEMENT = re.compile(rf"<({'|'.join(VERBATIM_TAGS + REMOVED_TAGS)})\b([^<>]*)>", re.IGNORECASE)
ELEMENT_END = {tag: re.compile(rf"</{tag}\s*>", re.IGNORECASE) for tag in VERBATIM_TAGS + REMOVED_TAGS}
TABLE_TAG = re.compile(r"<(/?)table\b[^<>]*>", re.IGNORECASE)
ATTRIBUTES = r"""(?:\s+[\w:.-]+\s*=\s*(?:"[^"<>]*"|'[^'<>]*'|[^\s"'<>=]+))*\s*/?"""
TAG = re.compile(
    rf"</?(?:[biupsq](?={ATTRIBUTES}>)|abbr|bdi|bdo|big|blockquote|br|caption|center|cite|code|data|dd|del|dfn|div|dl|dt|em|font|"
    r"h[1-6r]|ins|kbd|li|mark|meta|link|ol|poem|rb|rp|rt|rtc|ruby|samp|section|small|span|strike|strong|sub|sup|t[dhrt]|time|ul|var|"
    r"wbr|noinclude|onlyinclude|includeonly|ref|references|nowiki|pre|langconvert|templatestyles|section|phonos|charinsert)"
    r"(?:[\s/][^<>]*)?>",
    re.IGNORECASE,
)
"""Tags that MediaWiki knows; those of one letter only with attributes that have values, since "a<b and b>c" is text."""
POEM = re.compile(r"<poem\b[^<>]*>(?:[^<]|<(?!/poem))*+", re.IGNORECASE)
BLOCK = re.compile(r"</?(?:br|p|div|blockquote|center|li|hr|d[dlt]|h[1-6]|poem)\b", re.IGNORECASE)
RAISED = re.compile(r"<su([pb])\b[^<>]*>([^<>]*)</su\1\s*>", re.IGNORECASE)
MARK = re.compile(r"\{\{|\}\}|\{\||\|\}|\[\[|\]\]")
EXTERNAL = re.compile(r"\[(?:https?:|ftp:|mailto:|//)[^\s\[\]]*+(?:[ \t]+([^\[\]]*+))?\]")
MAGIC_WORD = re.compile(r"__[A-Z]{3,}__")
HEADING = re.compile(r"^(={1,6})\s*(.+?)\s*\1\s*$")
LIST_MARK = re.compile(r"^([*#:;]+)\s*")
SPACES = re.compile(r"[^\S\n ][^\S\n]*| [^\S\n]+")
LEADING_BOX = re.compile(f"^(?:[{GONE}{HOLE} ]*{HOLE}(?=[^\\s{GONE}{HOLE}])|[{GONE}{HOLE} ]+(?='''))", re.MULTILINE)

NO_WORDS_INSIDE = re.compile(rf"\([,;:.\s]*{GONE}[,;:.\s{GONE}]*\)")
AFTER_BRACKET = re.compile(rf"([(\[])[ ,;:]*{GONE}[ ,;:{GONE}]*")
BEFORE_PUNCTUATION = re.compile(rf"{GONE}[ {GONE}]*(?=[,.;:)\]])")
UNKNOWN_INSIDE = re.compile(rf"\s?[(（][^()（）{HOLE}]*{HOLE}[^()（）]*[)）]")
SENTENCE_START = re.compile(
    r"""(?:(?<=[^\W_][^\W_][.!?…])|(?<=[\x02)\]"”’»%°][.!?…])|(?<=[.!?…]["”’»)\]]))\s+"""
    r"""(?=["“„«'‘(\[]?(?![a-z\u00df-\u00ff])[^\W_])|(?<=[。！？])"""
)
ABBREVIATED = re.compile(
    r"\b(?:St|Dr|Mr|Mrs|Ms|Prof|Jr|Sr|No|Nr|Vol|ca|cf|vs|Gen|Col|Lt|Sgt|Rev|Fig|Ed|al|Inc|Ltd|Co|pp|approx)\.$"
)
CITATION = re.compile(r"\s*cit(?:e |ation\s*\|)", re.IGNORECASE)
CITED = re.compile(f"{HOLE}{GONE}?[.,;:]")
"""A line that begins with a citation, of which only remarks would be left."""
PREFORMATTED = ("|", "{|", "{{", "}", "!!", "! ")
"""Starts of lines that only broken tables and templates leave."""
BLOCK_STARTS = f"=*#:; {KEPT}"
GLUED = "\"'”’»)]}.,;:!?。，、"
DEPTH_LIMIT, MAX_BRACKETS = 200, 10


def wikitext_to_text(wikitext: str, site: WikiSite | None = None, title: str = "") -> str:
    """Plain text of an article: paragraphs, lists and headings, separated by blank lines.

    Without tables, reference and link sections, and without headings that have no text under them.

    >>> wikitext_to_text("The '''[[pound (mass)|pound]]''' is {{convert|0.4536|kg}}.<ref>A note.</ref>")
    'The pound is 0.4536 kilograms.'
    """
    return render_article(wikitext, site or WikiSite.of(), title)[0]


def render_article(wikitext: str, site: WikiSite, title: str = "") -> tuple[str, int]:
    """Plain text, and the number of sentences that were dropped for a template that is not known."""
    verbatim: list[str] = []
    if any(mark in wikitext for mark in (GONE, HOLE, BREAK, KEPT, BAR, EQUALS)):
        wikitext = MARKS.sub("", wikitext)
    text = _without_elements(COMMENT.sub("", wikitext), verbatim)
    text = _unnest(text, site, title).replace(BAR, "|").replace(EQUALS, "=")
    if "-{" in text:
        text = CONVERSION.sub(chosen_variant, text)
    if "<poem" in text:
        text = POEM.sub(lambda match: match.group().replace("\n", BREAK), text)
    if "<" in text:
        text = TAG.sub(_tag, RAISED.sub(_raised, text))
    text = MAGIC_WORD.sub("", EXTERNAL.sub(lambda match: match.group(1) or GONE, text))
    if HOLE in text:
        text = LEADING_BOX.sub("", text)
    text = html.unescape(_without_emphasis(text))
    text = SPACES.sub(" ", text)
    if GONE in text:
        text = NO_WORDS_INSIDE.sub(GONE, NO_WORDS_INSIDE.sub(GONE, text))  # brackets within brackets
        text = AFTER_BRACKET.sub(r"\1", text).replace(f" {GONE}", f"{GONE} ")
        text = BEFORE_PUNCTUATION.sub("", text)
    text, dropped = _lines(text, site)
    if not verbatim:
        return text, dropped
    return re.sub(f"{KEPT}(\\d+){KEPT}", lambda match: verbatim[int(match.group(1))], text), dropped


def _without_elements(text: str, verbatim: list[str]) -> str:
    """The text without REMOVED_TAGS elements and with VERBATIM_TAGS stored, in linear time: the end of an unclosed tag is
    searched once.
    """
    out, position = [], 0
    unclosed: set[str] = set()
    is_nested = True
    for opening in ELEMENT.finditer(text):
        tag = opening.group(1).lower()
        if opening.start() < position or tag in unclosed:
            continue
        closing = None
        if not opening.group(2).endswith("/"):
            if tag == "table" and is_nested:
                closing = _table_end(text, opening.end())
                is_nested = closing is not None
            closing = closing or ELEMENT_END[tag].search(text, opening.end())
            if closing is None:
                unclosed.add(tag)
                continue
        out.append(text[position : opening.start()])
        position = closing.end() if closing else opening.end()
        content = text[opening.end() : closing.start()] if closing else ""
        out.append(_store(tag, opening.group(2), content, verbatim) if tag in VERBATIM_TAGS else GONE)
    return "".join([*out, text[position:]])


def _table_end(text: str, start: int) -> re.Match[str] | None:
    """The end of a table that may hold others; None if one of them is not closed."""
    depth = 1
    for found in TABLE_TAG.finditer(text, start):
        depth += -1 if found.group(1) else 1
        if depth == 0:
            return found
    return None


def _store(tag: str, attributes: str, content: str, verbatim: list[str]) -> str:
    """A mark for a part whose content is no wikitext. Formulas keep their TeX: "$x^2$"."""
    if not content.strip():
        return ""
    is_block = tag == "pre" or (tag in ("syntaxhighlight", "source") and "inline" not in attributes.lower())
    if tag == "math":
        content = f"${' '.join(content.split())}$"
    elif tag in ("nowiki", "pre"):
        content = html.unescape(content.removeprefix("<nowiki>").removesuffix("</nowiki>"))
    verbatim.append(content.strip("\n") if is_block else content)
    mark = f"{KEPT}{len(verbatim) - 1}{KEPT}"
    return f"\n{mark}\n" if is_block else mark


def _unnest(text: str, site: WikiSite, title: str) -> str:
    """Resolve {{ }}, {| |} and [[ ]] in one pass: expand templates, remove tables, replace links by their labels."""
    out: list[list[str]] = [[]]
    open_marks: list[str] = []
    position = 0
    mark = MARK.search(text)
    while mark is not None:
        kind, start, end = mark.group(), mark.start(), mark.end()
        if kind == "|}" and "{|" not in open_marks and text.startswith("}}", start + 1) and "{{" in open_marks:
            kind, start, end = "}}", start + 1, end + 1  # an empty last argument: "{{name|}}"
        mark = MARK.search(text, end)
        if kind == "{|" and not _at_line_start(text, start):
            continue
        if kind == "|}" and "{|" not in open_marks:
            continue
        out[-1].append(text[position:start])
        position = end
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
            printed = _link(content, site)
        elif opening == "{{":
            before = next((piece[-1] for piece in reversed(out[-1]) if piece), "\n")
            printed = _template(content, before, site, title)
        else:
            printed = "\n"
        out[-1].append(printed.replace("|", BAR).replace("=", EQUALS) if open_marks else printed)
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


def _link(content: str, site: WikiSite) -> str:
    target, bar, label = content.partition("|")
    if ":" in target and site.prints_nothing(target, bool(bar)):
        return GONE
    if not bar:
        return target.strip().lstrip(":")
    return label.rsplit("|", 1)[-1].strip() or target.split(":", 1)[-1].split("(")[0].strip()


def _template(content: str, before: str, site: WikiSite, title: str) -> str:
    """Printed text; GONE also for unknown templates that look like boxes (several lines) or notes (right behind a word)."""
    printed = expand_template(content, title, site.language)
    if printed != HOLE:
        is_mixed_number = before.isdigit() and "/" in printed and printed[0].isdigit()  # 1{{frac|3|4}}
        return f" {printed}" if is_mixed_number else printed
    is_note = before in GLUED or (before.isalnum() and all("=" in part for part in content.split("|")[1:]))
    is_box = "\n" in content.strip() and not CITATION.match(content)
    return GONE if is_box or is_note else HOLE


def _at_line_start(text: str, position: int) -> bool:
    before = text[max(position - 64, 0) : position]
    return not before.rpartition("\n")[2].strip(f" :*#{GONE}")


def _tag(match: re.Match[str]) -> str:
    tag = match.group().lower()
    if not BLOCK.match(tag):
        return ""
    return BREAK if tag.startswith(("<br", "</br")) else "\n\n"


def _raised(match: re.Match[str]) -> str:
    content = match.group(2).replace("''", "")
    is_variable = content != match.group(2) and content.isalpha() and content != "n"
    if any(mark in content for mark in (GONE, HOLE, KEPT)):
        return content
    is_lower = match.group(1) in "bB"
    if is_variable:
        return f"{'_' if is_lower else '^'}{content}"
    return subscript(content) if is_lower else superscript(content)


def _without_emphasis(text: str) -> str:
    if "''" not in text:
        return text
    return "\n".join(_line_without_emphasis(line) if "''" in line else line for line in text.split("\n"))


def _line_without_emphasis(line: str) -> str:
    """Apostrophes that mark bold and italic text are removed, others kept: MediaWiki's rules for runs of four or more, and
    for an odd number of marks, as in "L'''idée''".
    """
    pieces = re.split(r"('{2,})", line)
    runs = {index: len(pieces[index]) for index in range(1, len(pieces), 2)}
    literal = {index: {4: 1}.get(size, max(size - 5, 0)) for index, size in runs.items()}
    sizes = {index: size - literal[index] for index, size in runs.items()}
    bold = [index for index, size in sizes.items() if size == 3]
    both = sum(size == 5 for size in sizes.values())
    if (len(bold) + both) % 2 and (sum(size == 2 for size in sizes.values()) + both) % 2 and bold:
        after_letter = [index for index in bold if re.search(r"(?:^|\s)\S$", pieces[index - 1])]
        after_word = [index for index in bold if not pieces[index - 1].endswith(" ")]
        literal[(after_letter or after_word or bold)[0]] += 1
    return "".join("'" * literal[index] if index in runs else piece for index, piece in enumerate(pieces))


def _lines(text: str, site: WikiSite) -> tuple[str, int]:
    """Paragraphs and headings with text under them, and the number of sentences dropped for a HOLE."""
    kept: list[str] = []
    skipping_level = dropped = 0
    numbers: dict[str, int] = {}  # of the items so far, by the marks of a numbered list
    pending: list[tuple[int, str]] = []  # headings without text so far
    list_mark = ""
    for line in _blocks(text):
        if line[0] == "=" and (heading := HEADING.match(line)):
            level, name = len(heading.group(1)), MARKS.sub("", heading.group(2)).strip()
            if skipping_level and level > skipping_level:
                continue
            skipping_level = level if name.lower().rstrip(":") in site.closed_sections else 0
            pending = [entry for entry in pending if entry[0] < level]
            if not skipping_level:
                pending.append((level, name))
                numbers = {}
            continue
        if skipping_level or line.startswith(PREFORMATTED):
            continue
        marks = found.group(1) if (found := LIST_MARK.match(line)) else ""
        line = line[found.end() :] if found else line
        if HOLE in line:
            line, count = _whole_sentences(line)
            dropped += count
        line = line.replace(GONE, "")
        if BREAK in line:
            line = "\n".join(filter(None, map(str.strip, line.split(BREAK))))
        if "  " in line:
            line = re.sub(r"  +", " ", line.strip())
        if not any(character.isalnum() for character in line):
            continue
        numbers = {key: number for key, number in numbers.items() if marks.startswith(key)}
        bullet = _bullet(marks, numbers)
        separator = "\n" if bullet and marks[0] == list_mark and not pending else "\n\n"
        kept += [*(f"\n\n{name}" for _, name in pending), f"{separator}{bullet}{line}"]
        list_mark, pending = marks[:1] if bullet else "", []
    return "".join(kept)[2:], dropped


def _bullet(marks: str, numbers: dict[str, int]) -> str:
    """What stands before a list item: "- " or its number, indented; nothing before terms and definitions."""
    indent = "  " * sum(mark in "*#" for mark in marks[:-1])
    if not marks or marks[-1] in ":;":
        return indent
    if marks[-1] == "*":
        return f"{indent}- "
    numbers[marks] = numbers.get(marks, 0) + 1
    return f"{indent}{numbers[marks]}. "


def _blocks(text: str) -> Iterator[str]:
    """Headings, list items, verbatim parts, and paragraphs: a line break alone does not end a paragraph."""
    paragraph: list[str] = []
    for raw in text.split("\n"):
        line = raw.strip()
        if line and not line.strip(f" {GONE}{HOLE}"):  # a box on a line of its own
            line = ""
        if line and raw[0] not in BLOCK_STARTS and not line.startswith(PREFORMATTED):
            paragraph.append(line)
            continue
        if paragraph:
            yield " ".join(paragraph)
            paragraph = []
        if line:
            yield line
    if paragraph:
        yield " ".join(paragraph)


def _whole_sentences(line: str) -> tuple[str, int]:
    """The sentences of a line in which nothing is missing, and the number of others. Brackets with a hole are removed."""
    if not any(character.isalnum() for character in line):
        return "", 0
    if CITED.match(line):
        return "", 1
    for _ in range(MAX_BRACKETS):
        line, found = UNKNOWN_INSIDE.subn("", line)
        if not found:
            break
    if HOLE not in line:
        return line, 0
    sentences, start = [""], 0
    for end in [*(match.end() for match in SENTENCE_START.finditer(line)), len(line)]:
        if sentences[-1] and not ABBREVIATED.search(sentences[-1][-12:].rstrip()):
            sentences.append("")
        sentences[-1] += line[start:end]
        start = end
    whole = [sentence for sentence in sentences if HOLE not in sentence]
    return "".join(whole).strip(), len(sentences) - len(whole)
