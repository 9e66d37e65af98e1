"""Wikitext to plain text, as a reader of the page sees it."""

import bz2
import io

import pytest

from groundup.data.document import Document
from groundup.data.filter_stats import FilterStats
from groundup.data.readers import get_reader
from groundup.data.readers.measurements import superscript
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.wiki_sites import WikiSite
from groundup.data.readers.wikitext import render_article, wikitext_to_text
from groundup.data.readers.wikitext_templates import expand_template


@pytest.mark.parametrize(
    ("wikitext", "plain"),
    [
        ("a {{citation needed|{{inner}}|x}} b", "a b"),
        ("{| class=x\n|-\n| cell {{t}} || [[L]]\n|}\nafter", "after"),
        ("{{box\n|a=[[File:x.png|thumb|A [[nested]] caption]]\n}}Text.", "Text."),
        ("[[File:x.png|thumb|left|A [[nested]] caption.]]Text.", "Text."),
        ("see [[Paris (city)|]] and [[Rome]] and [[:Category:Towns]]", "see Paris and Rome and Category:Towns"),
        ("[[de:Haus]][[Category:Houses]]A house.", "A house."),
        ("one<ref name=a>note [[x]]</ref> two<ref name=b/> three<!-- hidden -->.", "one two three."),
        (
            "== History ==\n=== Early ===\nOld.\n== See also ==\n* [[X]]\n== Life ==\nGood.",
            "History\n\nEarly\n\nOld.\n\nLife\n\nGood.",
        ),
        ("== Empty ==\n== Full ==\ntext", "Full\n\ntext"),
        ("* one\n# two\n; three", "- one\n\n1. two\n\nthree"),
        ("[http://example.org a page] and http://example.org/x end", "a page and http://example.org/x end"),
        ("''it'' is '''bold''' &amp; &nbsp;fine __TOC__", "it is bold & fine"),
        ("{{never closed\nand so on\n\nThe next paragraph.", "The next paragraph."),
        ("stray }} and ]] marks", "stray and marks"),
        ("word ({{IPA|y}}; {{pron|z}}) end", "word end"),
        ("It is {{convert|5|km|abbr=on}} from {{lang|de|Bonn}}.", "It is 5 km from Bonn."),
    ],
)
def test_wikitext_to_text(wikitext: str, plain: str):
    assert wikitext_to_text(wikitext) == plain


def test_deep_nesting_of_wikitext():
    assert wikitext_to_text("{{" * 100_000 + "x" + "}}" * 100_000 + "\n\nafter") == "after"
    wikitext_to_text("[[" * 100_000 + "x")


@pytest.mark.parametrize(
    ("wikitext", "plain"),
    [
        ("A<br>B and C<br />D", "A\nB and C\nD"),
        ("Call <code>print()</code> or <code>f(x, y)</code>.", "Call print() or f(x, y)."),
        ("The area <math>\\pi r^2</math> of it.", "The area $\\pi r^2$ of it."),
        ("Test if a<b and b>c, or x<y.", "Test if a<b and b>c, or x<y."),
        ("'''Bob''''s book", "Bob's book"),
        ("L'''idée'' de '''l'homme'''", "L'idée de l'homme"),
        ("<nowiki>[[x]] ''y'' {{z}} &amp;</nowiki> end", "[[x]] ''y'' {{z}} & end"),
        ("<code><nowiki>{{cite}}</nowiki></code> is shown", "{{cite}} is shown"),
        (
            "Then:\n<syntaxhighlight lang=c>\nif (a[[1]])\n  b;\n</syntaxhighlight>\nend",
            "Then:\n\nif (a[[1]])\n  b;\n\nend",
        ),
        ("<pre>\n| a\n  {{b}}\n</pre>", "| a\n  {{b}}"),
        (
            "10<sup>5</sup> m<sup>2</sup>, the 19<sup>th</sup>, 2<sup>''x''</sup>, H<sub>2</sub>O",
            "10⁵ m², the 19th, 2^x, H₂O",
        ),
        ("Vrai ? Oui ; non : rien ( sic )", "Vrai ? Oui ; non : rien ( sic )"),
        ("Text.[https://x.org] Next [https://x.org label] <ref>a</ref>, end", "Text. Next label, end"),
        ("One line\nand another.\n\nNew.", "One line and another.\n\nNew."),
        ("<poem>\nRoses\nare red\n</poem>", "Roses\nare red"),
        ("He wrote:\n{{quote|A [[word]].|author=Him}}\nIt ends.", "He wrote:\n\nA word.\n— Him\n\nIt ends."),
        ("!Kung is spoken.", "!Kung is spoken."),
        ("<span style='x'>a</span> <font color=red>b</font> <div class=c>d</div>", "a b\n\nd"),
        ("<ruby>漢<rp>(</rp><rt>kan</rt><rp>)</rp></ruby>", "漢(kan)"),
        ("{{nowrap|a {{!}} b}} and {{nowrap|[[x|y]] {{=}} 2}}", "a | b and y = 2"),
        ("1{{frac|3|4}} days and {{frac|3|4}}", "1 3/4 days and 3/4"),
        ("Text {{nowrap|a|}}.", "Text a."),
        ("{{Box\n|a = {{b|{{c|d|}}}}\n}}\nThe first paragraph.", "The first paragraph."),
        ("<table><tr><td><table><tr><td>a</table><tr><td>b</table>Text.", "Text."),
        ("<table><tr><td>a</table>Text <table>b.</table>", "Text"),
        ("Bee (({{cn|a}}, {{cn|b}})) is", "Bee is"),
        ("* {{Citation\n|last = A\n|title = B\n}}. First of a series.\n* Other.", "- Other."),
        (
            "* one\n* two\n** three\n*: more\n# first\n# second\n## a\n# third\n\nText.\n# again\n; term\n: meaning",
            "- one\n- two\n  - three\n  more\n\n1. first\n2. second\n  1. a\n3. third\n\nText.\n\n1. again\n\nterm\n\nmeaning",
        ),
    ],
)
def test_markup_is_read_as_on_the_page(wikitext: str, plain: str):
    assert wikitext_to_text(wikitext) == plain


