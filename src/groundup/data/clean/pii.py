"""PII masking: replace personal data and secrets by tokens such as <email>."""

import re
from collections.abc import Callable, Iterable
from typing import Any, overload

from groundup.artifacts.arguments import apply_to_texts
from groundup.artifacts.progress import Progress
from groundup.data.clean.id_numbers import DNI, IBAN, SSN, is_card_number, is_cpf, is_valid_dni, is_valid_iban
from groundup.data.clean.ip_addresses import IPV4, IPV6, is_public_ipv4, is_public_ipv6
from groundup.data.clean.phone_numbers import NUMBER, is_phone_number
from groundup.data.clean.secret_patterns import replace_secrets
from groundup.recipe.data_config import PiiConfig

LETTERS = "A-Za-z\u00aa-\u00ba\u00c0-\u00d6\u00d8-\u00f6\u00f8-\u052f\u05d0-\u05ea\u0620-\u064a\u0900-\u0dff"
"""Letters of addresses: alphabets, not the scripts that put no space before an address."""

EMAIL = re.compile(
    rf"(?<![{LETTERS}0-9._%+-])(?:[{LETTERS}0-9_](?:[{LETTERS}0-9.&'~%_+-]{{0,62}}[{LETTERS}0-9_+-])?)"
    rf"@(?:[{LETTERS}0-9](?:[{LETTERS}0-9-]{{0,61}}[{LETTERS}0-9])?\.){{1,8}}"
    rf"(xn--[a-z0-9-]{{2,59}}|[{LETTERS}]{{2,24}})(?![{LETTERS}0-9_]|[.-][{LETTERS}0-9])"
)
NOT_DOMAINS = frozenset([
    "png", "jpg", "jpeg", "gif", "svg", "webp", "bmp", "tif", "tiff", "ico", "css", "js", "json", "html", "htm", "xml", "yml",
    "yaml", "txt", "service", "socket", "mount", "timer", "target", "conf", "dtype", "shape", "local", "localhost", "internal",
])  # fmt: skip
"""Endings that are no top-level domains: files (image@2x.png), units of systemd, attributes of a matrix product."""

SHARED_ACCOUNTS = frozenset(["git", "hg", "svn", "cvs", "anoncvs", "anonymous"])

DOI = re.compile(r"\b10\.\d{4,9}/")
DIGIT = "0-9\u0660-\u0669\u06f0-\u06f9\u0966-\u096f\uff10-\uff19"
DIGITS = re.compile(f"[{DIGIT}][{DIGIT} .()/\\-‐‑–\u3000－]{{4,}}[{DIGIT}]")
"""Necessary condition of all number patterns; most lines fail it and are skipped."""

AT = re.compile("@")


@overload
def mask_pii(
    text: str, counts: dict[str, int] | None = None, *, progress: Progress | None = None, **knobs: Any
) -> str: ...
@overload
def mask_pii(
    text: Iterable[str], counts: dict[str, int] | None = None, *, progress: Progress | None = None, **knobs: Any
) -> list[str]: ...
def mask_pii(
    text: str | Iterable[str], counts: dict[str, int] | None = None, *, progress: Progress | None = None, **knobs: Any
) -> str | list[str]:
    """Replace personal data and secrets by tokens in a text, or in each of several; `knobs` as in [data.pii]: kinds, all true
    by default, and tokens.

    Replacements are added to `counts` by kind. Of IP addresses only public ones are replaced.

    >>> mask_pii("Write to jane@example.org.")
    'Write to <email>.'
    >>> mask_pii(["Write to jane@example.org.", "Or not."], tokens={"email": "[mail]"})
    ['Write to [mail].', 'Or not.']
    >>> mask_pii("Write to jane@example.org.", emails=False)
    'Write to jane@example.org.'
    """
    return apply_to_texts(pii_mapper(PiiConfig(**knobs), counts), text, "masking", progress)


def pii_mapper(config: PiiConfig, counts: dict[str, int] | None = None) -> Callable[[str], str]:
    """Mapper for the enabled kinds of personal data; adds the replacements to `counts` by kind."""
    replaced = {} if counts is None else counts
    tokens: dict[str, str] = config.tokens.model_dump()

    def replacement(
        kind: str, accept: Callable[[re.Match[str]], bool] = lambda match: True
    ) -> Callable[[re.Match[str]], str]:
        def replace(match: re.Match[str]) -> str:
            if not accept(match):
                return match.group()
            replaced[kind] = replaced.get(kind, 0) + 1
            return tokens[kind]

        return replace

    ipv4, ipv6 = replacement("ip", is_public_ipv4), replacement("ip", is_public_ipv6)
    iban = replacement("id_number", lambda match: is_valid_iban(match.group()))
    dni, ssn = replacement("id_number", is_valid_dni), replacement("id_number")
    email, secret = replacement("email", _is_email), replacement("secret")
    number_kinds = (
        (config.cards, replacement("card", lambda match: is_card_number(match.group()))),
        (config.id_numbers, replacement("id_number", lambda match: is_cpf(match.group()))),
        (config.phones, replacement("phone", is_phone_number)),
    )
    replace_number = [replace for enabled, replace in number_kinds if enabled]

    def number(match: re.Match[str]) -> str:
        text = match.group()
        if not (_is_in_url(match) or _is_in_doi(match)):
            for replace in replace_number:
                if (after := replace(match)) != text:
                    return after
        return text

    def numbers(line: str) -> str:
        if config.id_numbers:
            line = SSN.sub(ssn, IBAN.sub(iban, DNI.sub(dni, line)))
        if config.ips:
            line = IPV4.sub(ipv4, line)
        return NUMBER.sub(number, line) if replace_number else line

    def mask(text: str) -> str:
        if config.secrets:
            text = replace_secrets(text, secret)
        if config.emails and "@" in text:
            text = _change_lines(text, AT, lambda line: EMAIL.sub(email, line))
        if config.ips and text.count(":") > 2:
            text = IPV6.sub(ipv6, text)
        return _change_lines(text, DIGITS, numbers)

    return mask


def _change_lines(text: str, pattern: re.Pattern[str], change: Callable[[str], str]) -> str:
    """The text with the lines changed that hold a match."""
    parts, position = [], 0
    for match in pattern.finditer(text):
        if match.start() >= position:
            start = max(text.rfind("\n", position, match.start()) + 1, position)
            end = text.find("\n", match.end())
            end = len(text) if end < 0 else end
            parts += [text[position:start], change(text[start:end])]
            position = end
    return "".join([*parts, text[position:]]) if parts else text


def _is_email(match: re.Match[str]) -> bool:
    """False for accounts that everybody shares (git@github.com), file names, products of matrices (a@b.mean()), and
    passwords before a host (http://user:password@host.example).
    """
    account = match.group().partition("@")[0]
    if account in SHARED_ACCOUNTS or match.group(1).lower() in NOT_DOMAINS:
        return False
    return match.string[match.end() : match.end() + 1] not in ("(", "[") and not _is_in_url(match)


def _is_in_url(match: re.Match[str]) -> bool:
    return "://" in _word_before(match)


def _is_in_doi(match: re.Match[str]) -> bool:
    return DOI.search(_word_before(match) + match.group()) is not None


def _word_before(match: re.Match[str]) -> str:
    """What precedes the match without a space, up to 200 characters."""
    words = match.string[max(match.start() - 200, 0) : match.start() + 1].split()
    return words[-1][:-1] if words else ""
