"""Public IP addresses, told from versions, section numbers, object identifiers and slices."""

import ipaddress
import re

IPV4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![A-Za-z]|[\d.]*\d)")
IPV6 = re.compile(r"[23](?<![\w:.][23])[0-9A-Fa-f]{3}:[0-9A-Fa-f]{1,4}(?::{1,2}[0-9A-Fa-f]{1,4}){1,6}(?:::)?(?![\w:])")
"""Public addresses begin with 2 or 3 (2000::/3, the only global unicast block that IANA allocates)."""

ADDRESS_BEFORE = re.compile(
    r"(?:\b(?:ip(?:v4)?|address(?:es)?|dns|ping|resolver|nameserver|router|gateway|inet|subnet|netmask)\b[^\n]{0,12}"
    r"|//|@)$",
    re.IGNORECASE,
)
ADDRESS_BEHIND = re.compile(r":\d{2,5}\b|/\d{1,2}\b(?!\.)")
VERSION_BEFORE = re.compile(
    r"(?:\b(?:version|release|revision|firmware|driver|update|upgrade|build|patch|oid|section|chapter|appendix|figure|table|"
    r"ver|rev|sec|v|r)\b[^\n]{0,8}|[=<>~^!]=\s?[\"']?|[\w)][-_/]|§\s?)$",
    re.IGNORECASE,
)
KNOWN_RESOLVERS = frozenset(["8.8.8.8", "8.8.4.4", "9.9.9.9"])
OBJECT_IDENTIFIER = re.compile(r"[012]\.\d+\.\d+\.\d+")
CONTEXT_CHARACTERS = 24


def is_public_ipv4(match: re.Match[str]) -> bool:
    """Whether four numbers are a public address: by their values and the words before them."""
    text = match.group()
    if not _is_global(text):
        return False
    before = match.string[max(match.start() - CONTEXT_CHARACTERS, 0) : match.start()]
    if VERSION_BEFORE.search(before) and not before.endswith("//"):
        return False
    if text in KNOWN_RESOLVERS or ADDRESS_BEFORE.search(before) or ADDRESS_BEHIND.match(match.string, match.end()):
        return True
    first, *rest = map(int, text.split("."))
    # A version or section number; 2% of addresses are lost with it.
    return not (OBJECT_IDENTIFIER.match(text) or rest[-1] == 0 or (first < 100 and sum(n < 20 for n in rest) > 1))


def is_public_ipv6(match: re.Match[str]) -> bool:
    """Whether groups of hexadecimal digits are a public address: complete, or with at least three groups."""
    return _is_global(match.group())


def _is_global(text: str) -> bool:
    try:
        address = ipaddress.ip_address(text)
    except ValueError:
        return False
    return address.is_global and not address.is_multicast