@pytest.mark.parametrize(
    ("template", "printed"),
    [
        ("w|nuclear weapon|nuclear weapons", "nuclear weapons"), ("convert|5|to|7|kg", "5 to 7 kilograms"),
        ("convert|6|ft|4|in|cm", "6 feet 4 inches"), ("convert|6|ft|4|in|cm|abbr=on", "6 ft 4 in"),
        ("convert|1300|mi|km", "1,300 miles"), ("convert|1|km|mi|1", "1 kilometre"), ("cvt|20|C|F", "20 °C"),
        ("convert|100|km|adj=on", "100-kilometre"), ("convert|2|x|4|in", "2 × 4 inches"),
        ("convert|60|mph", "60 miles per hour"),
        ("convert|1|mph", "1 mile per hour"), ("convert|5|km|disp=number", "\2"), ("convert|3+1/2|in", "3 1/2 inches"),
        ("val|9.109|(11)|e=-31|u=kg", "9.109(11)×10⁻³¹ kg"), ("val|5|3", "5±3"),
        ("val|1.5|+2|-3|u=m.s-1", "1.5+2−3 m⋅s⁻¹"),
        ("frac|3|1|2", "3 1/2"), ("frac|2|3", "2/3"), ("frac|4", "1/4"), ("formatnum:12345", "12,345"),
        ("formatnum:12345.678", "12,345.678"),
        ("ndash", "–"), ("nbsp", " "), ("'", "'"), ("sub|2", "₂"), ("sup|5", "⁵"), ("e|6", "×10⁶"),
        ("nihongo|bayonet|銃剣|jūken", "bayonet (銃剣, jūken)"), ("langx|ru|мир|mir", "Russian: мир, mir"),
        ("lang-pl|Gdańsk", "Polish: Gdańsk"),
        ("IPA|/a/", "/a/"), ("IPA|en|tɛst", "[tɛst]"), ("IPAc-en|ˈ|æ|_|ɡ|ə", "/ˈæ ɡə/"),
        ("US$|2 billion", "US$2 billion"),
        ("Music|flat", "♭"), ("RailGauge|1435mm", "1,435 mm"),
        ("chem|C|6|H|12", "C₆H₁₂"), ("chem2|H2SO4", "H₂SO₄"), ("HMS|Ajax|22|6", "Ajax"),
        ("USS|Hornet|CV-12", "USS Hornet (CV-12)"),
        ("as of|2014|3|lc=y", "as of March 2014"), ("harvnb|Barnes|1995|pp=10–15", "Barnes 1995, pp. 10–15"),
        ("circa|1500", "c. 1500"),
        ("coord|13|19|N|169|9|W", "13°19′N 169°9′W"), ("citation needed|date=May 2010", "\1"), ("fr icon", "\1"),
        ("unheard of|x", "\2"),
        ("CURRENTYEAR", "\2"), ("zh|c=北京|p=Běijīng", "Chinese: 北京; pinyin: Běijīng"),
    ],
)  # fmt: skip
def test_templates_print_what_they_print_on_the_page(template: str, printed: str):
    assert expand_template(template) == printed


def test_name_of_a_language_is_printed_in_the_language_of_the_wiki():
    assert wikitext_to_text("({{lang-la|Anno Domini}})", WikiSite.of("bg")) == "(Anno Domini)"


