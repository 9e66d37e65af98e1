"""Personal data and secrets: what is replaced, and what only looks like it."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from groundup.data import mask_pii
from groundup.data.clean.id_numbers import is_valid_luhn
from groundup.recipe.data_config import PiiConfig

BASE64 = "MIIEpAIBAAKCAQEA75Y3m0qJ8vXb2sT1kq9YwQ0pZ4cD6eF7gH8iJ9kL0mN1oP2q"
FIXED = "kJ8vXb2sT1kq9YwQ0pZ4cD6eF7gH8iJ9kL0mN1oP2qRs"

UNCHANGED = [
    "x[::2] and a[2::-1], SQL b::2, 18::5",
    "x[2000::10] and std::vector<int>::iterator, abcd::ef",
    "1.38435736E+12 6.10351563E-05 12345678E-5",
    "doi:10.1007/12345678Z and 10.1109/5.771073, https://doi.org/10.1002/415-555-2671",
    "939.565 4133 +0.3333333 -0.1666667",
    "fax 2400/9600/14400",
    "profit rose +12 500 000 and +1 500 000 or +250 000 000",
    "icon image@2x.png and git@github.com:foo, ssh://git@gitlab.org/x.git",
    "getty@tty1.service, product = a@b.mean(axis=0)",
    "OIDs 2.5.29.15, 1.3.6.1 and 2.5.4.3",
    "version 12.2.0.1, Chrome/83.12.61.97, release 81.2.69.8, foo==62.11.83.45, v3.11.48.69",
    "user@localhost and @name and a@b",
    "192.168.0.1, 999.1.1.1 and 1.2.3.4.5; 12:30:45; 00:1a:2b:3c:4d:5e",
    "card 4111 1111 1111 1112. order 1234567812345670; EAN 4006381333931",
    "115-555-2671 in 1914-1918 and 12 345 678 people, ISBN 978-3-16-148410-0",
    "At 3:36 PM +1000 8/11/02, she wrote",
    "fax.ph (10.34.130.14)",
    "Fax 2002-10-06 and tel 02/10/2002, call 01.02.2003",
    "Mutt/1.2.5.1i, revision 1.115.2.11, 4.6.2.0, v12.13.14.15",
    "np.arange(6) + 98172489, 0.5 + 0.143 x + 14285714.286 x**2, 458.0 0.000000 0.014387768775",
    "das neue portable Format. (8589934591 Byte)",
    "sk-ecdsa-sha2-nistp256-cert-v01, //[user[:password]@host",
    "RFC 2616 [3.3.2.4^1] and 239.252.197.10",
    "from rdg-dial-196-30-235-94.host.example by mail",
    "extracted from color-ls 3.12.0.3, upgraded from server 4.2.16.1",
    "pi is 3.14159265358979 and 10.1000/182",
    "GB82 WEST 1234 5698 7654 33",
    "cpf 529.982.247-26, dni 12345678A, no 000-05-1120",
    "a risk-based-approach-to-quality and ask-me-anything-you-like",
    "http://user:password@host.example/x and https://$USER:$PASS@host.example",
    "Authorization: Bearer YOUR_ACCESS_TOKEN_GOES_HERE",
    "-----BEGIN RSA PRIVATE KEY----- begins a key",
    "aws_secret_access_key = <your key>",
    "Der Umsatz 2023 betrug 1.234.567.890 Euro",
    "電話の歴史は1876年から始まる。人口は12345678人",
]

CHANGED = [
    ("write to a.b+c@mail.example.com.", "write to <email>."),
    ("josé@ejemplo.es, user@müller.de, o'brien@x.org", "<email>, <email>, <email>"),
    ("'jane@x.org' (bob@x.co.uk) почта@пример.рф 联系abc@x.com。", "'<email>' (<email>) <email> 联系<email>。"),
    ("from=you@x.example, 写信给samba@x.org创建", "from=<email>, 写信给<email>创建"),
    ("mailto:jane@x.org?subject=x", "mailto:<email>?subject=x"),
    ("at 2001:4860:4860::8888 or 2606:4700:4700:0:0:0:0:1111", "at <ip> or <ip>"),
    ("Set the resolver to 8.8.8.8 in prose", "Set the resolver to <ip> in prose"),
    ("Then we ask 8.8.8.8 for it.", "Then we ask <ip> for it."),
    ("http://66.149.49.6/x [4.35.128.90] 212.185.255.162.", "http://<ip>/x [<ip>] <ip>."),
    ("card 4111 1111 1111 1111.", "card <card>."),
    ("number 5500005555555559 amex 378282246310005", "number <card> amex <card>"),
    ("call +49 30 123456-78 now", "call <phone> now"),
    ("Tel: 030 1234567", "Tel: <phone>"),
    ("(415) 555-2671 or 415-555-2671", "<phone> or <phone>"),
    ("415.555.2671 1-800-555-2671 800-555-2671x5", "<phone> <phone> <phone>x5"),
    ("Voice: 020 7555 2671, dialing 1 800 555 2671", "Voice: <phone>, dialing <phone>"),
    ("Fax-415-555-2671 or 1(415) 555-2671 (415-555-2671)", "Fax-<phone> or <phone> <phone>)"),
    ("(283)-282-3829 or call me at 2832823829", "<phone> or call me at <phone>"),
    ("Telefon: 030 1234567", "Telefon: <phone>"),
    ("Tél. : 01 42 68 53 00", "Tél. : <phone>"),
    ("Teléfono: 91 123 45 67, móvil 612 345 678", "Teléfono: <phone>, móvil <phone>"),
    ("Тел.: 8 (495) 123-45-67", "Тел.: <phone>"),
    ("電話: 03-1234-5678", "電話: <phone>"),
    ("お問い合わせは 090-1234-5678 まで", "お問い合わせは <phone> まで"),
    ("电话：010-62345678 手机 13812345678", "电话：<phone> 手机 <phone>"),
    ("전화 02-312-3456", "전화 <phone>"),
    ("ring 0044 20 7946 0958", "ring <phone>"),
    ("GB82 WEST 1234 5698 7654 32", "<id>"),
    ("cpf 529.982.247-25, dni 12345678Z, ssn 078-05-1120", "cpf <id>, dni <id>, ssn <id>"),
    ("key AKIAIOSFODNN7EXAMPLE", "key <secret>"),
    ("https://bob:hunter2@host.example/x", "https://<secret>@host.example/x"),
    ("-----BEGIN RSA PRIVATE KEY-----\nMII\n-----END RSA PRIVATE KEY-----", "<secret>"),
    (f"-----BEGIN PGP PRIVATE KEY BLOCK-----\n\n{BASE64}\n-----END PGP PRIVATE KEY BLOCK-----\n.", "<secret>\n."),
    (f"-----BEGIN RSA PRIVATE KEY-----\n{BASE64}\n{BASE64}\n\nText.", "<secret>\n\nText."),
    (f"aws_secret_access_key = {FIXED[:40]}", "aws_secret_access_key = <secret>"),
    (f'AWS_SECRET_ACCESS_KEY: "{FIXED[:40]}"', 'AWS_SECRET_ACCESS_KEY: "<secret>"'),
    (f"rk_live_{FIXED[:30]} sk_test_{FIXED[:30]}", "<secret> <secret>"),
    (f"SG.{FIXED[:22]}.{FIXED[:43]}", "<secret>"),
    (f"https://hooks.slack.com/services/T0AB12CD3/B0AB12CD3/{FIXED[:24]}", "https://hooks.slack.com/services/<secret>"),
    (f"Authorization: Bearer {FIXED}", "Authorization: Bearer <secret>"),
    (f"AccountName=x;AccountKey={(BASE64 + FIXED)[:86]}==;", "AccountName=x;AccountKey=<secret>;"),
    (f"token ya29.{FIXED}", "token <secret>"),
]  # fmt: skip


@pytest.mark.parametrize("text", UNCHANGED)
def test_correct_text_is_unchanged(text: str):
    assert mask_pii(text) == text


@pytest.mark.parametrize(("text", "clean"), CHANGED)
def test_mask_pii(text: str, clean: str):
    assert mask_pii(text) == clean


def test_kinds_can_be_disabled():
    text = "a@example.com 8.8.8.8 4111111111111111 +49 30 123456-78 AKIAIOSFODNN7EXAMPLE 12345678Z"
    off = dict.fromkeys(PiiConfig.model_fields.keys() - {"tokens"}, False)
    assert mask_pii(text, **off) == text
    assert mask_pii(text, **{**off, "emails": True}) == text.replace("a@example.com", "<email>")


def test_tokens_can_be_chosen_and_replacements_are_counted():
    counts: dict[str, int] = {}
    text = "a@example.com b@example.com +49 30 123456-78"
    assert mask_pii(text, counts, tokens={"email": "", "phone": "<email>"}) == "  <email>"
    assert counts == {"email": 2, "phone": 1}, "by kind, whatever the tokens"


@given(st.integers(0, 10**14))
def test_luhn_detects_single_digit_errors(number: int):
    digits = str(number)
    check = next(str(last) for last in range(10) if is_valid_luhn(digits + str(last)))
    valid = digits + check
    for index, digit in enumerate(valid):
        wrong = valid[:index] + str((int(digit) + 1) % 10) + valid[index + 1 :]
        assert not is_valid_luhn(wrong)


@given(st.text(st.sampled_from("a1. @:/-+()\n§é中"), max_size=60))
def test_masked_text_holds_nothing_more_to_mask(text: str):
    once = mask_pii(text)
    assert re.sub(r"<\w+>", "", mask_pii(once)) == re.sub(r"<\w+>", "", once)
