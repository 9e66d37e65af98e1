"""Markdown and reStructuredText to plain text, as a reader of the page sees it."""

import io

import pytest

from groundup.data.document import Document
from groundup.data.readers import get_reader
from groundup.data.readers.markdown import markdown_to_text
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.readers.rst import rst_to_text


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        ("A List<String> of Vec<T>, Map<K, V>.", "A List<String> of Vec<T>, Map<K, V>."),
        ("A `List<String>` of `Vec<T>`.", "A List<String> of Vec<T>."),
        ("If x<y and y>z or a<b and b>c.", "If x<y and y>z or a<b and b>c."),
        ("See <https://x.org> or <me@x.org>.", "See https://x.org or me@x.org."),
        (r"\*no\* 1\. \# \[x\] &amp; &lt;b&gt;", "*no* 1. # [x] & <b>"),
        ("A claim[^1] and more.\n\n[^1]: The *note*.", "A claim and more.\n\nThe note."),
        ("---\ntitle: x\n---\n# Head #\n\nSetext\n---", "Head\n\nSetext"),
        ("some *words*, **bold**, ***both***, ~~old~~, snake_case_name, 2 * 3 * 4",
         "some words, bold, both, old, snake_case_name, 2 * 3 * 4"),
        ("a [link](http://x.org/a_(b)), [b][c], ![i](x.png)\n\n[c]: http://x", "a link, b,"),
        ("Wrapped\nline and a hard  \nbreak", "Wrapped line and a hard\nbreak"),
        ("```py\ndef f(x):\n    return x\n```\n\n    <T>x</T>", "def f(x):\n    return x\n\n<T>x</T>"),
        ("| a | b |\n|---|---|\n| c | *d* |\n\nend", "a | b\nc | d\n\nend"),
        ("1. one\n2. two\n   - in\n\n* a\n\n* b", "1. one\n2. two\n  - in\n\n- a\n- b"),
        ("a   b `c  d`\n\n    e  f", "a b c  d\n\ne  f"),
        ("> said\n> so", "said so"),
        ("10<sup>5</sup> H<sub>2</sub>O 19<sup>th</sup> a<br>b <b>c</b> <span class='x'>d</span>", "10⁵ H₂O 19th a\nb c d"),
        ("<details><summary>More</summary>\n\nText.\n\n</details>\n<!-- no -->", "More\n\nText."),
        ("<table><tr><td>A</td><td>B &amp; C</td></tr></table>", "A B & C"),
        ("Cost $5 or $6, $x^*_1 \\{y\\}^*$.", "Cost $5 or $6, $x^*_1 \\{y\\}^*$."),
        ("<!-- never closed", ""),
    ],
)  # fmt: skip
def test_markdown_is_read_as_on_the_page(source: str, plain: str):
    assert markdown_to_text(source) == plain
    (found,) = get_reader("markdown")("a.md", io.BytesIO(source.encode()), ReaderOptions())
    assert isinstance(found, Document)
    assert found.text == plain


RST_OBJECTS = """
.. class:: Field(null=False, \\*args)
           Field()

    A field of a :class:`~a.b.Model`.

    .. method:: clean(value)

        Checks the *value*.

    .. attribute:: blank

.. function:: path(route, view)
    :module: django.urls

    Returns an element::

        path("a", view)
"""


@pytest.mark.parametrize(
    ("source", "plain"),
    [
        (RST_OBJECTS, "class Field(null=False, *args)\nclass Field()\n\nA field of a Model.\n\nclean(value)"
         "\n\nChecks the value.\n\nblank"
                      "\n\npath(route, view)\n\nReturns an element:\n\npath(\"a\", view)"),
        ("Head\n====\n\nUse ``x = 1``, `Docs <http://x>`_, **b** and *this*.", "Head\n\nUse x = 1, Docs, b and this."),
        ("===\nTop\n===\n\na\n\n----\n\nb", "Top\n\na\n\nb"),
        (".. note::\n\n    Noted.\n\n.. warning:: Hot\n    iron.\n\n.. admonition:: Title\n\n    Text.",
         "Note\n\nNoted.\n\nWarning\n\nHot iron.\n\nTitle\n\nText."),
        (".. versionadded:: 5.2\n\n    The option.\n\n.. deprecated:: 4.0",
         "New in version 5.2.\n\nThe option.\n\nDeprecated since version 4.0."),
        ("#. one\n#. two\n\n   #. inner\n\n#. three\n\nText.\n\n#. again",
         "1. one\n2. two\n  1. inner\n3. three\n\nText.\n\n1. again"),
        (".. django-admin-option:: --failfast\n\nStops.", "--failfast\n\nStops."),
        ("See :doc:`/topics/class-based-views/index` and :ref:`the_sites-framework`.",
         "See class based views and the sites framework."),
        (".. code-block:: python\n    :caption: a.py\n\n    if x:\n        y", "a.py\n\nif x:\n    y"),
        ("* one\n  more\n* two\n\n  - in\n\n3. three", "- one more\n- two\n  - in\n3. three"),
        ("* :class:`Lookup`: to look up", "- Lookup: to look up"),
        ("term\n    Its meaning.", "term\n\nIts meaning."),
        (".. _label:\n\nIn\n--\n\n.. a comment\n   of two lines\n\n.. |x| replace:: the *X*"
         "\n\nSee Python_, |x| and :ref:`label`.\n\n.. _Python: http://p",
         "In\n\nSee Python, the X and label."),
        (".. _label:\n\nThe title\n=========\n\nSee :ref:`label`, :ref:`that <label>`.", "The title\n\nSee The title, that."),
        (":meth:`~a.B.save` :func:`f` :pep:`8` :rfc:`822` :ticket:`12` :sup:`2` :math:`x^2` :abbr:`LIFO (last in)`",
         "save() f() PEP 8 RFC 822 #12 ² $x^2$ LIFO"),
        ("=====  ===\nA      B\n=====  ===\nx      y z\n       w\n=====  ===\n\nend", "A | B\nx | y z w\n\nend"),
        ("+---+-----+\n| A | B   |\n+===+=====+\n| x | y   |\n|   | z   |\n+---+-----+", "A | B\nx | y z"),
        (">>> f(1)\n2", ">>> f(1)\n2"),
        ("| a line\n| of verse", "a line\nof verse"),
        ("A claim [1]_ \\*here\\* re\\ ``x``.\n\n.. [1] The note.", "A claim [1] *here* rex.\n\n[1] The note."),
        (":orphan:\n\n:Author: Me\n\n.. toctree::\n    :hidden:\n\n    a/b\n\n.. image:: x.png\n\nText.",
         "Author: Me\n\nText."),
    ],
)  # fmt: skip
def test_rst_is_read_as_on_the_page(source: str, plain: str):
    assert rst_to_text(source) == plain
