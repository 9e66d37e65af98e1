"""Templates of Wikipedia that print words within a sentence, and how they print them.

Each is documented on its page, such as https://en.wikipedia.org/wiki/Template:Convert. Most other templates print boxes,
notes and navigation; of the ones that print words and are not listed here, `wikitext.py` drops the sentence.
"""

import re
from collections.abc import Callable

from groundup.data.readers.measurements import convert, grouped, subscript, superscript, value_with_unit
from groundup.data.readers.wikitext_local_templates import LOCAL_TEMPLATES

GONE, HOLE, BREAK = "\x01", "\x02", "\x03"
"""Marks in the text: something that prints no words was here; something unknown that may print words; a line break."""

Expansion = Callable[[list[str], dict[str, str]], str | None]
"""Unnamed and named arguments to the printed text; None if this use is not known."""


def _argument(index: int, format: str = "{}") -> Expansion:
    def expand(values: list[str], options: dict[str, str]) -> str | None:
        value = values[index] if len(values) > index else options.get(str(index + 1))
        return None if value is None else format.format(value)

    return expand


def _last(values: list[str], options: dict[str, str]) -> str | None:
    return next((value for value in reversed(values) if value), None)


def _constant(text: str) -> Expansion:
    return lambda values, options: text


def _joined(separator: str, format: str = "{}") -> Expansion:
    return lambda values, options: format.format(separator.join(value for value in values if value)) if values else None


def _fraction(values: list[str], options: dict[str, str]) -> str | None:
    match [value for value in values if value]:
        case [below]:
            return f"1/{below}"
        case [above, below]:
            return f"{above}/{below}"
        case [whole, above, below]:
            return f"{whole} {above}/{below}"
    return None


def _language(values: list[str], options: dict[str, str]) -> str | None:
    """`langx|ru|text|translit|translation`."""
    if len(values) < 2:
        return None
    name = LANGUAGES.get(values[0].lower().split("-")[0])
    label = f"{name}: " if name and options.get("label", "yes") not in ("none", "") else ""
    rest = [value for value in values[2:3] if value]
    meant = values[3] if len(values) > 3 else options.get("lit", options.get("translation", ""))
    meaning = [f"'{meant}'"] if meant else []
    return label + ", ".join([values[1], *rest, *meaning])


def _chinese(values: list[str], options: dict[str, str]) -> str | None:
    labels = {"c": "Chinese", "s": "simplified Chinese", "t": "traditional Chinese", "p": "pinyin", "w": "Wade–Giles",
              "j": "Jyutping", "poj": "Pe̍h-ōe-jī", "l": "lit."}  # fmt: skip
    found = [f"{label}: {options[key]}" for key, label in labels.items() if options.get(key)]
    return "; ".join(found) or (values[0] if values else None)


def _nihongo(values: list[str], options: dict[str, str]) -> str | None:
    if not values:
        return None
    inside = ", ".join(value for value in values[1:4] if value)
    return " ".join(part for part in (values[0], f"({inside})" if inside else "", *values[4:5]) if part)


def _nihongo3(values: list[str], options: dict[str, str]) -> str | None:
    return _nihongo([values[0], values[1], values[2]], options) if len(values) > 2 else _nihongo(values, options)


def _ipa(values: list[str], options: dict[str, str]) -> str | None:
    if len(values) > 1 and re.fullmatch(r"[a-z]{2,3}(-[\w-]+)?", values[0]):
        return values[1] if values[1][:1] in "/[" else f"[{values[1]}]"
    return values[0] if values else None


def _ipa_of_language(values: list[str], options: dict[str, str]) -> str | None:
    return f"[{values[0]}]" if values and values[0] else None


def _ipa_symbols(values: list[str], options: dict[str, str]) -> str | None:
    labels = ("uk", "us", "lang", "pron", "also", "local", "ukalso", "usalso", "icon")
    shown = [value for value in values if value.lower() not in labels and not value.endswith((".ogg", ".wav"))]
    return f"/{''.join(shown).replace('_', ' ')}/" if shown else None


def _formula(values: list[str], options: dict[str, str]) -> str | None:
    parts = [subscript(value) if re.fullmatch(r"[\d.]+", value) else value for value in values]
    return "".join(parts) or None


