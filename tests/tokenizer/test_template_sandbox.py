"""Chat templates of strangers end early, in bounded time and memory; those of published models render as in transformers."""

import resource
import time
from collections.abc import Iterator

import pytest
from transformers.utils.chat_template_utils import _compile_jinja_template

from groundup.artifacts.errors import UserError
from groundup.tokenizer.chat_template import render
from groundup.tokenizer.template_sandbox import BASE_BUDGET

MESSAGES = [{"role": "user", "content": "Hello <b>"}, {"role": "assistant", "content": " Hi & bye\nline "}] * 3
LOOPS = "{% for a in range(100000) %}{% for b in range(100000) %}{% for c in range(100000) %}"
DOUBLE = "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(64) %}{% set ns.x = VALUE %}{% endfor %}"
NESTED = "{% set ns = namespace(x=['x']) %}{% for i in range(64) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}"

HOSTILE = {
    "nested loops": LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "loop condition": "{% for a in range(100000) %}{% for b in range(100000) if false %}{% endfor %}{% endfor %}",
    "text in a loop": "{% for a in range(100000) %}" + "x" * 100_000 + "{% endfor %}",
    "statements in a loop": "{% for a in range(100000) %}" + "{% if a %}b{% endif %}" * 8000 + "{% endfor %}",
    "recursive loop": "{% for a in [1, 1] recursive %}{{ loop([1, 1]) }}{% endfor %}",
    "recursive macro": "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(100) }}",
    "recursive block": "{% block b %}{{ self.b() }}{{ self.b() }}{% endblock %}",
    "text times number": "{{ ('x' * 10**9) * 10 }}",
    "number times text": "{{ 10**10 * 'x' }}",
    "list times number": "{{ ([0] * 10**9) | length }}",
    "shared list": "{{ [range(100000) | list] * 100000 }}",
    "power": "{{ 10 ** (10 ** 10) }}",
    "powers": "{{ 2 ** 4000 * 2 ** 4000 * 2 ** 4000 }}",
    "percent width": "{{ '%999999999d' % 1 }}",
    "percent star": "{{ '%*d' % (999999999, 1) }}",
    "percent fields": "{{ ('%(a)s' * 10000) % {'a': 'x' * 1000000} }}",
    "percent filter": "{{ '%999999999d' | format(1) }}",
    "format width": "{{ '{:999999999}'.format('x') }}",
    "format argument": "{{ '{:{}}'.format('x', 999999999) }}",
    "format fields": "{{ ('{0}' * 10000).format('x' * 1000000) }}",
    "format map": "{{ '{a:999999999}'.format_map({'a': 'x'}) }}",
    "doubled text": DOUBLE.replace("VALUE", "ns.x + ns.x"),
    "doubled by tilde": DOUBLE.replace("VALUE", "ns.x ~ ns.x"),
    "doubled by join": DOUBLE.replace("VALUE", "[ns.x, ns.x] | join(ns.x)"),
    "doubled by the method": DOUBLE.replace("VALUE", "ns.x.join([ns.x, ns.x])"),
    "doubled list": DOUBLE.replace("VALUE", "(ns.x | list) + (ns.x | list)"),
    "replaced": DOUBLE.replace("VALUE", "ns.x.replace('x', ns.x)"),
    "replace filter": DOUBLE.replace("VALUE", "ns.x | replace('x', ns.x)"),
    "doubled by a block": DOUBLE.replace("{% set ns.x = VALUE %}", "{% set t %}{{ns.x}}{{ns.x}}{% endset %}{% set ns.x = t %}"),
    "nested output": NESTED + "{{ ns.x }}",
    "nested JSON": NESTED + "{{ ns.x | tojson }}",
    "nested comparison": NESTED + "{{ ns.x == ns.x | list }}",
    "nested attributes": (
        "{% set a = namespace() %}{% set x = [a, a] %}{% set b = namespace(v=x) %}{% set a.v = [b, b] %}{{ [a, b] }}"
        + LOOPS + "{% endfor %}{% endfor %}{% endfor %}"
    ),
    "indent": "{{ 'x\n' | indent(10**9) }}{{ ('x\n' * 1000) | indent('x' * 1000000) }}",
    "tojson indent": "{{ messages | tojson(indent=10**9) }}{{ range(100000) | list | tojson(indent='x' * 1000000) }}",
    "tojson separators": "{{ range(100000) | list | tojson(separators=('x' * 1000000, ':')) }}",
    "center": "{{ 'x' | center(10**9) }}",
    "center method": "{{ 'x'.center(10**9) }}",
    "zfill": "{{ 'x'.zfill(10**10) }}",
    "ljust": "{{ 'x'.ljust(10**10) }}",
    "lipsum": "{{ lipsum(100000, min=100000) }}",
    "cycler": "{{ cycler(1, 2).next() }}" + LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "joiner": "{{ joiner(',')() }}" + LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "wordwrap": "{{ 'x' | wordwrap(1, wrapstring='x' * 100000) }}",
    "batch": "{{ [1] | batch(10**9, 'x') | list }}",
    "slice": "{{ [1] | slice(10**9) | list }}",
    "expandtabs": "{{ '\t'.expandtabs(10**9) }}",
    "translate": "{{ ('a' * 1000000).translate({97: 'x' * 1000000}) }}",
    "to_bytes": "{{ (1).to_bytes(10**10, 'big') }}",
    "encode": "{{ 'x'.encode().ljust(10**10) }}",
    "round": "{{ 1.5 | round(10**9, 'ceil') }}" + LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "sum of lists": "{{ ([range(1000) | list] * 5000) | sum(start=[]) | length }}",
    "strip": "{{ ('a' * 4000000).strip('b' * 4000000 + 'a') }}",
    "rfind": "{{ ('a' * 4000000).rfind('b' + 'a' * 2000000) }}",
    "slices": "{% set t = 'x' * 4000000 %}{% for i in range(100000) %}{% set y = t[::-1] %}{% endfor %}",
    "comparisons": "{% set t = 'x' * 4000000 %}{% set u = t + '' %}{% for i in range(100000) %}{{ t[1:] == u[1:] }}{% endfor %}",
    "memberships": "{% set t = range(90000) | list %}{% for i in range(100000) %}{{ 'x' in t }}{% endfor %}",
    "hashes": (
        "{% set ns = namespace(x=('x',)) %}{% for i in range(20) %}{% set ns.x = (ns.x, ns.x) %}{% endfor %}"
        "{% for i in range(100000) %}{{ {}[ns.x] }}{% endfor %}"
    ),
    "integer of text": "{{ ('f' * 4000000) | int(base=16) // 3 }}" + LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "upper in a loop": "{% set t = 'x' * 1000000 %}{% for i in range(100000) %}{{ t.upper()[:1] }}{% endfor %}",
    "map in a map": "{{ (range(100000) | map('string') | map('replace', '', 'x' * 1000000)) | list | length }}",
    "calls": "{% macro m() %}{{ caller() * 2 }}{% endmacro %}" + "{% call m() %}" * 18 + "x" * 1000 + "{% endcall %}" * 18,
    "fromkeys": "{{ {}.fromkeys(range(100000), 'x') }}" + LOOPS + "{% endfor %}{% endfor %}{% endfor %}",
    "words": "{% set t = 'a b' * 1000000 %}{% for i in range(100000) %}{% set n = t | wordcount %}{% endfor %}",
    "letters": "{% set t = '12' * 50000 %}{% for i in range(100000) %}{% set n = t | min %}{% endfor %}",
    "elements": "{% set t = range(90000) | list %}{% for i in range(100000) %}{{ t.count(0) + t.index(89999) }}{% endfor %}",
    "shared in shared": (
        "{% set d = [1] %}{% set e = [1] %}" + "{% set d = [d, d] %}{% set e = [e, e] %}" * 64 + "{{ [e].index(d) }}"
    ),
    "quoted quotes": DOUBLE.replace("VALUE", "ns.x | replace('x', '\"') | tojson"),
    "nested formats": "{% set s = '{0}{0}' %}" + "{% set s = s.format(s) %}" * 64,
    "nested percents": "{% set s = '%s%s' %}" + "{% set s = s % (s, s) %}" * 64,
    "filter blocks": "{% filter replace('x', 'xxxxxxxxxx') %}" * 30 + "x" + "{% endfilter %}" * 30,
    "safe text": "{% set m = '<' | e %}{% set m = m * 999999999 %}",
    "changed": "{% set t = range(90000) | list %}{% for a in t %}{{ loop.changed(t) }}{{ loop.cycle(t, t) }}{% endfor %}",
    "dates": "{% for a in range(100000) %}{{ strftime_now('%c' * 500) }}{% endfor %}",
    "zero division": "{{ 1 / 0 }}",
    "many loops": "{% for a in [1] %}" * 30 + "{% endfor %}" * 30,
    "deep parentheses": "{{ " + "(" * 20_000 + "1" + ")" * 20_000 + " }}",
    "long sum": "{{ 1" + " + 1" * 40_000 + " }}",
    "constant in a block": "{% autoescape ['x' * 1000000] | join('x') | list | length %}{{ 'x' * 10**10 }}{% endautoescape %}",
    "date format": "{{ strftime_now('%1000000000d' * 100000) }}{{ 1 / 0 }}",
    "large template": "x" * 10_000_000,
    "large message": "{{ raise_exception(('x\n' * 100000)) }}",
}  # fmt: skip


