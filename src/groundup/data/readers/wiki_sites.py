"""Wikis: the namespaces that a dump declares, and the titles of sections without prose in each language."""

import re
from dataclasses import dataclass
from pathlib import Path
from xml.etree.ElementTree import Element

FILE, CATEGORY, MEDIA = "6", "14", "-2"
ENGLISH_NAMES = {"file": FILE, "image": FILE, "category": CATEGORY, "media": MEDIA}
"""Valid in every wiki, beside the names of its own language."""

OTHER_NAMES = {
    "datei": FILE, "bild": FILE, "kategorie": CATEGORY, "fichier": FILE, "catégorie": CATEGORY, "archivo": FILE,
    "imagen": FILE,
    "categoría": CATEGORY, "категория": CATEGORY, "файл": FILE, "изображение": FILE, "картинка": FILE, "immagine": FILE,
    "categoria": CATEGORY, "ficheiro": FILE, "imagem": FILE, "bestand": FILE, "afbeelding": FILE, "categorie": CATEGORY,
    "plik": FILE, "grafika": FILE, "kategoria": CATEGORY, "soubor": FILE, "fil": FILE, "tiedosto": FILE, "ファイル": FILE,
    "画像": FILE, "カテゴリ": CATEGORY, "文件": FILE, "檔案": FILE, "分类": CATEGORY, "分類": CATEGORY, "پرونده": FILE,
    "رده": CATEGORY,
    "ملف": FILE, "تصنيف": CATEGORY, "קובץ": FILE, "קטגוריה": CATEGORY, "зображення": FILE, "категорія": CATEGORY,
    "파일": FILE,
    "분류": CATEGORY, "चित्र": FILE, "श्रेणी": CATEGORY, "attēls": FILE, "kategorija": CATEGORY, "vaizdas": FILE,
}  # fmt: skip
"""Older and other names that pages still use; a dump lists only the present one."""

NO_PROSE_SECTIONS = dict(
    line.split(": ", 1)
    for line in Path(__file__).with_name("wiki_sections.txt").read_text(encoding="utf-8").splitlines()
)
"""Titles, in lower case, of sections of links, notes, sources and lists of works, by language."""

FILE_NAME = re.compile(
    r"[^|\[\]\n]+\.(?:jpe?g|png|gif|svg|webp|tiff?|ogg|oga|ogv|webm|pdf|djvu|mp3|mid|wav|xcf|stl|flac)\s*(?:\||$)", re.I
)
LANGUAGE_PREFIX = re.compile(r"[a-z]{2,3}(?:-[a-z-]+)?|simple")


@dataclass(frozen=True)
class WikiSite:
    """What a page's markup means depends on its wiki.

    Attributes:
        language: its code, such as "de"; "" if unknown.
        namespaces: lower-case name to number, of those that a dump's <siteinfo> lists, and of the English ones.
        closed_sections: lower-case titles of sections that hold no prose.
    """

    language: str
    namespaces: dict[str, str]
    closed_sections: frozenset[str]

    @classmethod
    def of(cls, language: str = "", namespaces: dict[str, str] | None = None) -> "WikiSite":
        """The site of a language such as "de"; of all known languages together if it is unknown."""
        own = NO_PROSE_SECTIONS.get(language.split("-")[0].lower())
        titles = [own, NO_PROSE_SECTIONS["en"]] if own else NO_PROSE_SECTIONS.values()
        return cls(
            language,
            OTHER_NAMES | (namespaces or {}) | ENGLISH_NAMES,
            frozenset(title for known in titles for title in known.split("|")),
        )

    @classmethod
    def from_siteinfo(cls, siteinfo: Element, language: str) -> "WikiSite":
        """The site of a MediaWiki dump, by its <siteinfo> and the language of its root."""
        found: dict[str, str] = {}
        for element in siteinfo.iter():
            tag = element.tag.rpartition("}")[2]
            if tag == "namespace" and element.text:
                found[element.text.lower().replace("_", " ")] = element.get("key", "")
            elif tag == "dbname" and not language and (element.text or "").endswith("wiki"):
                language = (element.text or "").removesuffix("wiki").replace("_", "-")
        return cls.of(language, found)

    def prints_nothing(self, target: str, has_label: bool) -> bool:
        """Whether a link to `target` prints no words: a file, a category, the same article in another language."""
        name, colon, _ = target.partition(":")
        name = name.strip().lower().replace("_", " ")
        if not colon or not name:
            return False
        number = self.namespaces.get(name)
        if number is not None:
            return number in (FILE, CATEGORY, MEDIA)
        return bool(FILE_NAME.match(target)) or (
            not has_label and bool(LANGUAGE_PREFIX.fullmatch(target.partition(":")[0].strip()))
        )
