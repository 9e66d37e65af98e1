"""Secrets: the keys and tokens that services issue, private keys, and passwords in URLs.

The forms are those of the services' documentation and of detect-secrets 1.5 (github.com/Yelp/detect-secrets, Apache-2.0).
"""

import re
from collections.abc import Callable

PEM_PART = "-----BEGIN"
PEM_BEGIN = r"-----BEGIN (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
PEM_END = r"-----END (?:[A-Z0-9]+ )*PRIVATE KEY(?: BLOCK)?-----"
PEM_BODY = r"(?:[^-]|-(?!----)){0,16384}+"
PEM_LINES = r"(?:(?:[\s\"'+,;>#*]|\\[nr]){0,8}+[A-Za-z0-9/+=]{16,}+)++"
"""Lines of a key that was cut off before its end."""

WORD_64 = "[A-Za-z0-9_-]"
SECRET_PATTERNS: dict[str, str] = {
    PEM_PART: rf"{PEM_BEGIN}(?:{PEM_BODY}{PEM_END}|{PEM_LINES})",
    "AKIA": r"AKIA[0-9A-Z]{16}\b",
    "ASIA": r"ASIA[0-9A-Z]{16}\b",
    "LTAI": r"LTAI[A-Za-z0-9]{16,24}\b",
    "ghp_": r"ghp_[A-Za-z0-9]{36,255}\b",
    "gho_": r"gho_[A-Za-z0-9]{36,255}\b",
    "ghu_": r"ghu_[A-Za-z0-9]{36,255}\b",
    "ghs_": r"ghs_[A-Za-z0-9]{36,255}\b",
    "ghr_": r"ghr_[A-Za-z0-9]{36,255}\b",
    "github_pat_": r"github_pat_[A-Za-z0-9_]{22,255}\b",
    "gl": r"gl(?:pat|dt|ft|soat|rt|ptt|cbt)-[A-Za-z0-9_-]{20,}",
    "xox": r"xox[abeposr]-[A-Za-z0-9-]{11,250}\b",
    "xapp-": r"xapp-\d-[A-Za-z0-9-]{20,250}\b",
    "hooks.slack.com/services/": r"hooks\.slack\.com/services/(T[A-Za-z0-9_]{6,}/B[A-Za-z0-9_]{6,}/[A-Za-z0-9_]{16,})",
    "/api/webhooks/": rf"/api/webhooks/(\d{{10,20}}/{WORD_64}{{40,}})",
    "AIza": r"AIza[0-9A-Za-z_-]{35}",
    "ya29.": r"ya29\.[0-9A-Za-z_-]{20,}",
    "GOCSPX-": r"GOCSPX-[A-Za-z0-9_-]{28}",
    "sk-": r"sk-(?:(?=[^\WA-Z]*(?:-[^\WA-Z]*)*[A-Z])(?=(?:[A-Za-z_-]*\d){2})[A-Za-z0-9_-]{20,}|[a-f0-9]{32,}\b)",
    "hf_": r"hf_[A-Za-z0-9]{30,}\b",
    "gsk_": r"gsk_[A-Za-z0-9]{40,}\b",
    "nvapi-": r"nvapi-[A-Za-z0-9_-]{40,}",
    "k_live_": r"[rs]k_live_[0-9a-zA-Z]{24,}\b",
    "k_test_": r"[rs]k_test_[0-9a-zA-Z]{24,}\b",
    "whsec_": r"whsec_[A-Za-z0-9+/]{24,}=*",
    "SG.": r"SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}",
    "-us": r"[0-9a-f]{32}-us\d{1,2}\b",
    "key-": r"key-[0-9a-f]{32}\b",
    "SK": r"SK[0-9a-f]{32}\b",
    "sq0": r"sq0(?:csp-[A-Za-z0-9_-]{43}|atp-[A-Za-z0-9_-]{22})",
    "shp": r"shp(?:at|ca|pa|ss)_[a-fA-F0-9]{32}\b",
    "dop_v1_": r"dop_v1_[a-f0-9]{64}\b",
    ":AA": r"\d{8,10}:AA[A-Za-z0-9_-]{33}\b",
    "npm_": r"npm_[A-Za-z0-9]{36}\b",
    "pypi-": r"pypi-[A-Za-z0-9_-]{50,}",
    "AGE-SECRET-KEY-1": r"AGE-SECRET-KEY-1[0-9A-Z]{58}\b",
    "eyJ": r"eyJ[A-Za-z0-9_-]{10,}\.eyJ[A-Za-z0-9_-]{10,}\.[A-Za-z0-9_-]{10,}",
    "earer ": r"[Bb]earer +((?=[^\s\"']*\d)[A-Za-z0-9._~+/-]{20,}=*)",
    "Basic ": r"Basic +((?=[^\s\"']*\d)[A-Za-z0-9+/]{16,}={0,2})(?![\w.])",
    "_authToken": r"_authToken ?= ?\"?([A-Fa-f0-9-]{36})\b",
    "AccountKey": r"AccountKey=([A-Za-z0-9+/]{86}==)",
    "SharedAccessKey": r"SharedAccessKey=([A-Za-z0-9+/]{43}=)",
    **dict.fromkeys(
        ("ecret_access_key", "ECRET_ACCESS_KEY", "ecretAccessKey", "ecret_key", "ECRET_KEY"),
        r"(?:[A-Za-z0-9_]{0,24}_)?(?i:secret_?(?:access_?)?key)[\"']?\]?(?:[ \t]*(?:=>?|:=?)[ \t]*|[ \t]+)[\"']?"
        r"((?=[A-Za-z/+]*\d)[A-Za-z0-9/+]{40})(?![A-Za-z0-9/+=])",
    ),
}  # fmt: skip
"""Fixed part -> pattern. Texts without the part are not searched. The secret is group 1, else all of the match."""

