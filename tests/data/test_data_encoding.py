"""Character sets: the right text from every one, declared or not, and the choice recorded."""

import io
import json
import math
import struct
from pathlib import Path

import pytest

from groundup.data import read_documents
from groundup.data.document import Document
from groundup.data.process_unit import process_unit
from groundup.data.readers import get_reader
from groundup.data.readers.encoding import decode_bytes, wide_encoding
from groundup.data.readers.reader_options import ReaderOptions
from groundup.recipe.data_config import DataConfig

TEXTS = {
    "ru": "Жили-были старик со старухой у самого синего моря. Старик ловил неводом рыбу, старуха пряла свою пряжу.",
    "zh": "中国位于亚洲东部，太平洋西岸，是世界上人口最多的国家之一。北京是中国的首都，上海是最大的城市。",
    "tw": "臺灣位於亞洲東部，首都是臺北。今天天氣很好，我們一起去公園散步，學習新的知識。",
    "ja": "吾輩は猫である。名前はまだ無い。どこで生れたかとんと見当がつかぬ。何でも薄暗いじめじめした所で泣いていた。",
    "ko": "대한민국은 동아시아에 있는 나라이다. 수도는 서울이며 인구는 약 오천만 명이다. 오늘은 날씨가 좋습니다.",
    "pl": "Zażółć gęślą jaźń. Wszyscy ludzie rodzą się wolni i równi pod względem swej godności i swych praw.",
    "cs": "Všichni lidé se rodí svobodní a sobě rovní co do důstojnosti a práv. Jsou nadáni rozumem a svědomím.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren. „Straße“ – Öl.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
    "th": "มนุษย์ทั้งหลายเกิดมามีอิสระและเสมอภาคกันในเกียรติศักดิ์และสิทธิ ต่างมีเหตุผลและมโนธรรม",
}
CHARACTER_SETS = [
    ("ru", "koi8-r"), ("ru", "cp1251"), ("ru", "iso8859-5"), ("ru", "cp866"), ("zh", "gbk"), ("tw", "big5"), ("ja", "shift_jis"),
    ("ja", "euc_jp"), ("ja", "iso2022_jp"), ("ko", "euc_kr"), ("pl", "iso8859-2"), ("pl", "cp1250"), ("cs", "cp1250"),
    ("de", "cp1252"), ("el", "cp1253"), ("th", "tis_620"),
]  # fmt: skip


@pytest.mark.parametrize(("language", "charset"), CHARACTER_SETS)
def test_character_set_is_detected(language: str, charset: str):
    found = decode_bytes(TEXTS[language].encode(charset))
    assert found.text == TEXTS[language]
    assert found.encoding.endswith(", detected")


@pytest.mark.parametrize(("language", "charset"), CHARACTER_SETS)
def test_declared_character_set(language: str, charset: str):
    text, name = (
        TEXTS[language],
        "iso-8859-11" if charset == "tis_620" else charset.replace("iso2022_jp", "iso-2022-jp"),
    )
    page = f'<meta charset="{name}"><p>{text}'
    assert decode_bytes(page.encode(charset)).text == page
    assert decode_bytes(text.encode(charset), name).text == text


def test_utf_8_comes_first():
    text = "Käse, “déjà vu” und 中文 " * 200
    page = f'<meta charset="utf-8">{text}'
    assert decode_bytes(page.encode(), "iso-8859-1").text == page, "served with a wrong header"
    assert decode_bytes(text.encode(), "windows-1252-nonsense").text == text
    assert decode_bytes(text.encode("utf-16"), "utf-8").text == text
    assert decode_bytes(text.encode("utf-32")).text == text
    assert decode_bytes(b"plain", "zip").text == "plain", "a codec that is no character set is not tried"


def test_one_invalid_byte_changes_one_character():
    text = "naïve “quotes” für Åse. " * 100
    data = text.encode()
    found = decode_bytes(data[:300] + b"\xff" + data[300:])
    assert found.text.replace("\ufffd", "") == text
    assert found.encoding == "utf-8, damaged"
    assert decode_bytes("Some “text” here".encode() + b"\x80").text == "Some “text” here\ufffd"
    assert decode_bytes("mostly ASCII, one naïve byte".encode("latin-1")).text == "mostly ASCII, one naïve byte"


def test_western_declaration_of_other_text_is_not_believed():
    assert decode_bytes(TEXTS["ru"].encode("cp1251"), "iso-8859-1").text == TEXTS["ru"]
    page = f"<meta charset=windows-1250>{TEXTS['pl']}"
    assert decode_bytes(page.encode("cp1250"), "iso-8859-1").text == page, "a server's default yields to the page"
    assert decode_bytes("Käse für Åse".encode("latin-1"), "iso-8859-1").text == "Käse für Åse"