@pytest.fixture
def limited_memory() -> Iterator[None]:
    limits = resource.getrlimit(resource.RLIMIT_AS)
    with open("/proc/self/statm") as file:
        used = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + 10**9, limits[1]))
    yield
    resource.setrlimit(resource.RLIMIT_AS, limits)


@pytest.mark.parametrize("budget", [200_000, pytest.param(BASE_BUDGET, marks=pytest.mark.slow)])
@pytest.mark.parametrize("template", HOSTILE.values(), ids=HOSTILE)
def test_hostile_template_ends_early(template: str, budget: int, limited_memory: None, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("groundup.tokenizer.template_sandbox.BASE_BUDGET", budget)
    begin = time.thread_time()
    with pytest.raises(UserError) as caught:
        render(template, MESSAGES)
    seconds = time.thread_time() - begin
    assert "\n" not in caught.value.message
    assert len(caught.value.message) < 1100
    assert "MemoryError" not in caught.value.message
    assert seconds < 30  # of processor time; two or three are usual


PUBLISHED = [
    "{% set ns = namespace(seen=false) %}{% for m in messages[::-1] %}{% if m.role == 'user' and not ns.seen %}"
    "{% set ns.seen = true %}{{ loop.revindex }}{{ m['content'] | trim }}{% endif %}{% endfor %}{{ ns.seen }}",
    "{% for m in messages if m.role != 'user' %}{{ loop.index0 }}{{ loop.last }}{{ loop.length }}{{ m | tojson }}"
    "{{ m | tojson(indent=4) }}{{ m | tojson(separators=(',', ':')) }}{{ loop.previtem is defined }}{% endfor %}",
    "{% macro turn(m, depth=1) %}<{{ m.role ~ depth }}>{{ caller() if caller else '' }}{% endmacro %}"
    "{% for m in messages %}{{- turn(m) }}{% call turn(m, 2) %}{{ m.content }}{% endcall %}\n{% endfor -%}",
    "{% for m in messages %}{% if (m.role == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('x') }}{% endif %}"
    "{{ '%s: %5s|%-5s' % (m.role, 1, 2) }}{{ '{} {:>8}'.format(m.role, 3) }}{{ '%s' | format(m.role) }}{% endfor %}",
    "{% for k, v in {'b': 1, 'a': [1, 2.5, none, true]} | dictsort %}{{ k }}={{ v }},{% endfor %}{{ [3, 1, 2] | sort }}"
    "{{ messages | map(attribute='role') | unique | join(', ') }}{{ messages | selectattr('role', 'eq', 'user') | list }}"
    "{{ messages | rejectattr('role', 'in', ['user']) | map(attribute='content') | map('upper') | first }}{{ [1, 2] | sum }}"
    "{{ messages | groupby('role') | length }}{{ '7' | int + 1 }}{{ 2.567 | round(1) }}{{ -3 | abs }}{{ [4, 5] | last }}",
    "{{ messages[0].content.split('l')[-1].lstrip('o').replace('<', '[').title() }}{{ 'a\nb' | indent(2, true) }}"
    "{{ '<a>' | safe }}{{ ('<a>' | e) + '<' }}{{ messages[:1][0].content[1:-1] }}{{ (messages[:1] + messages)[1].role }}"
    "{{ messages[0].get('x', 'none') }}{{ missing is defined }}{{ missing }}{{ 1 if false }}"
    "{{ 'x' if messages is iterable and messages is not string }}{{ range(2, 9, 3) | list }}{{ dict(a=1).items() | list }}",
    "{% for a in [[1, [2]], [3]] recursive %}{{ loop.depth }}{{ a if a is number else loop(a) }}{% else %}x{% endfor %}"
    "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% elif i > 4 %}{% break %}{% endif %}{{ loop.cycle('a', 'b') }}"
    "{% endfor %}{% filter upper %}x{% endfilter %}{% block b %}{{ messages | length }}{% endblock %}{{ self.b() }}",
    "{%- set text %}{% for m in messages %}{{ m.content }}{% endfor %}{% endset %}{{ text | length }}{{ 7 // 2 }}{{ 2 ** 8 }}"
    "{{ 1 < 2 < 3 }}{{ 'a' ~ 1 ~ none }}{{ (1, 'b')[1] }}{{ {'a': (1, 2)} }}{{ 'b' in 'abc' }}{{ '=' * 5 }}{{ [0] * 2 }}",
]  # fmt: skip


@pytest.mark.parametrize("template", PUBLISHED)
@pytest.mark.parametrize("messages", [MESSAGES, MESSAGES[:1], MESSAGES * 200], ids=len)
def test_usual_templates_render_as_in_transformers(template: str, messages: list[dict[str, str]]):
    expected = _compile_jinja_template(template).render(messages=messages, add_generation_prompt=False)
    assert render(template, messages)[0] == expected


def test_accumulating_template_renders_long_conversations():
    template = (
        "{% set ns = namespace(text='', turns=[]) %}{% for m in messages %}{% set ns.text = ns.text + m.content %}"
        "{% set ns.turns = ns.turns + [m] %}{% for n in messages[loop.index:] %}{% endfor %}{% endfor %}{{ ns.text }}"
    )
    assert len(render(template, MESSAGES[:2] * 250)[0]) > 1000
