"""PII masking: replace personal data and secrets by tokens such as <email>.

Numbers need a valid checksum where their kind has one. One random digit string in ten passes Luhn, so card numbers
must also start with an issuer prefix.
"""

import ipaddress
import re
from collections.abc import Callable

from groundup.recipe.data_config import PiiConfig

PII_TOKENS = ("<email>", "<phone>", "<ip>", "<card>", "<id>", "<secret>")
"""The replacement tokens."""

EMAIL = re.compile(r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z]|[\d.]*\d)")
IPV6 = re.compile(r"(?<![\w:.])(?:[0-9A-Fa-f]{0,4}:){2,7}[0-9A-Fa-f]{0,4}(?![\w:])")
NUMBER = re.compile(r"(?<![\w.,+/])(?<!\d-)\+?\(?\d(?:(?: ?\(|\) ?|[ .\-/])?\d){7,19}(?!(?!x\d)[\w.,-]*\d)")
PHONE_CONTEXT = re.compile(
    r"\b(?:tel|ph|phone|telephone|mob|mobile|cell|fax|voice|call|calling|dial|dialing)\b[^\n]{0,12}$", re.IGNORECASE
)
NORTH_AMERICAN_PHONE = re.compile(r"(?:1[-. ]?)?(?:\([2-9]\d\d\) ?|[2-9]\d\d[-.])[2-9]\d\d[-. ]\d{4}")
"""Area code and exchange of the North American numbering plan, which begin with neither 0 nor 1."""
DATE = re.compile(r"\d/\d{1,2}/\d|\d{4}-\d\d-\d\d")
IBAN = re.compile(r"\b[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?\b")
DNI = re.compile(r"\b(\d{8})-?([A-HJ-NP-TV-Z])\b")
SSN = re.compile(r"(?<![\w-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w-])")
SECRET_PATTERNS = {
    "-----BEGIN": r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----(?:[^-]|-(?!----)){0,8192}+-----END (?:[A-Z]+ )*PRIVATE KEY-----",
    "AKIA": r"AKIA[0-9A-Z]{16}\b",
    "ASIA": r"ASIA[0-9A-Z]{16}\b",
    "ghp_": r"ghp_[A-Za-z0-9]{36,255}\b",
    "gho_": r"gho_[A-Za-z0-9]{36,255}\b",
    "ghs_": r"ghs_[A-Za-z0-9]{36,255}\b",
    "github_pat_": r"github_pat_[A-Za-z0-9_]{22,255}\b",
    "glpat-": r"glpat-[A-Za-z0-9_-]{20,}",
    "xox": r"xox[abposr]-[A-Za-z0-9-]{10,250}\b",
    "AIza": r"AIza[0-9A-Za-z_-]{35}",
    "sk-": r"sk-(?=[A-Za-z_-]*\d)[A-Za-z0-9_-]{20,}",
    "hf_": r"hf_[A-Za-z0-9]{30,}\b",
    "sk_live_": r"sk_live_[0-9a-zA-Z]{24,}\b",
    "npm_": r"npm_[A-Za-z0-9]{36}\b",
    "pypi-": r"pypi-[A-Za-z0-9_-]{50,}",
    "eyJ": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
}
"""Fixed prefix -> pattern of the keys that a service issues. Texts without the prefix are not searched."""

SECRET_REGEXES = {prefix: re.compile(rf"(?<![A-Za-z0-9_-]){pattern}") for prefix, pattern in SECRET_PATTERNS.items()}
URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/:@]{1,64}:[^\s/:@]{1,128}(?=@)")

DIGITS = re.compile(r"\d[\d .()/-]{5,}\d")
"""Necessary condition of all number patterns; most lines fail it and are skipped."""

DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
CARD_GROUPS = re.compile(r"\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{1,7}|\d{4}([ -])\d{6}\2\d{4,5}")
"""Card numbers without separators, or in the usual groups with single spaces or hyphens."""

CPF = re.compile(r"\d{3}\.\d{3}\.\d{3}-\d{2}")
CARD_STARTS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|3[068]|6(?:011|5|4[4-9])|35|62")


