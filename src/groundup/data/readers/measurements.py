"""Measurements in wikitext: `convert` as a value with its unit, `val` as a number with uncertainty, exponent and unit.

Documented at https://en.wikipedia.org/wiki/Template:Convert and Template:Val. Of `convert` the given value is printed, not
the conversion: "5 to 7 kilograms".
"""

import re

NUMBER = re.compile(r"[+\-−–]?[\d,]*\.?\d+(?:e[+\-−]?\d+)?(?:\+?\d+/+\d+)?|[+\-−–]?\d+/+\d+|[\d,]+\.?", re.IGNORECASE)
RANGES = {
    "to": " to ", "-": "–", "–": "–", "to(-)": " to ", "to-": " to ", "and": " and ", "and(-)": " and ", "by": " by ",
    "or": " or ", "x": " × ", "xx": " × ", "×": " × ", "*": " × ", "+/-": " ± ", "±": " ± ", "+": " + ", "&": " and ",
}  # fmt: skip
UNITS = {
    "m": ("m", "metre"), "meter": ("m", "meter"), "km": ("km", "kilometre"), "cm": ("cm", "centimetre"),
    "mm": ("mm", "millimetre"), "µm": ("μm", "micrometre"), "um": ("μm", "micrometre"), "nm": ("nm", "nanometre"),
    "mi": ("mi", "mile"), "yd": ("yd", "yard"), "ft": ("ft", "foot/feet"), "foot": ("ft", "foot/foot"),
    "in": ("in", "inch/inches"), "nmi": ("nmi", "nautical mile"), "au": ("au", "astronomical unit"),
    "ly": ("ly", "light-year"), "pc": ("pc", "parsec"), "fathom": ("fathom", "fathom"),
    "furlong": ("furlong", "furlong"),
    "km2": ("km²", "square kilometre"), "m2": ("m²", "square metre"), "cm2": ("cm²", "square centimetre"),
    "mm2": ("mm²", "square millimetre"), "sqkm": ("km²", "square kilometre"), "sqm": ("m²", "square metre"),
    "sqmi": ("sq mi", "square mile"), "mi2": ("sq mi", "square mile"), "sqft": ("sq ft", "square foot/square feet"),
    "ft2": ("sq ft", "square foot/square feet"), "sqin": ("sq in", "square inch/square inches"),
    "sqyd": ("sq yd", "square yard"), "ha": ("ha", "hectare"), "acre": ("acre", "acre"), "acres": ("acres", "acre"),
    "m3": ("m³", "cubic metre"), "cm3": ("cm³", "cubic centimetre"), "km3": ("km³", "cubic kilometre"),
    "cc": ("cc", "cubic centimetre"), "cuft": ("cu ft", "cubic foot/cubic feet"),
    "ft3": ("cu ft", "cubic foot/cubic feet"),
    "cuin": ("cu in", "cubic inch/cubic inches"), "cumi": ("cu mi", "cubic mile"), "cuyd": ("cu yd", "cubic yard"),
    "l": ("L", "litre"), "ml": ("mL", "millilitre"), "usgal": ("US gal", "US gallon"), "gal": ("gal", "gallon"),
    "impgal": ("imp gal", "imperial gallon"), "oilbbl": ("bbl", "barrel"), "usoz": ("US fl oz", "US fluid ounce"),
    "kg": ("kg", "kilogram"), "g": ("g", "gram"), "mg": ("mg", "milligram"), "t": ("t", "tonne"),
    "mt": ("t", "metric ton"),
    "lb": ("lb", "pound"), "lbs": ("lb", "pound"), "oz": ("oz", "ounce"), "st": ("st", "stone/stone"),
    "lt": ("long ton", "long ton"), "ton": ("ton", "ton"), "tons": ("tons", "ton"),
    "short ton": ("short ton", "short ton"),
    "long ton": ("long ton", "long ton"), "kmh": ("km/h", "kilometre/kilometres per hour"),
    "km/h": ("km/h", "kilometre/kilometres per hour"), "mph": ("mph", "mile/miles per hour"),
    "m/s": ("m/s", "metre/metres per second"), "km/s": ("km/s", "kilometre/kilometres per second"),
    "ft/s": ("ft/s", "foot/feet per second"), "kn": ("kn", "knot"), "knot": ("kn", "knot"), "knots": ("kn", "knot"),
    "kw": ("kW", "kilowatt"), "mw": ("MW", "megawatt"), "w": ("W", "watt"), "hp": ("hp", "horsepower/horsepower"),
    "bhp": ("bhp", "brake horsepower/brake horsepower"), "ps": ("PS", "metric horsepower/metric horsepower"),
    "kpa": ("kPa", "kilopascal"), "mpa": ("MPa", "megapascal"), "gpa": ("GPa", "gigapascal"), "pa": ("Pa", "pascal"),
    "hpa": ("hPa", "hectopascal"), "psi": ("psi", "pound/pounds per square inch"), "bar": ("bar", "bar"),
    "mbar": ("mbar", "millibar"), "atm": ("atm", "atmosphere"), "inhg": ("inHg", "inch/inches of mercury"),
    "j": ("J", "joule"), "kj": ("kJ", "kilojoule"), "mj": ("MJ", "megajoule"), "kwh": ("kWh", "kilowatt-hour"),
    "cal": ("cal", "calorie"), "kcal": ("kcal", "kilocalorie"), "btu": ("BTU", "British thermal unit"),
    "ev": ("eV", "electronvolt"),
    "n": ("N", "newton"), "ft.lbf": ("ft⋅lbf", "foot-pound"),
    "lb.ft": ("lb⋅ft", "pound-foot/pound-feet"), "pd/sqmi": ("/sq mi", "inhabitants per square mile"),
    "/sqmi": ("/sq mi", "per square mile/per square mile"),
    "/km2": ("/km²", "per square kilometre/per square kilometre"),
    "pd/km2": ("/km²", "inhabitants per square kilometre/inhabitants per square kilometre"),
    "g/cm3": ("g/cm³", "gram/grams per cubic centimetre"), "kg/m3": ("kg/m³", "kilogram/kilograms per cubic metre"),
    "mpgus": ("mpg‑US", "mile/miles per US gallon"), "l/100km": ("L/100 km", "litre/litres per 100 kilometres"),
    "cuft/s": ("cu ft/s", "cubic foot/cubic feet per second"), "m3/s": ("m³/s", "cubic metre/cubic metres per second"),
    "c": ("°C", "°C"), "°c": ("°C", "°C"), "f": ("°F", "°F"), "°f": ("°F", "°F"), "k": ("K", "K"),
    "c-change": ("°C", "°C"),
    "f-change": ("°F", "°F"),
}  # fmt: skip
"""Code in lower case: symbol, and name (singular/plural; an "s" is appended where only one is given)."""