def _formula2(values: list[str], options: dict[str, str]) -> str | None:
    return re.sub(r"(?<=[A-Za-z)\]])\d+", lambda match: subscript(match.group()), values[0]) if values else None


def _script(values: list[str], options: dict[str, str]) -> str | None:
    return superscript(values[0]) + "".join(map(subscript, values[1:2])) if values else None


def _money(sign: str) -> Expansion:
    return lambda values, options: f"{sign}{values[0]}" if values and values[0] else sign


def _ship(prefix: str) -> Expansion:
    def expand(values: list[str], options: dict[str, str]) -> str | None:
        if not values:
            return None
        hull = f" ({values[1]})" if len(values) > 1 and values[1] else ""
        match values[2] if len(values) > 2 else "":
            case "2" | "6":
                return values[0] if values[2] == "6" else f"{prefix} {values[0]}"
            case "3":
                return f"{values[0]}{hull}"
            case "5":
                return values[1]
        return f"{prefix} {values[0]}{hull}"

    return expand


def _harvard(format: str) -> Expansion:
    def expand(values: list[str], options: dict[str, str]) -> str | None:
        if len(values) < 2:
            return None
        pages = f", p. {options['p']}" if "p" in options else f", pp. {options['pp']}" if "pp" in options else ""
        *names, year = values
        several = " et al." if len(names) > 3 else ""
        names = names[:1] if several else names
        text = " & ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names) + several
        return format.format(text, year, pages)

    return expand


def _coordinates(values: list[str], options: dict[str, str]) -> str | None:
    if "inline" not in options.get("display", "inline"):
        return GONE
    numbers = [value for value in values if re.fullmatch(r"-?[\d.]+|[NSEW]", value)]
    marks, text, place = ("°", "′", "″"), "", 0
    for value in numbers:
        if value in "NSEW":
            text, place = f"{text}{value} ", 0
        else:
            text, place = text + value + marks[min(place, 2)], place + 1
    return text.strip() if len(numbers) > 3 else ", ".join(numbers) or None


def _track_gauge(values: list[str], options: dict[str, str]) -> str | None:
    found = re.fullmatch(r"(\d+) ?mm", values[0]) if values else None
    return f"{grouped(found.group(1))} mm" if found else None


def _as_of(values: list[str], options: dict[str, str]) -> str | None:
    if alt := options.get("alt"):
        return alt
    months = ("January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
              "November", "December")  # fmt: skip
    date = [months[int(part) - 1] if place == 1 and part in map(str, range(1, 13)) else part
            for place, part in enumerate(values[:3])]  # fmt: skip
    start = "since" if "since" in options else "as of"
    return f"{start if 'lc' in options else start.capitalize()} {' '.join(reversed(date))}" if values else None


def _quotation(values: list[str], options: dict[str, str]) -> str | None:
    text = options.get("text") or options.get("quote") or (values[0] if values else None)
    author = options.get("author") or options.get("sign") or (values[1] if len(values) > 1 else "")
    return text and f"\n\n{text}{f'{BREAK}— {author}' if author else ''}\n\n"


def _sic(values: list[str], options: dict[str, str]) -> str | None:
    text = "".join(value for value in values if value)
    return text if text and options.get("hide") in ("y", "yes") else f"{text} [sic]".strip()


def _interwiki(values: list[str], options: dict[str, str]) -> str | None:
    """A link to another wiki or article: its label, else its target."""
    shown = options.get("lt") or options.get("label") or (_last(values[:2], options) if values else None)
    return shown and shown.removesuffix("!")


def _missing_article(values: list[str], options: dict[str, str]) -> str | None:
    return options.get("lt") or (values[0] if values else None)


