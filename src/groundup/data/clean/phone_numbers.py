"""Telephone numbers, validated by Google's libphonenumber (the numbering plan of every country)."""

import re
from functools import lru_cache

NUMBER = re.compile(
    r"(?<![\w.,+/])(?<!\d[-–])(?:\+ ?)?\(?\d(?:(?: ?\(|\)[ .\-]?|[ .\-/‐‑–－]|(?<=\d) - )?\d){6,19}(?!(?!x\d)[\w.,-]*\d|\.[a-z])"
)
CONTEXT = re.compile(
    r"(?<![^\W\d_])(?:"
    r"tel|tél|ph|phones?|telephone|telefono|teléfono|telefone|téléphone|telefax|telefon[a-z]{0,4}|puhelin|mobiel|tlf|tfno|"
    r"mob|mobile?|móvil|movil|celular|cell|cellulare|handy|fax|voice|call|calling|dial|dialing|whatsapp|fone|rufnummer|"
    r"hotline|тел|телефон[а-я]{0,3}|факс|моб|τηλ|τηλέφωνο|טלפון|تلفن|هاتف|फ़ोन|फोन"
    r")(?:[^\w\n]{1,4}(?:is|at|no|nr|number|nummer|numéro|número|us|me|on|home|work|office|toll|free|or|my|our|номер))"
    r"{0,3}[^\w\n]{0,4}$"
    r"|(?:[☎☏📞📱✆]|電話|电话|手机|手機|携帯|传真|傳真|热线|熱線|전화|연락처|휴대폰|팩스|โทร)"
    r"(?:番号|号码|號碼|号|번호|是|は|는)?[^\w\n]{0,4}$",
    re.IGNORECASE,
)
"""Words before a number in national form."""

CONTEXT_CHARACTERS = 28
NORTH_AMERICAN = re.compile(
    r"(?:\+?1[-. ]?)?(?:\([2-9]\d\d\)[ -]{0,2}[2-9]\d\d[- ]\d{4}|[2-9]\d\d([-.])[2-9]\d\d\1\d{4})"
)
"""Area code and exchange of the North American numbering plan, which begin with neither 0 nor 1."""

NORTH_AMERICAN_DIGITS = re.compile(r"1?[2-9]\d\d[2-9]\d{6}")
DATE = re.compile(r"\d/\d{1,2}/\d|(?:19|20)\d\d[-./]\d\d?[-./]\d\d?\b|\b\d\d?[-./]\d\d?[-./](?:19|20)\d\d")
FOUR_NUMBERS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}")
EAST_ASIAN = re.compile("[\u3040-\u30ff\u4e00-\u9fff\uac00-\ud7af]")
EAST_ASIAN_REGIONS = ("JP", "CN", "KR", "TW", "HK")
GROUPED = re.compile(r"\(?0\d{1,4}\)?[-‐‑–－ ]?\d{2,4}[-‐‑–－ ]\d{4}|1[3-9]\d[- ]\d{4}[- ]\d{4}|0\d{2,3}[-－]\d{7,8}")
REGIONS = (
    "US", "GB", "DE", "FR", "ES", "IT", "NL", "BE", "AT", "CH", "PT", "PL", "CZ", "SE", "NO", "DK", "FI", "HU", "RO", "GR",
    "RU", "UA", "BG", "TR", "IL", "IR", "SA", "EG", "IN", "PK", "TH", "ID", "JP", "CN", "KR", "TW", "HK", "BR", "MX", "AR",
    "CO", "CL", "AU", "NZ", "ZA", "IE",
)  # fmt: skip
"""Countries whose national forms are tried for a number behind one of the words."""


def is_phone_number(match: re.Match[str]) -> bool:
    """Whether a match of NUMBER is a telephone number.

    International form (+49, 0049): valid in its country. National form: behind a word such as `phone`, valid in one of
    REGIONS; without one only in the North American form (415-555-2671), and in text of East Asia in the groups used there.
    """
    text = match.group()
    digits = re.sub(r"\D", "", text)
    if not 7 <= len(digits) <= 15 or DATE.search(text) or FOUR_NUMBERS.fullmatch(text.strip("()")):
        return False
    before = match.string[max(match.start() - CONTEXT_CHARACTERS, 0) : match.start()]
    has_context = CONTEXT.search(before) is not None
    if text.startswith("+ ") and not has_context:  # a sum
        return False
    if text.startswith("+"):
        return _is_valid("+" + digits, None) or (has_context and len(digits) > 7 and digits[0] != "0")
    if text.startswith("00") and digits[2] != "0" and (has_context or len(text) > len(digits)):
        return _is_valid("+" + digits[2:], None)
    if NORTH_AMERICAN.fullmatch(text) or NORTH_AMERICAN.fullmatch(text.lstrip("(")):
        return True
    if has_context:
        if text.count("/") > 1:  # speeds of a fax machine: 2400/9600/14400
            return False
        return NORTH_AMERICAN_DIGITS.fullmatch(digits) is not None or any(_is_valid(text, region) for region in REGIONS)
    if GROUPED.fullmatch(text) and EAST_ASIAN.search(_line(match)):
        return any(_is_valid(text, region) for region in EAST_ASIAN_REGIONS)
    return False


def _line(match: re.Match[str]) -> str:
    """Up to 200 characters around the match, within its line."""
    start = max(match.string.rfind("\n", 0, match.start()) + 1, match.start() - 100)
    end = match.string.find("\n", match.end())
    return match.string[start : min(end if end >= 0 else match.end() + 100, match.end() + 100)]


@lru_cache(1 << 14)
def _is_valid(number: str, region: str | None) -> bool:
    import phonenumbers

    try:
        return phonenumbers.is_valid_number(phonenumbers.parse(number, region))
    except phonenumbers.NumberParseException:
        return False
