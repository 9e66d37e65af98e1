"""False hits and misses of the rules that change text: personal data, mojibake repair, detection of character sets.

    python benchmarks/text_rules.py 'German:man/de/**/*.gz' 'numpy:numpy/**/*.py' --show phone

False hits: replacements per million characters in files without personal data, by corpus and kind; `--show KIND` prints each
with its context, for judgement. CODATA is scipy.constants, written as a table. Misses: telephone numbers of every country
from libphonenumber's examples, addresses, keys of each secret pattern, and the corpora themselves in wrong encodings.
"""

import argparse
import glob
import gzip
import random
import re
import string
import time
from collections import Counter
from collections.abc import Iterable
from datetime import date
from pathlib import Path

import phonenumbers

from groundup.artifacts.machine import processor_name
from groundup.data import mask_pii
from groundup.data.clean.normalize import repair_mojibake
from groundup.data.readers.encoding import decode_bytes

KINDS = ("email", "phone", "ip", "card", "id_number", "secret")
MAX_CHARACTERS = 10_000_000
CONTEXT = 40
CHARSETS = {
    "German": ("cp1252", "iso8859-15"), "French": ("cp1252",), "Spanish": ("cp1252",), "Catalan": ("cp1252",),
    "Polish": ("iso8859-2", "cp1250"), "Japanese": ("shift_jis", "euc_jp"), "Chinese": ("gb18030", "big5"),
    "Russian": ("koi8-r", "cp1251", "cp866"), "Persian": (),
}  # fmt: skip
ALPHABETS = {"d": string.digits, "h": "0123456789abcdef", "u": string.ascii_uppercase + string.digits,
             "w": string.ascii_letters + string.digits}  # fmt: skip
SECRETS = {
    "AWS key": "AKIA{u16}", "AWS secret": "aws_secret_access_key = {w40}", "GitHub": "ghp_{w36}", "GitLab": "glpat-{w20}",
    "Slack token": "xoxb-{d12}-{d12}-{w24}", "Slack webhook": "https://hooks.slack.com/services/T{u9}/B{u9}/{w24}",
    "Stripe": "sk_live_{w24}", "Stripe restricted": "rk_live_{w24}", "SendGrid": "SG.{w22}.{w43}", "Google key": "AIza{w35}",
    "Google token": "ya29.{w80}", "Azure": "AccountKey={w86}==", "bearer": "Authorization: Bearer {w40}", "npm": "npm_{w36}",
    "OpenAI": "sk-proj-{w48}", "Hugging Face": "hf_{w34}", "Mailchimp": "{h32}-us12", "Twilio": "SK{h32}", "Telegram":
    "{d9}:AA{w33}", "URL": "postgres://app:{w12}@db.example.org/x", 
    "truncated RSA": "-----BEGIN RSA PRIVATE KEY-----\n{w64}\n{w64}",
    "PGP": "-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{w64}\n-----END PGP PRIVATE KEY BLOCK-----",
}  # fmt: skip
EMAILS = (
    "jane.doe@example.org",
    "josé@ejemplo.es",
    "user@müller.de",
    "o'brien@x.org",
    "a+b@mail.example.co.uk",
    "почта@пример.рф",
)
COUNTRY_WORDS = {
    "DE": "Telefon: ", "AT": "Tel.: ", "FR": "Tél. : ", "ES": "Teléfono: ", "IT": "Tel. ", "PT": "Telefone: ", 
    "RU": "Тел.: ", "JP": "電話：", "CN": "电话：", "TW": "電話：", "KR": "전화: ", "GB": "call me on ",
    "US": "call me at ", "BR": "Fone: ",
    "PL": "tel. ",
    "NL": "tel. ", "IN": "Mobile: ", "IR": "تلفن: ", "GR": "Τηλ. ", "IL": "טלפון: ",
}  # fmt: skip


def read_corpus(pattern: str) -> list[str]:
    texts, size = [], 0
    for path in sorted(glob.glob(pattern, recursive=True)):
        if Path(path).is_file() and size < MAX_CHARACTERS:
            data = Path(path).read_bytes()
            text = decode_bytes(gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).text
            texts.append(re.sub(r"<[^>]{1,300}>", " ", text) if path.endswith("html") else text)
            size += len(text)
    return texts


def codata() -> list[str]:
    from scipy.constants import physical_constants

    rows = (f"{name:60} {value!r:>26} {unit} {error!r}" for name, (value, unit, error) in physical_constants.items())
    digits = ("{:,.12f}", "{:.10E}", "{:.8g}")
    more = (form.format(value).replace(",", " ") for form in digits for value, _, _ in physical_constants.values())
    return ["\n".join([*rows, *more])]


def mark_tokens() -> dict[str, str]:
    """A token of one private-use character for each kind."""
    return {kind: chr(0xE000 + number) for number, kind in enumerate(KINDS)}