LANGUAGES = {
    "ar": "Arabic", "az": "Azerbaijani", "bg": "Bulgarian", "bn": "Bengali", "ca": "Catalan", "cs": "Czech",
    "cy": "Welsh",
    "da": "Danish", "de": "German", "el": "Greek", "eo": "Esperanto", "es": "Spanish", "et": "Estonian", "eu": "Basque",
    "fa": "Persian", "fi": "Finnish", "fr": "French", "ga": "Irish", "gd": "Scottish Gaelic", "grc": "Ancient Greek",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "hy": "Armenian", "id": "Indonesian",
    "is": "Icelandic", "it": "Italian", "ja": "Japanese", "ka": "Georgian", "ko": "Korean", "la": "Latin",
    "lt": "Lithuanian", "lv": "Latvian", "mk": "Macedonian", "nl": "Dutch", "no": "Norwegian", "pl": "Polish",
    "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sa": "Sanskrit", "sk": "Slovak", "sl": "Slovene",
    "sq": "Albanian", "sr": "Serbian", "sv": "Swedish", "ta": "Tamil", "th": "Thai", "tr": "Turkish", "uk": "Ukrainian",
    "ur": "Urdu", "vi": "Vietnamese", "zh": "Chinese",
}  # fmt: skip

FIRST = (
    "nowrap nobr nwr nobreak small smaller big bigger large larger resize abbr abbrlink tooltip ipalink angle vr keypress key "
    "mono code codett kbd samp var mvar math sc smallcaps sc2 em strong bold italic noitalic nobold underline strikethrough "
    "annotated_link vanchor visible_anchor unicode script native_name zwnj isup linktext not_a_typo proper_name as_written "
    "script/arabic script/hebrew script/cuneiform script/nastaliq rtl-para ubl no_italics center mlm "
    "nihongo2 lang1 font_color color background_color highlight text poem poemquote notatypo flag flagcountry flagu flag_country"
)
TEMPLATES: dict[str, Expansion] = {
    **dict.fromkeys(FIRST.replace("_", " ").split(" "), _argument(0)),
    **dict.fromkeys(("lang", "rtl-lang", "lang-x"), _argument(1)),
    **dict.fromkeys(("langx", "language with name"), _language),
    **dict.fromkeys(("transl", "transliteration", "translit"), _last), "iast": _argument(0), "zh": _chinese,
    "lang-zh": _chinese,
    "nihongo": _nihongo, "nihongo krt": _nihongo, "nihongo3": _nihongo3, "ill": _missing_article,
    "illm": _missing_article,
    "interlanguage link": _missing_article, "link-interwiki": _missing_article,
    "interlanguage link multi": _missing_article,
    **dict.fromkeys(("w", "wikt", "link", "iw", "wp", "section link", "slink", "see", "wikisource link"), _interwiki),
    "ipa": _ipa, "ipac-en": _ipa_symbols, "ipac": _ipa_symbols, "ipaslink": _argument(0, "/{}/"),
    "ipablink": _argument(0, "[{}]"),
    "angbr": _argument(0, "⟨{}⟩"), "angle bracket": _argument(0, "⟨{}⟩"), "respell": _joined("-"),
    "grapheme": _argument(0, "⟨{}⟩"),
    **dict.fromkeys(("convert", "cvt"), convert), "val": value_with_unit,
    **dict.fromkeys(("frac", "sfrac", "fraction", "fracsl"), _fraction),
    **dict.fromkeys(("formatnum", "num", "nts", "number"), lambda values, options: grouped(values[0]) if values else None),
    "e": lambda values, options: f"×10{superscript(values[0])}" if values else None,
    "x10^": lambda values, options: f"×10{superscript(values[0])}" if values else None,
    "10^": lambda values, options: f"10{superscript(values[0])}" if values else None,
    "sub": lambda values, options: subscript(values[0]) if values else None,
    "sup": lambda values, options: superscript(values[0]) if values else None, "su": _script,
    "chem": _formula, "chem2": _formula2, "ce": _formula2, "sqrt": _argument(0, "√{}"), "radic": _argument(0, "√{}"),
    "overline": _argument(0), "abs": _argument(0, "|{}|"), "floor": _argument(0, "⌊{}⌋"), "ceil": _argument(0, "⌈{}⌉"),
    **dict.fromkeys(("circa", "c.", "ca."), lambda values, options: "c. " + " – ".join(values) if values else "c."),
    "floruit": _argument(0, "fl. {}"), "fl.": _argument(0, "fl. {}"), "born in": _argument(0, "b. {}"),
    "reign": _joined("–", "r. {}"),
    "music": lambda values, options: MUSIC.get(values[0]) if values else None, "legend": _argument(1),
    "railgauge": _track_gauge, "track gauge": _track_gauge, "as of": _as_of, "sic": _sic, "coord": _coordinates,
    **dict.fromkeys(("quote", "blockquote", "quotation", "cquote", "quote box", "rquote", "bquote"), _quotation),
    **dict.fromkeys(("us$", "usd"), _money("US$")), **dict.fromkeys(("£", "gbp", "pound sterling", "gb£"), _money("£")),
    **dict.fromkeys(("€", "eur", "euro"), _money("€")), **dict.fromkeys(("a$", "aud"), _money("A$")),
    "cad": _money("C$"),
    "ca$": _money("C$"), "inr": _money("₹"), "¥": _money("¥"), "jpy": _money("¥"), "₩": _money("₩"), "$": _money("$"),
    **{prefix.lower(): _ship(prefix) for prefix in ("USS", "HMS", "SS", "RMS", "HMAS", "HMCS", "SMS", "USCGC", "USNS", "MS")},
    "mv": _ship("MV"), "harvnb": _harvard("{} {}{}"), "harv": _harvard("({} {}{})"), "harvtxt": _harvard("{} ({}{})"),
    "harvcol": _harvard("({} {}{})"), "p.": _argument(0, "p. {}"), "pp.": _joined("–", "pp. {}"),
    "vol.": _argument(0, "vol. {}"),
    "isbn": _argument(0, "ISBN {}"), "oclc": _argument(0, "OCLC {}"), "doi": _argument(0, "doi:{}"),
    "us patent": _argument(0, "U.S. Patent {}"),
    "bibleref": _joined(" "), "bibleref2": _joined(" "), "bibleverse": lambda values,
    options: " ".join(filter(None, values[:3])) or None,
    "lc": lambda values, options: values[0].lower() if values else None, "uc": lambda values,
    options: values[0].upper() if values else None,
    "lcfirst": lambda values, options: values[0][:1].lower() + values[0][1:] if values else None,
    "ucfirst": lambda values, options: values[0][:1].upper() + values[0][1:] if values else None,
    "hlist": _joined(", "), "flatlist": _argument(0), "plainlist": _argument(0), "unbulleted list": _joined(", "),
    "csv": _joined(", "),
    "nowrap begin": _constant(""), "nowrap end": _constant(""), "lrm": _constant(""), "zwj": _constant("\u200d"),
    "zwsp": _constant(""),
}  # fmt: skip