@pytest.mark.parametrize("first", ["# -*- coding: koi8-r -*-", "#!/usr/bin/python\n# vim: set fileencoding=koi8-r :"])
def test_coding_comment_of_source_code(first: str):
    text = f"{first}\nx = 'юя'\n"
    found = list(get_reader("code")("a.py", io.BytesIO(text.encode("koi8-r")), ReaderOptions()))
    assert found == [Document(text, "a.py", "koi8-r, declared")]


def test_long_file_has_one_character_set():
    text = "\n".join(["Plain words only."] * 20_000 + [TEXTS["pl"]] * 4_000 + ["Plain words, ą."] * 20_000)
    found = list(get_reader("text")("a.txt", io.BytesIO(text.encode("iso8859-2")), ReaderOptions()))
    assert len(found) > 2
    assert "".join(part.text for part in found) == text


def test_stage_counts_character_sets(tmp_path: Path):
    paths = [tmp_path / "a.txt", tmp_path / "b.txt"]
    for path, charset in zip(paths, ("koi8-r", "utf-8"), strict=True):
        path.write_bytes(TEXTS["ru"].encode(charset))
    source = {"name": "s", "kind": "text", "path": str(tmp_path), "clean": False}
    config = DataConfig.model_validate({"sources": [source]})
    process_unit({
        "config": config.model_dump(mode="json"), "source": config.sources[0].model_dump(mode="json"), "seed": 0, "unit": 0,
        "cache": str(tmp_path), "offline": True, "weights": None, "evaluation": None, "folder": str(tmp_path),
        "keep_downloads": True, "files": [[path.name, str(path), None] for path in paths],
    })  # fmt: skip
    stats = json.loads((tmp_path / "00000.json").read_text())["stats"]
    assert stats["encodings"] == {"koi8-r, detected": 1, "utf-8": 1}


WIDE = {
    "en": "The mill is closed.\nIt was built in 1914.\n" * 9,
    "de": "Die Mühle ist geschlossen – für immer.\r\n" * 9,
    "ru": "Мельница закрыта.\nОна стоит с 1914 года.\n" * 9,
    "zh": "磨坊已經關閉，從一九一四年起就在那裡。\n再也沒有人來了。\n" * 9,
    "ko": "방앗간은 닫혀 있다.\n" * 9,
    "emoji": "Closed 🤗 for ever 🇩🇪.\n" * 9,
}


@pytest.mark.parametrize("encoding", ["utf-16-le", "utf-16-be", "utf-32-le", "utf-32-be"])
@pytest.mark.parametrize("language", WIDE)
def test_wide_encodings_without_a_byte_order_mark(language: str, encoding: str, tmp_path: Path):
    text = WIDE[language]
    data = text.encode(encoding)
    assert decode_bytes(data).text == text
    assert decode_bytes(data).encoding == f"{encoding}, detected"
    (tmp_path / "a.txt").write_bytes(data)
    (tmp_path / "b.jsonl").write_bytes((json.dumps({"text": text}, ensure_ascii=False) + "\n").encode(encoding))
    (tmp_path / "c.py").write_bytes(f"# {text}".encode(encoding))
    for name, expected in (("a.txt", text), ("b.jsonl", text), ("c.py", f"# {text}")):
        found = [document.text for document in read_documents(tmp_path / name)]
        assert [each.replace("\r", "") for each in found] == [expected.replace("\r", "")], name


@pytest.mark.parametrize(
    "data",
    [
        bytes(range(256)) * 40,
        b"".join(struct.pack("<H", 500 + (i * 7919) % 900) for i in range(4000)),  # 16-bit measurements
        b"".join(struct.pack("<h", int(9000 * math.sin(i / 20))) for i in range(4000)),  # sound
        b"\x7fELF\x02\x01\x01\0\0\0\0\0\0\0\0\0\x03\0>\0\x01\0\0\0" * 50,
        struct.pack("<2000f", *(math.sqrt(i) for i in range(2000))),
        b"plain text with one \0 in it " * 20,
        b"\0" * 4000,
    ],
)
def test_binary_data_is_no_wide_encoding(data: bytes):
    assert wide_encoding(data) is None


def test_a_long_file_in_utf_16_without_a_mark_is_read_to_its_end(tmp_path: Path):
    text = "".join(f"Paragraph {index} of 🤗 the long story.\n\n" for index in range(30_000))
    (tmp_path / "long.txt").write_bytes(text.encode("utf-16-le"))
    assert "".join(document.text for document in read_documents(tmp_path / "long.txt", "text")) == text