def false_hits(texts: list[str], show: str | None) -> tuple[Counter[str], int]:
    counts: Counter[str] = Counter()
    tokens = mark_tokens()
    for text in texts:
        found: dict[str, int] = {}
        after = mask_pii(text, found, tokens=tokens)
        counts.update(found)
        if show in tokens:
            for match in re.finditer(tokens[show], after):
                print("   ", " ".join(f"{after[max(match.start() - CONTEXT, 0) : match.start()]}⟦{show}⟧"
                                      f"{after[match.end() : match.end() + CONTEXT]}".split()))  # fmt: skip
        repaired = repair_mojibake(text)
        changed = [pair for pair in zip(text.split("\n"), repaired.split("\n"), strict=True) if pair[0] != pair[1]]
        counts["mojibake"] += len(changed)
        if show == "mojibake":
            for before, line in changed:
                print("   ", before[:100], "->", line[:100])
    return counts, sum(map(len, texts))


def misses(cases: Iterable[str]) -> tuple[int, int, list[str]]:
    """(missed, all, examples): a case is missed if masking leaves it unchanged."""
    listed = list(cases)
    missed = [case for case in listed if mask_pii(case) == case]
    return len(missed), len(listed), missed[:3]


def phone_cases(national: bool) -> Iterable[str]:
    """An example number of every country, or those of COUNTRY_WORDS in national form behind a word."""
    types = (phonenumbers.PhoneNumberType.FIXED_LINE, phonenumbers.PhoneNumberType.MOBILE)
    regions = COUNTRY_WORDS if national else sorted(phonenumbers.SUPPORTED_REGIONS)
    form = phonenumbers.PhoneNumberFormat.NATIONAL if national else phonenumbers.PhoneNumberFormat.INTERNATIONAL
    for region in regions:
        for kind in types:
            if number := phonenumbers.example_number_for_type(region, kind):
                word = COUNTRY_WORDS[region] if national else "Reach us under "
                yield f"{word}{phonenumbers.format_number(number, form)}."


def secret_cases(pattern: str, generator: random.Random, count: int = 50) -> Iterable[str]:
    def draw(match: re.Match[str]) -> str:
        return "".join(generator.choices(ALPHABETS[match.group(1)], k=int(match.group(2))))

    return (f"x = {re.sub('{([a-z])([0-9]+)}', draw, pattern)}" for _ in range(count))


def ip_cases(generator: random.Random, count: int = 500) -> Iterable[str]:
    for _ in range(count):
        first = generator.choice([n for n in range(1, 224) if n not in (10, 100, 127, 169, 172, 192, 198, 203)])
        yield f"Seen {first}.{'.'.join(str(generator.randrange(256)) for _ in range(3))} twice."


def wrong_encodings(name: str, texts: list[str]) -> None:
    """Lines in wrong encodings that are repaired, and pieces in other character sets that are decoded."""
    plain = [line for text in texts for line in text.split("\n") if not line.isascii() and 40 < len(line) < 400][:2000]
    broken = [(line, line.encode().decode("cp1252")) for line in plain if _is_decodable(line.encode())]
    repaired = sum(repair_mojibake(bad) == line for line, bad in broken)
    results = [f"mojibake repaired {repaired:,} of {len(broken):,}"]
    for charset in CHARSETS[name]:
        for length in (200, 2000):
            whole = "\n".join(plain).encode(charset, "ignore").decode(charset)
            pieces = [whole[start : start + length] for start in range(0, len(whole) - length, length)][:200]
            right = sum(decode_bytes(piece.encode(charset)).text == piece for piece in pieces)
            results.append(f"{charset} in pieces of {length:,}: {right} of {len(pieces)}")
    print(f"{name}: {'; '.join(results)}")


def _is_decodable(data: bytes) -> bool:
    try:
        data.decode("cp1252")
    except UnicodeDecodeError:
        return False
    return True


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("corpora", nargs="+", help="NAME:GLOB")
    parser.add_argument("--show", choices=[*KINDS, "mojibake"])
    options = parser.parse_args()
    print(f"{date.today()}, {processor_name()}, one core\n\nReplacements per million characters")
    print(f"{'corpus':12}{'M chars':>9}" + "".join(f"{kind:>11}" for kind in (*KINDS, "mojibake")) + f"{'MB/s':>9}")
    corpora = {name: read_corpus(pattern) for name, _, pattern in (each.partition(":") for each in options.corpora)}
    for name, texts in {**corpora, "CODATA": codata()}.items():
        began = time.process_time()
        counts, size = false_hits(texts, options.show)
        speed = sum(len(text.encode()) for text in texts) / 1e6 / (time.process_time() - began)
        numbers = "".join(f"{1e6 * counts[kind] / size:11.2f}" for kind in (*KINDS, "mojibake"))
        print(f"{name:12}{size / 1e6:9.2f}{numbers}{speed:9.1f}")
    generator = random.Random(0)
    print("\nMisses of planted cases")
    planted = {
        "e-mail": (f"Write to {address}, please." for address in EMAILS),
        "phone, international form, all countries": phone_cases(False),
        "phone, national form behind a word": phone_cases(True),
        "IPv4": ip_cases(generator),
        **{f"secret: {name}": secret_cases(pattern, generator) for name, pattern in SECRETS.items()},
    }
    for name, cases in planted.items():
        missed, total, examples = misses(cases)
        print(f"{name:42}{missed:5} of {total:4} {examples if missed else ''}")
    print("\nWrong encodings")
    for name in CHARSETS.keys() & corpora.keys():
        wrong_encodings(name, corpora[name])


if __name__ == "__main__":
    main()
