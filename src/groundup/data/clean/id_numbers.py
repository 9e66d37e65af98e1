"""Identity, account and payment card numbers, accepted by their checksums.

One random digit string in ten passes Luhn, so card numbers must also have an issuer's prefix and its length.
"""

import re

# Neither part of a longer number, name or exponent (6.10351563E-05), nor of a DOI or an address.
IBAN = re.compile(r"(?<![\w.,/+-])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![\w]|[+-]\d)")
DNI = re.compile(r"(?<![\w.,/+-])(\d{8})-?([A-HJ-NP-TV-Z])(?![\w]|[+-]\d)")
SSN = re.compile(r"(?<![\w./+-])(?!000|666|9)\d{3}-(?!00)\d{2}-(?!0000)\d{4}(?![\w/-]|\.\d)")
DNI_LETTERS = "TRWAGMYFPDXBNJZSQVHLCKE"
CPF = re.compile(r"\d{3}\.\d{3}\.\d{3}-\d{2}")

CARD = re.compile(
    r"(?:4\d{3}|5[1-5]\d\d|2[2-7]\d\d|6011|65\d\d|64[4-9]\d|35\d\d|62\d\d)([ -]?)\d{4}\1\d{4}\1\d{4}"
    r"|3[47]\d\d([ -]?)\d{6}\2\d{5}|3[068]\d\d([ -]?)\d{6}\3\d{4}"
)
"""Numbers of 16, 15 (American Express) or 14 digits (Diners Club), in one piece or in the usual groups."""


def is_card_number(text: str) -> bool:
    """Payment card number (ISO/IEC 7812-1) with an issuer's prefix, length and a valid checksum."""
    return CARD.fullmatch(text) is not None and is_valid_luhn(re.sub(r"\D", "", text))


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


def is_valid_dni(match: re.Match[str]) -> bool:
    """Control letter of a Spanish DNI: the number modulo 23."""
    return DNI_LETTERS[int(match.group(1)) % 23] == match.group(2)


def is_cpf(text: str) -> bool:
    """Brazilian CPF in its usual form, with valid check digits: weighted sums modulo 11."""
    if not CPF.fullmatch(text):
        return False
    digits = re.sub(r"\D", "", text)
    if len(set(digits)) == 1:
        return False
    for length in (9, 10):
        total = sum(int(digit) * (length + 1 - index) for index, digit in enumerate(digits[:length]))
        if int(digits[length]) != total * 10 % 11 % 10:
            return False
    return True