@pytest.mark.parametrize(
    ("language", "wikitext", "plain"),
    [
        ("fr", "Au {{s|XIX|e}}, le {{1er}} à {{unité|5|km|2}}, dit {{citation|oui}} en {{lang|en|texte=yes}}.",
         "Au XIXe siècle, le 1er à 5 km², dit « oui » en yes."),
        ("es", "En el {{siglo|XIX||s}} y el {{siglo|I|a|s}}.", "En el siglo XIX y el siglo I a. C.."),
        ("ru", "Это {{нп5|Дом|дома|en|House}} и {{s|два}}.", "Это дома и два."),
        ("ja", "{{仮リンク|水車|en|Mill}}と{{ruby|漢|かん}}。", "水車と漢（かん）。"),
        ("zh", "-{zh-hans:软件; zh-hant:軟體}-和{{link-en|磨坊|Mill}}。-{H|zh-cn:x;zh-tw:y}-完-{干}-。", "软件和磨坊。完干。"),
    ],
)  # fmt: skip
def test_templates_of_other_languages(language: str, wikitext: str, plain: str):
    assert render_article(wikitext, WikiSite.of(language)) == (plain, 0)


def test_superscript_of_what_unicode_lacks():
    assert [superscript(text) for text in ("2", "th", "x+1", "n")] == ["²", "th", "^(x+1)", "ⁿ"]


@pytest.mark.parametrize(
    ("wikitext", "plain", "dropped"),
    [
        (
            "Tritium is rare. It is used in {{unheard|x}} and {{unheard|y}}. It decays.",
            "Tritium is rare. It decays.",
            1,
        ),
        ("The mill (built by {{unheard|x}}) stands.", "The mill stands.", 0),
        ("{{Unheard box|x}}\nThe mill stands.", "The mill stands.", 0),
        (
            "{{Unheard box\n|x=1}}'''The mill''' stands.{{Fakt}} It is old{{kada?|date=May}} and dry.",
            "The mill stands. It is old and dry.",
            0,
        ),
        ("* {{unheard|x}} of Rome\n* Mr. Smith", "- Mr. Smith", 1),
        ("He met Dr. {{unheard|x}} in 1950. She left.", "She left.", 1),
        ("日本は{{unheard|x}}です。東京は首都です。", "東京は首都です。", 1),
    ],
)
def test_sentence_with_a_hole_is_dropped_and_counted(wikitext: str, plain: str, dropped: int):
    assert render_article(wikitext, WikiSite.of("en")) == (plain, dropped)


LATGALIAN = """<mediawiki xmlns="http://www.mediawiki.org/xml/export-0.10/" xml:lang="ltg">
<siteinfo><dbname>ltgwiki</dbname>
<namespaces><namespace key="0"/><namespace key="6">Fails</namespace>
<namespace key="14">Kategoreja</namespace></namespaces></siteinfo>
<page><title>Reiga</title><ns>0</ns><revision><text>[[Fails:Riga.jpg|thumb|right|220px|Reigys [[pile|piļs]]]]
'''Reiga''' ir {{xyz|1}} i
pīļsāta. [[Rēzne]] ir azars.

== Verīs ari ==
* [[Latgola]]
[[Kategoreja:Piļsātys]]</text></revision></page></mediawiki>"""


def test_namespaces_and_language_come_from_the_dump():
    (found,) = get_reader("wikipedia")("d.xml.bz2", io.BytesIO(bz2.compress(LATGALIAN.encode())), ReaderOptions())
    assert isinstance(found, Document)
    assert found.text == "Rēzne ir azars."
    assert found.left_out == {"sentences with an unknown template": 1}


@pytest.mark.parametrize(
    ("language", "title"),
    [("de", "Weblinks"), ("fr", "Liens externes"), ("ja", "外部リンク"), ("fa", "منابع"), ("bg", "Външни препратки")]
)  # fmt: skip
def test_sections_without_prose(language: str, title: str):
    wikitext = f"Text.\n== {title} ==\n* [http://x.org x]\n== A ==\nb"
    assert render_article(wikitext, WikiSite.of(language))[0] == "Text.\n\nA\n\nb"
    assert wikitext_to_text(wikitext) == "Text.\n\nA\n\nb"


def test_sentences_left_out_are_reported_by_source():
    stats, other = FilterStats(), FilterStats()
    for part in (stats, other):
        part.add_left_out({"sentences with an unknown template": 2})
    stats.merge(other)
    assert stats.as_metrics()["left_out"] == {"sentences with an unknown template": 4}
    assert "wiki: left out 4 sentences with an unknown template" in stats.describe("wiki")