def mask_pii(text: str, **kinds: bool) -> str:
    """Replace personal data and secrets by tokens; `kinds` as in [data.pii], all true by default.

    Of IP addresses only public ones are replaced.

    >>> mask_pii("Write to jane@example.org.")
    'Write to <email>.'
    >>> mask_pii("Write to jane@example.org.", emails=False)
    'Write to jane@example.org.'
    """
    return pii_mapper(PiiConfig(**kinds))(text)


def pii_mapper(config: PiiConfig) -> Callable[[str], str]:
    """Mapper for the enabled kinds of personal data."""

    def numbers(line: str) -> str:
        if config.id_numbers:
            line = SSN.sub("<id>", IBAN.sub(_replace_iban, DNI.sub(_replace_dni, line)))
        if config.ips:
            line = IPV4.sub(_replace_ip, line)
        if config.cards or config.phones or config.id_numbers:
            line = NUMBER.sub(lambda match: _replace_number(match, config), line)
        return line

    def replace(text: str) -> str:
        if config.secrets:
            for prefix, pattern in SECRET_REGEXES.items():
                if prefix in text:
                    text = pattern.sub("<secret>", text)
        if config.secrets and "://" in text and "@" in text:
            text = URL_CREDENTIALS.sub("<secret>", text)
        if config.emails and "@" in text:
            text = EMAIL.sub("<email>", text)
        if config.ips and text.count(":") > 3:
            text = IPV6.sub(_replace_ip, text)
        if DIGITS.search(text):
            text = "\n".join(numbers(line) if DIGITS.search(line) else line for line in text.split("\n"))
        return text

    return replace


def _replace_ip(match: re.Match[str]) -> str:
    parts = match.group().split(".")
    if len(parts[0]) == 1 and sum(int(part) < 20 for part in parts[1:]) > 1:
        return match.group()  # a version or section number; 2% of addresses like 1.2.3.4 are lost with it
    try:
        return "<ip>" if ipaddress.ip_address(match.group()).is_global else match.group()
    except ValueError:
        return match.group()


def _replace_number(match: re.Match[str], config: PiiConfig) -> str:
    text = match.group()
    digits = re.sub(r"\D", "", text)
    if config.cards and CARD_STARTS.match(digits) and CARD_GROUPS.fullmatch(text) and is_valid_luhn(digits):
        return "<card>"
    if config.id_numbers and CPF.fullmatch(text) and is_valid_cpf(digits):
        return "<id>"
    is_other = DATE.search(text) or IPV4.fullmatch(text.strip("()"))
    if config.phones and 8 <= len(digits) <= 15 and not is_other:
        before = match.string[max(match.start() - 24, 0) : match.start()]
        if text.startswith("+") or PHONE_CONTEXT.search(before):
            return "<phone>"
        if NORTH_AMERICAN_PHONE.fullmatch(text) or NORTH_AMERICAN_PHONE.fullmatch(text.lstrip("(")):
            return "<phone>"
    return text


def _replace_iban(match: re.Match[str]) -> str:
    return "<id>" if is_valid_iban(match.group()) else match.group()


def _replace_dni(match: re.Match[str]) -> str:
    return "<id>" if DNI_LETTERS[int(match.group(1)) % 23] == match.group(2) else match.group()


def is_valid_luhn(digits: str) -> bool:
    """Luhn checksum (ISO/IEC 7812-1, annex B)."""
    total = 0
    for index, digit in enumerate(reversed(digits)):
        value = int(digit) * (1 + index % 2)
        total += value - 9 * (value > 9)
    return total % 10 == 0


def is_valid_iban(text: str) -> bool:
    """IBAN checksum (ISO 13616): first four characters moved to the end, letters as 10 to 35; 1 modulo 97."""
    compact = text.replace(" ", "")
    if not 15 <= len(compact) <= 34:
        return False
    return int("".join(str(int(character, 36)) for character in compact[4:] + compact[:4])) % 97 == 1


def is_valid_cpf(digits: str) -> bool:
    """Check digits of a Brazilian CPF: weighted sums modulo 11."""
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - index) for index, digit in enumerate(digits[:length]))
        if int(digits[length]) != total * 10 % 11 % 10:
            return False
    return True