CHARACTERS = {
    "ndash": "–", "en dash": "–", "–": "–", "mdash": "—", "em dash": "—", "snd": " – ", "spnd": " – ", "snds": " – ",
    "dash": " – ",
    "spaced ndash": " – ", "spaced en dash": " – ", "mdashb": "—", "spaced em dash": " — ", "nbsp": " ", "space": " ",
    "spaces": " ",
    "thinsp": " ", "thin space": " ", "hair space": " ", "hairsp": " ", "nbs": " ", "'": "'", "\"'": "\"'",
    "'\"": "'\"", "'s": "'s",
    "'-": "'", "-'": "'", "' \"": "' \"", "pipe": "|", "!": "|", "=": "=", "(": "{", ")": "}", "((": "{{", "))": "}}",
    "!!": "||",
    "·": " · ", "•": " • ", "bullet": "•", "dot": " · ", "middot": "·", "pi": "π", "deg": "°", "prime": "′", "±": "±",
    "pm": "±",
    "+-": "±", "times": "×", "minus": "−", "sect": "§", "section sign": "§", "sharp": "♯", "flat": "♭",
    "natural": "♮", "music": "♪",
    "hash": "#", "number sign": "#", "asterisk": "*", "*": "*", "ell": "ℓ", "hbar": "ħ", "alpha": "α", "beta": "β",
    "gamma": "γ",
    "okina": "ʻ", "hamza": "ʾ", "ayin": "ʿ", "shy": "", "wbr": "", "i sup": "i", "...": "...", "ellipsis": "…",
    "sp": " ", ",": ",",
    "square bracket open": "[", "bracket": "[ ]", "tilde": "~", "backslash": "\\", "colon": ":", "en": "–", "em": "—",
    "break": BREAK, "br": BREAK, "crlf": BREAK, "pb": "\n\n", "paragraph break": "\n\n", "par": "\n\n", "clear": GONE,
}  # fmt: skip

