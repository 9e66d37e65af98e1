"""Main text of pages: lists, tables, code, threads and joiners are kept, navigation is not."""

import pytest

from groundup.data.document import DroppedDocument
from groundup.data.readers.html import EXTRACTORS, FEED_START, HTML_START, extract_page, extract_text
from groundup.data.readers.html_markup import join_lines, keep_lists, raise_digits, shield
from groundup.data.readers.reader_options import ReaderOptions

PARAGRAPHS = "".join(
    f"<p>Paragraph number {n} tells something that nobody knew about the old town.</p>" for n in range(4)
)
MENU = "<ul><li><a href=/>Home page</a></li><li><a href=/b>The blog</a></li></ul>"


def page(content: str) -> str:
    return (
        f"<html><body><div>{MENU}</div><article><h1>Head</h1>{PARAGRAPHS}{content}{PARAGRAPHS}</article></body></html>"
    )


@pytest.mark.parametrize("extractor", EXTRACTORS)
@pytest.mark.parametrize(
    ("content", "lines"),
    [
        (
            "<h2>Ingredients</h2><ul><li>2 eggs</li><li>100 g <a href=f>flour</a></li></ul>",
            ["- 2 eggs", "- 100 g flour"],
        ),
        ("<ol><li>Mix it.</li><li>Bake it.</li></ol>", ["Mix it.", "Bake it."]),
        (
            "<table><tr><th>Year</th><th>Sales</th></tr><tr><td>2001</td><td>45</td></tr></table>",
            ["Year\tSales", "2001\t45"],
        ),
        ("<pre><code>def f(x):\n    return x &lt; 3\n</code></pre>", ["def f(x):\n    return x < 3"]),
        (
            "<p>می‌خواهم و نمی&zwnj;دانم، 👨‍👩‍👧 و \u06dd۱ برای ما خوب است.</p>",
            ["می‌خواهم و نمی‌دانم، 👨‍👩‍👧 و \u06dd۱ برای ما خوب است."],
        ),
        (
            "<p>A paragraph that\nthe source breaks\n into <b>three</b>\nlines.</p><pre>a\nb <b>c</b>\nd</pre>",
            ["A paragraph that the source breaks into three lines.", "a\nb c\nd"],
        ),
        (
            "<p>About 10<sup>5</sup> m<sup>-2</sup> of H<sub>2</sub>O fell upon the town.</p>",
            ["About 10⁵ m⁻² of H₂O fell"],
        ),
    ],
)
def test_content_is_kept_and_navigation_is_not(extractor: str, content: str, lines: list[str]):
    text = extract_text(page(content), extractor)  # type: ignore[arg-type]
    for line in lines:
        assert line in text
    assert text.count("Paragraph number") == 8
    assert "Home page" not in text


@pytest.mark.parametrize("extractor", EXTRACTORS)
def test_every_post_of_a_thread_is_found(extractor: str):
    posts = "".join(
        f"<div class='post' id='p{n}'><p class='author'>by user{n}</p><div class='content'><p>Post {n} says that the mill of the "
        f"town was built long before the church, whatever number {n} of the chronicle tells.</p></div></div>"
        for n in range(6)
    )
    source = f"<html><body><div id='page-body'><h2>A question</h2>{posts}</div></body></html>"
    text = extract_text(source, extractor)  # type: ignore[arg-type]
    assert [n for n in range(6) if f"Post {n} says" in text] == list(range(6))


def test_feeds_served_as_pages_are_counted():
    feed = b"<?xml version='1.0'?><!-- a --><!-- b --><rss version='2.0'><channel><title>News of the mill</title></channel></rss>"
    found = extract_page("a", feed, None, ReaderOptions())
    assert isinstance(found, DroppedDocument)
    assert found.reason == "feed"


def test_many_comments_before_a_page_take_no_time():
    head = b"<!---->" * 500
    assert HTML_START.match(head + b"<html>")
    assert not HTML_START.match(head + b"x"), "did not end in a lifetime before"
    assert not FEED_START.match((head + b"x").decode())


def test_lists_of_links_and_menus_stay_navigation():
    assert keep_lists(MENU) == MENU
    assert keep_lists("<ul class='nav-bar'><li>text</li></ul>") == "<ul class='nav-bar'><li>text</li></ul>"
    nested = "<UL><li>one<ol start=3><li>x</li></ol></li><li>two</li></UL>"
    assert keep_lists(nested) == "<ol><li>- one<ol><li>3. x</li></ol></li><li>- two</li></ol>"
    assert keep_lists("<ul><li>never closed") == "<ul><li>never closed"


def test_superscripts_are_digits_only():
    assert (
        raise_digits("a<sup>2</sup><sup class=r><a>[1]</a></sup><sup>th</sup>")
        == "a²<sup class=r><a>[1]</a></sup><sup>th</sup>"
    )


def test_shielded_characters_come_back():
    source = "a\u200cb\U00010600c&#x200D;d\u200be"
    text, back = shield(source)
    assert "\u200c" not in text
    assert text.translate(str.maketrans(back)) == "a\u200cb\U00010600c\u200dd\u200be"
    assert shield("plain &amp;") == ("plain &amp;", {})


def test_line_ends_of_the_source_are_spaces_outside_of_code():
    assert join_lines("a\nb<pre>c\nd</pre>e\nf<pre>\n") == "a b<pre>c\nd</pre>e f<pre>\n"
