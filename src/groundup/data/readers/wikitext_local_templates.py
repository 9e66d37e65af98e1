"""Templates of Wikipedias in other languages that print words within a sentence.

Each is documented on its own wiki, such as https://fr.wikipedia.org/wiki/Modèle:Unité.
"""

import re
from collections.abc import Callable

from groundup.data.readers.measurements import superscript

LocalExpansion = Callable[[list[str], dict[str, str]], str | None]


def _value_and_unit(values: list[str], options: dict[str, str]) -> str | None:
    """`unité|5|km|2`: "5 km²"."""
    if not values:
        return None
    unit = "".join(superscript(value) if re.fullmatch(r"[-−]?\d", value) else value for value in values[1:])
    return f"{values[0]} {unit}".strip()


def _spaced(values: list[str], options: dict[str, str]) -> str | None:
    return " ".join(value for value in values if value) or None


def _first(values: list[str], options: dict[str, str]) -> str | None:
    return values[0] if values else options.get("texte") or options.get("text")


def _label(index: int) -> LocalExpansion:
    """The label of a link to an article of another wiki, at `index`, else the title."""

    def expand(values: list[str], options: dict[str, str]) -> str | None:
        given = options.get("label") or options.get("d") or (values[index] if len(values) > index else "")
        return given or (values[0] if values else None)

    return expand


def _foreign_text(values: list[str], options: dict[str, str]) -> str | None:
    return options.get("texte") or options.get("text") or (values[1] if len(values) > 1 else None)


def _quoted(opening: str, closing: str) -> LocalExpansion:
    def expand(values: list[str], options: dict[str, str]) -> str | None:
        text = next((options[key] for key in ("texte", "text", "Text", "текст", "testo") if key in options), None)
        text = text or (values[0] if values else None)
        return text and f"{opening}{text}{closing}"

    return expand


def _century(values: list[str], options: dict[str, str]) -> str | None:
    """`s|XIX|e`: "XIXe siècle"."""
    return f"{values[0]}{'er' if values[0] == 'I' else 'e'} siècle" if values else None


def _siglo(values: list[str], options: dict[str, str]) -> str | None:
    if not values:
        return None
    era = " a. C." if values[1:2] == ["a"] else ""
    return f"{'siglo ' if values[2:3] == ['s'] else 'Siglo ' if values[2:3] == ['S'] else ''}{values[0]}{era}"


def _reading(values: list[str], options: dict[str, str]) -> str | None:
    return f"{values[0]}（{values[1]}）" if len(values) > 1 else _first(values, options)


def _fixed(text: str) -> LocalExpansion:
    return lambda values, options: text


ORDINALS = {
    text: _fixed(text) for text in ("e", "er", "re", "ère", "ème", "1er", "1re", "2e", "3e", "nd", "nde", "os", "o")
}
LOCAL_TEMPLATES: dict[str, dict[str, LocalExpansion]] = {
    "fr": {
        **ORDINALS, **dict.fromkeys(("unité", "unite", "nb", "nombre", "heure"), _value_and_unit), "s": _century,
        "s-": _century,
        **dict.fromkeys(("date", "date-", "année", "nobr", "nobr romains", "souverain", "souverain-", "km"), _spaced),
        **dict.fromkeys(("citation", "citation étrangère", "cita"), _quoted("« ", " »")), "lang": _foreign_text,
        "langue": _foreign_text,
        **dict.fromkeys(("référence nécessaire", "refnec", "terme défini", "page h'", "romain", "rom", "pc"), _first),
        "exp": lambda values, options: superscript(values[0]) if values else None, "lien": _label(9),
        "n°": _fixed("nº "), "mme": _fixed("Mme"),
        "m.": _fixed("M."), "mlle": _fixed("Mlle"), "av jc": _fixed("av. J.-C."), "apr jc": _fixed("apr. J.-C."),
        "citation bloc": _first,
    },
    "es": {"siglo": _siglo, "unidad": _value_and_unit, "esd": _first, "cita": _first, "versalita": _first,
        "nowrap": _first, "ac": _fixed("a. C.")},
    "de": {"zitat": _quoted("„", "“"), "enS": _foreign_text, "laS": _foreign_text, "s": _fixed("s"),
        "b": _fixed("b"), "zahl": _first},
    "it": {"citazione": _quoted("«", "»"), "ac": _fixed("a.C."), "dc": _fixed("d.C."), "m": _value_and_unit,
        "tutto attaccato": _first},
    "ru": {
        **dict.fromkeys(("не переведено", "не переведено 2", "не переведено 3", "не переведено 4",
        "не переведено 5", "нп", "нп1", "нп2",
                         "нп3", "нп4", "нп5"), _label(1)),
        **dict.fromkeys(("s", "nobr", "число", "comment", "достоверность", "бс"), _first),
        "цитата": _quoted("«", "»"), "км": _fixed("км"),
    },
    "uk": {**dict.fromkeys(("нп", "нп5", "не перекладено", "нп3"), _label(1)), **dict.fromkeys(("s", "nobr",
        "число"), _first)},
    "ja": {"仮リンク": _label(9), **dict.fromkeys(("ruby", "読み仮名", "ruby-ja", "読み仮名 ruby不使用"), _reading),
        "lang": _foreign_text},
    "zh": {
        **dict.fromkeys(("link-en", "link-de", "link-fr", "link-ja", "link-ru", "le", "internal link helper/en"), _label(2)),
        "tsl": lambda values, options: next((value for value in reversed(values[1:]) if value), None),
        "translink": _label(2),
    },
}  # fmt: skip
"""By language and lower-case name."""

CONVERSION = re.compile(r"-\{(?:([^{}|]*)\|)?([^{}]*)\}-")
VARIANT = re.compile(r"\s*(?:zh|sr|kk|uz|ku)(?:-[a-z]+)+\s*:\s*([^;]*)")


def chosen_variant(match: re.Match[str]) -> str:
    """What `-{zh-hans:A; zh-hant:B}-` prints: the first variant; "" for rules without a place in the text."""
    flags, content = match.group(1) or "", match.group(2)
    if "H" in flags or "T" in flags or "-" in flags:
        return ""
    variants = VARIANT.findall(content)
    return variants[0].strip() if variants else content