MUSIC = {"flat": "♭", "b": "♭", "sharp": "♯", "#": "♯", "natural": "♮", "doubleflat": "𝄫", "doublesharp": "𝄪"}

NO_WORDS = re.compile(
    r"(?:citation needed|cn|fact|clarify|clarification|who|when|which|where|what|why|how|whom|by whom|according to whom|dubious|"
    r"disputed|weasel|vague|specify|page needed|better source|verify|verification|failed verification|unreliable|dead link|full|"
    r"update|outdated|unreferenced|refn|efn|notetag|note|ref|ref label|rp|sfn|sfnp|sfnm|r|anchor|anchors|or|pov|opinion|"
    r"toc\b|reflist|notelist|portal|commons|sister|flagicon|flagdeco|icon|image|listen|audio|pp-|use [dmb]|pron-en|synthesis|"
    r"original research|attribution|peacock|editorializing|jargon|expand|non-primary|primary|third|lead|importance|undue|"
    r"disambiguation|dn\b|fix|refbegin|refend|col-|div col|end|wayback|webarchive|small caps|coord missing|good article|"
    r"featured|short description|defaultsort|displaytitle|dead|subscription|registration|clear|-|in lang|main|"
    r"see also|further|redirect|about|hatnote|for|distinguish|other uses|sort|dmoz|lsj|oetymd|eqm|ov|epc)"
    r"(?:[\s\-:/?].*|needed|span|inline)?|[a-z]{2,3}(?:-\w+)? icon|.*\b(?:icon|stub|navbox|sidebar|infobox|needed|inline)"
)
"""Names, in lower case, of templates that print no words of the sentence: notes, warnings, navigation."""


def expand_template(content: str, title: str = "", language: str = "en") -> str:
    """Printed text of `{{content}}`; GONE if it prints no words, HOLE if what it prints is unknown.

    >>> expand_template("convert|6|ft|4|in|cm"), expand_template("lang-ru|мир"), expand_template("frac|3|1|2")
    ('6 feet 4 inches', 'Russian: мир', '3 1/2')
    """
    name, *arguments = content.split("|")
    name = name.strip().replace("_", " ")
    key = name.lower().removeprefix("template:")
    if not arguments and key in CHARACTERS:
        return CHARACTERS[key]
    function, colon, first = name.partition(":")
    if colon and function.lower() in ("formatnum", "lc", "uc", "lcfirst", "ucfirst", "nowrap"):
        key, arguments = function.lower(), [first, *arguments]
    elif key in ("pagename", "fullpagename", "basepagename", "subpagename"):
        return title or HOLE
    values, options = _parse_arguments(arguments)
    local = LOCAL_TEMPLATES.get(language.partition("-")[0], {})
    expansion = local.get(key) or TEMPLATES.get(key)
    if expansion is None and key.startswith("lang-"):
        values, expansion = [key[5:], *values], _language
    elif expansion is None and key.startswith("ipa-"):
        expansion = _ipa_of_language
    if expansion is _language and language not in ("en", "simple", ""):
        options["label"] = "none"  # it is written in the language of the wiki
    if expansion is not None:
        try:
            printed = expansion(values, options)
        except (IndexError, ValueError):
            printed = None
        return HOLE if printed is None else printed
    return GONE if NO_WORDS.fullmatch(key) else HOLE


def _parse_arguments(arguments: list[str]) -> tuple[list[str], dict[str, str]]:
    """Unnamed arguments in order, also those named "1", "2" ..., and named ones."""
    values: list[str] = []
    options: dict[str, str] = {}
    for argument in arguments:
        name, equals, value = argument.partition("=")
        if not equals or not re.fullmatch(r"\s*[\w \-]+\s*", name):
            values.append(argument.strip())
        else:
            options[name.strip()] = value.strip()
    while (key := str(len(values) + 1)) in options:
        values.append(options.pop(key))
    return values, options