SUPERSCRIPTS = str.maketrans("0123456789+-−()=n", "⁰¹²³⁴⁵⁶⁷⁸⁹⁺⁻⁻⁽⁾⁼ⁿ")
SUBSCRIPTS = str.maketrans("0123456789+-−()=", "₀₁₂₃₄₅₆₇₈₉₊₋₋₍₎₌")
ORDINALS = frozenset(["st", "nd", "rd", "th", "e", "er", "re", "ème", "eme", "o", "a", "os", "as"])


def superscript(text: str) -> str:
    """Superscript characters where Unicode has them ("10⁵"), ordinals as they are ("19th"), else "^".

    >>> superscript("-31"), superscript("th"), superscript("x+1")
    ('⁻³¹', 'th', '^(x+1)')
    """
    if text in ORDINALS or not text.strip():
        return text
    raised = text.translate(SUPERSCRIPTS)
    if not set(raised) & set(text):
        return raised
    if text.isalpha():
        return text if len(text) > 1 else f"^{text}"
    return f"^({text})"


def subscript(text: str) -> str:
    """Subscript digits: "H₂O"; other text as it is."""
    lowered = text.translate(SUBSCRIPTS)
    return text if set(lowered) & set(text) else lowered


def grouped(number: str, comma: str = ",") -> str:
    """A number with its thousands parted: "12,345.678"."""
    sign, digits, rest = re.fullmatch(r"(\D*)(\d*)(.*)", number, re.DOTALL).groups()  # type: ignore[union-attr]
    return f"{sign}{int(digits):,}{rest}".replace(",", comma) if len(digits) > 3 and digits[0] != "0" else number


