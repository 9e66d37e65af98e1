"""Inline markup of reStructuredText: literals, roles, references, emphasis, substitutions, escapes."""

import re
from dataclasses import dataclass

from groundup.data.readers.measurements import subscript, superscript

MARKUP = re.compile(
    r"""(?=[`:*\[|_\\])(?:"""  # what all of it starts with
    r"""``(?P<literal>(?:[^`]|`(?!`))+)``"""
    r"""|(?<![\w:`]):(?P<role>(?:[a-zA-Z][\w+.-]*+:)++)`(?P<content>[^`]*+)`"""
    r"""|(?<!\w)`(?P<phrase>[^`]++)`(?::(?P<role_after>[a-zA-Z][\w:+.-]*+):|__?)?"""
    r"""|(?<![\w*])\*\*(?=\S)(?P<strong>(?:[^*]|\*(?!\*))++)\*\*(?![\w*])"""
    r"""|(?<![\w*])\*(?=[^\s*])(?P<emphasis>[^*]*[^\s*])\*(?![\w*])"""
    r"""|(?P<note>\[[#*]?[\w.-]*\])_(?!\w)"""
    r"""|(?<![\w|])\|(?P<substitution>[^|\s][^|\n]{0,60}?)\|(?:__?)?(?![\w|])"""
    r"""|(?P<reference>(?<=[^\W_])__?)(?!\w)"""
    r"""|\\(?P<escaped>.|\n))"""
)
WORD_BEFORE = re.compile(r"[\w.+:-]+$")
REPLACEMENT = re.compile(r"^ *\.\. +\|([^|\n]+)\| +replace:: *(.+(?:\n +\S.*)*)", re.MULTILINE)
TARGET = re.compile(r"^ *\.\. _`?([^`:\n]+)`?:", re.MULTILINE)
LABELLED_TITLE = re.compile(
    r"^ *\.\. _`?([^`:\n]+)`?:\n\n(?:[=\-~#*^\"]{3,}\n)?([^\n]+)\n([=\-~^\"'`#*+.:_])\3{2,}$", re.MULTILINE
)
PREFIXED_ROLES = {"rfc": "RFC ", "pep": "PEP ", "ticket": "#", "bpo": "bpo-", "cve": "CVE-", "issue": "#", "gh": "gh-"}


@dataclass(frozen=True)
class InlineMarkup:
    """What the markup within a paragraph refers to.

    Attributes:
        substitutions: texts of `|name|`.
        targets: lower-case names that `name_` may refer to.
        titles: of the labels that stand before a title.
    """

    substitutions: dict[str, str]
    targets: frozenset[str]
    titles: dict[str, str]

    @classmethod
    def of(cls, source: str) -> "InlineMarkup":
        """The definitions of a file."""
        found = (
            {name: " ".join(text.split()) for name, text in REPLACEMENT.findall(source)}
            if "replace::" in source
            else {}
        )
        titles = {label: title.strip() for label, title, _ in LABELLED_TITLE.findall(source)}
        return cls(found, frozenset(name.lower() for name in TARGET.findall(source)), titles)

    def to_text(self, text: str) -> str:
        """The text without markup."""
        return MARKUP.sub(self._shown, text).strip()

    def unescaped(self, text: str) -> str:
        """A signature: only backslashes are markup."""
        return re.sub(r"\\(.)", r"\1", text)

    def _shown(self, match: re.Match[str]) -> str:
        kind, found = match.lastgroup, match.groupdict()
        if found["content"] in self.titles and found["role"] in ("ref:", "std:ref:"):
            return self.titles[found["content"]].replace("`", "")
        if found["content"] is not None:
            return _role_text(found["role"].rstrip(":").rsplit(":", 1)[-1], found["content"])
        if found["phrase"] is not None:
            return _role_text(found["role_after"] or "", found["phrase"])
        if kind == "substitution":
            name = found["substitution"]
            return self.to_text(self.substitutions[name]) if name in self.substitutions else match.group()
        if kind == "reference":
            word = WORD_BEFORE.search(match.string[max(match.start() - 80, 0) : match.start()])
            return "" if word and word.group().lower() in self.targets else match.group()
        if kind == "escaped":
            return "" if found["escaped"].isspace() else found["escaped"]
        return str(found[kind or ""])


def _role_text(role: str, content: str) -> str:
    """What a role shows: the title of `title <target>`, the last name of `~a.b.c`."""
    titled = re.match(r"(.*?\S)\s*<[^<>]*>$", content, re.DOTALL)
    shown = titled.group(1) if titled else content
    shown = re.sub(r"\\(.)", lambda match: "" if match.group(1).isspace() else match.group(1), shown, flags=re.DOTALL)
    if role == "math":
        return f"${content}$"
    if role in ("sup", "superscript"):
        return superscript(shown)
    if role in ("sub", "subscript"):
        return subscript(shown)
    if titled or not role:
        return shown
    if role == "abbr":
        return shown.partition(" (")[0]
    if role == "cve" and shown.upper().startswith("CVE"):
        return shown
    if role in ("doc", "ref", "std:doc", "std:ref"):  # the title is in another file, and mostly has these words
        return re.sub(r"[-_]", " ", shown.removesuffix("/index").rsplit("/", 1)[-1])
    shown = shown.rsplit(".", 1)[-1] if shown.startswith("~") else shown.lstrip("!")
    is_call = role in ("func", "meth", "function", "method") and not shown.endswith(")")
    return PREFIXED_ROLES.get(role, "") + shown + ("()" if is_call else "")