SECRET_REGEXES = {part: re.compile(rf"(?<![A-Za-z0-9_-]){pattern}") for part, pattern in SECRET_PATTERNS.items()}
URL_CREDENTIALS = re.compile(r"(?<=://)[^\s/:@\[\]<>{}]{1,64}:([^\s/:@]{1,128})(?=@)")
PLACEHOLDER = re.compile(r"[$%{<\[*].*|(?i:pass(?:word|wd)?|pwd|pw|secret|token|your.*|x+|\.{3}|foo|bar)[\]>}]?")
"""Passwords of examples: http://user:password@host."""


LONG_RUN = b"x" * 16
RUN_TABLE = bytes(
    byte if byte == 10 else ord("x") if chr(byte).isalnum() or byte in b"_-/+" else 0 for byte in range(128)
) + bytes(128)
"""Letters, digits and the signs of Base64 as x. Each pattern but that of private keys needs a run of 16, which few lines have."""


def replace_secrets(text: str, replace: Callable[[re.Match[str]], str]) -> str:
    """The text with `replace` applied to each match; in a match with a group, to the group only."""

    def replace_match(match: re.Match[str]) -> str:
        if not match.lastindex:
            return replace(match)
        start, end = (position - match.start() for position in match.span(1))
        whole = match.group()
        return whole[:start] + replace(match) + whole[end:]

    def replace_keys(line: str) -> str:
        for part, pattern in SECRET_REGEXES.items():
            if part in line:
                line = pattern.sub(replace_match, line)
        return line

    if PEM_PART in text:
        text = SECRET_REGEXES[PEM_PART].sub(replace_match, text)
    text = _change_lines_with_runs(text, replace_keys)
    if "://" in text and "@" in text:
        text = URL_CREDENTIALS.sub(
            lambda match: match.group() if PLACEHOLDER.fullmatch(match.group(1)) else replace(match), text
        )
    return text


def _change_lines_with_runs(text: str, change: Callable[[str], str]) -> str:
    data = text.encode("utf-8", "surrogatepass")
    marked = data.translate(RUN_TABLE)
    parts: list[bytes] = []
    position = 0
    while (found := marked.find(LONG_RUN, position)) >= 0:
        start = max(marked.rfind(b"\n", position, found) + 1, position)
        end = marked.find(b"\n", found)
        end = len(data) if end < 0 else end
        line = data[start:end].decode("utf-8", "surrogatepass")
        if (changed := change(line)) != line:
            parts += [data[position:start], changed.encode("utf-8", "surrogatepass")]
        else:
            parts.append(data[position:end])
        position = end
    return b"".join([*parts, data[position:]]).decode("utf-8", "surrogatepass") if parts else text