def convert(arguments: list[str], options: dict[str, str]) -> str | None:
    """The value and unit that a `convert` was given; None if it prints only the conversion, or its form is unknown."""
    display = options.get("disp", "")
    if display in ("out", "output only", "number", "output number only", "unit", "unit2", "x", "preunit"):
        return None
    spelled = options.get("abbr") not in ("on", "in", "values", "mos")
    adjective = options.get("adj") in ("on", "mid", "pre", "1") or options.get("adj", "").startswith("ri")
    parts: list[str] = []
    rest = list(arguments)
    while rest:
        pieces = _value(rest)
        if pieces is None or not rest:
            return None
        if rest[0] in RANGES:
            parts += [pieces, RANGES[rest.pop(0)]]
            continue
        unit = rest.pop(0)
        if not re.search(r"[A-Za-z°µ/]", unit):
            return None
        parts.append(_measure(pieces, unit, spelled, adjective))
        if len(rest) >= 2 and NUMBER.fullmatch(rest[0]) and rest[1].lower() in UNITS:  # 6|ft|4|in
            parts.append(" ")
            continue
        if len(rest) >= 2 and rest[0] in RANGES and NUMBER.fullmatch(rest[1]):  # 10|km|to|20|km
            parts.append(RANGES[rest.pop(0)])
            continue
        return "".join(parts)
    return None


def _value(rest: list[str]) -> str | None:
    if not rest or not NUMBER.fullmatch(rest[0]):
        return None
    value = re.sub(r"(?<=\d)\+(?=\d)", " ", rest.pop(0)).replace("//", "/")
    return re.sub(r"^-", "−", grouped(value)) if "," not in value else value


def _measure(value: str, unit: str, spelled: bool, adjective: bool) -> str:
    symbol, name = UNITS.get(unit.lower(), (unit, ""))
    if not name or not spelled or name.startswith("°") or name == "K":
        return f"{value}{symbol}" if symbol.startswith("/") else f"{value} {symbol}"
    one, _, many = name.partition("/")
    rate = re.search(r" per .*| of .*", many)  # "mile/miles per hour"
    singular = one + rate.group() if rate and " per " not in one else one
    if adjective:
        return f"{value}-{singular.replace(' ', '-')}"
    is_one = value in ("1", "−1") or re.fullmatch(r"[−]?\d+/\d+", value)
    return f"{value} {singular if is_one else many or one + ('' if one.endswith('s') else 's')}"


def value_with_unit(arguments: list[str], options: dict[str, str]) -> str | None:
    """`val`: "9.109(11)×10⁻³¹ kg"."""
    if not arguments and "e" not in options:
        return None
    number = arguments[0] if arguments else ""
    text = grouped(number) if options.get("fmt") == "commas" else number
    rest = arguments[1:]
    if len(rest) == 2 and rest[0].startswith("+"):
        text += "".join(rest)
    elif rest and rest[0]:
        text += rest[0] if rest[0].startswith("(") else f"±{rest[0]}"
    if "e" in options:
        power = "10" + superscript(options["e"])
        text = f"({text})×{power}" if "±" in text else f"{text}×{power}" if text else power
    unit = options.get("u") or options.get("ul") or ""
    if per := options.get("up") or options.get("upl"):
        unit = f"{unit}/{per}"
    unit = re.sub(r"(?<=[A-Za-zμ])([+\-−]?\d+)", lambda match: superscript(match.group()), unit.replace(".", "⋅"))
    text = re.sub(r"^-|(?<=[\d)])-(?=\d)", "−", text)
    separator = "" if unit[:1] in ("%", "°", "/") and not unit.startswith(("°C", "°F")) else " "
    return f"{options.get('p', '')}{text}{separator + unit if unit else ''}{options.get('s', '')}"
