"""Personal data to tokens: a model must not learn whom to write to."""

import re

EMAIL = re.compile(r"\b[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}[A-Za-z]{2,24}\b")
IPV4 = re.compile(r"(?<![\d.])(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)\.){3}(?:25[0-5]|2[0-4]\d|1?\d?\d)(?![\d.])")
PHONE = re.compile(r"(?<![\w.+-])\+\d{1,3}[ .-]?(?:\(\d{1,4}\)[ .-]?)?\d{1,4}(?:[ .-]\d{2,4}){2,4}(?![\w-])")


def replace_private(text: str) -> str:
    """`text` with addresses and numbers of people replaced by <email>, <ip> and <phone>."""
    if "@" in text:
        text = EMAIL.sub("<email>", text)
    return PHONE.sub("<phone>", IPV4.sub("<ip>", text))
