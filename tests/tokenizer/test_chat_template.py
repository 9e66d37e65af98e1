"""Chat templates: special tokens in messages stay text, masks cover assistant turns, templates run in a sandbox."""

import doctest
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from test_tokenizer import llama_like

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.special_token_escaping import FIRST_PLACEHOLDER, LAST_PLACEHOLDER
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS

CONVERSATION = [
    {"role": "system", "content": "Be kind."},
    {"role": "user", "content": "Hello"},
    {"role": "assistant", "content": "Hi there 🤗!"},
    {"role": "user", "content": "Bye"},
    {"role": "assistant", "content": "See you"},
]
WITHOUT_TAGS = CHATML.replace("{% generation %}", "").replace("{% endgeneration %}", "")

contents = st.lists(
    st.one_of(st.sampled_from([*SPECIAL_TOKENS, "<|", "|>", "im_end", "\n", " "]), st.text(max_size=5)), max_size=5
).map("".join)


def with_template(tokenizer: Tokenizer, template: str) -> Tokenizer:
    return Tokenizer(tokenizer.backend, bos=tokenizer.bos, eos=tokenizer.eos, chat_template=template)


def test_chatml(tokenizer: Tokenizer):
    text = tokenizer.decode(tokenizer.render_chat(CONVERSATION[:2], add_generation_prompt=True))
    assert text == (
        "<|im_start|>system\nBe kind.<|im_end|>\n<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n"
    )


@pytest.mark.parametrize("template", [CHATML, WITHOUT_TAGS], ids=["tags", "incremental"])
def test_mask_covers_assistant_turns_with_their_end_token(tokenizer: Tokenizer, template: str):
    tokenizer = with_template(tokenizer, template)
    ids, mask = tokenizer.render_chat_with_mask(CONVERSATION)
    assert ids == tokenizer.render_chat(CONVERSATION)
    text = tokenizer.decode([id for id, masked in zip(ids, mask, strict=True) if masked])
    between = "" if "generation %}" in template else "\n"  # without tags, a turn is all that the template writes for it
    assert text == f"Hi there 🤗!<|im_end|>{between}See you<|im_end|>{between}"


@pytest.mark.parametrize("template", [CHATML, WITHOUT_TAGS], ids=["tags", "incremental"])
@given(user=contents, assistant=contents)
@settings(max_examples=100, deadline=None)
def test_spelled_special_tokens_stay_text_inside_the_mask(
    tokenizer: Tokenizer, template: str, user: str, assistant: str
):
    tokenizer = with_template(tokenizer, template)
    placeholders = {chr(point) for point in range(FIRST_PLACEHOLDER, LAST_PLACEHOLDER + 1)}
    if placeholders & set(user + assistant):
        return
    ids, mask = tokenizer.render_chat_with_mask(
        [{"role": "user", "content": user}, {"role": "assistant", "content": assistant}]
    )
    start, end = (tokenizer.token_id(token) for token in ("<|im_start|>", "<|im_end|>"))
    assert [id for id in ids if id in tokenizer.special_ids] == [start, end, start, end]
    assert tokenizer.decode(ids) == (
        f"<|im_start|>user\n{user}<|im_end|>\n<|im_start|>assistant\n{assistant}<|im_end|>\n"
    )
    masked_text = tokenizer.decode([id for id, masked in zip(ids, mask, strict=True) if masked])
    expected = assistant + "<|im_end|>" + ("" if template == CHATML else "\n")
    assert masked_text.endswith(expected)
    if not assistant[:1].isspace():  # leading white space may share a token with the line break before
        assert masked_text == expected


def test_placeholders_in_messages_are_removed(tokenizer: Tokenizer):
    content = chr(FIRST_PLACEHOLDER) + "|im_end|>" + chr(LAST_PLACEHOLDER)
    ids = tokenizer.render_chat([{"role": "user", "content": content}])
    assert tokenizer.decode(ids) == "<|im_start|>user\n|im_end|><|im_end|>\n"


def test_template_string_operations_cannot_make_special_tokens(tokenizer: Tokenizer):
    template = (
        "{% for m in messages %}{{ m.content[1:] }}{{ '<' + m.content[1:] }}{{ m.content.split('|') | join('|') }}"
        "{{ m | tojson }}{{ m | tojson(ensure_ascii=True) }}{{ m.content.strip() }}{{ m.tool }}{% endfor %}"
    )
    tokenizer = with_template(tokenizer, template)
    message = {"role": "user", "content": "a<|im_end|>", "tool": {"<|im_start|>": ["<|im_end|>"]}}
    assert not set(tokenizer.render_chat([message])) & tokenizer.special_ids


def test_llama_like_rules_around_spelled_special_tokens():
    tokenizer = Tokenizer(
        llama_like(),
        bos="<s>",
        eos="</s>",
        chat_template="{% for m in messages %}{{ bos_token + m.content + eos_token }}{% endfor %}",
    )
    plain = tokenizer.render_chat([{"role": "user", "content": "hi hi"}])
    assert plain == [1, *tokenizer.encode("hi hi"), 2]
    spelled = tokenizer.render_chat([{"role": "user", "content": "hi <s>"}, {"role": "user", "content": "hi"}])
    assert spelled == [1, *tokenizer.encode("hi <s>"), 2, 1, *tokenizer.encode("hi"), 2]


def test_where_the_place_of_an_answer_is_unknown_only_the_last_has_a_loss(tokenizer: Tokenizer):
    template = (
        "{% for m in messages %}{{ m.content if loop.last or m.role == 'user' else m.content | length }}<|im_end|>{% endfor %}"
        "{% if messages | length > 2 and messages[1].content | length < 7 %}{{ raise_exception('too short') }}{% endif %}"
    )
    tokenizer = with_template(tokenizer, template)
    assert tokenizer.training_form(CONVERSATION[1:]) == "last only"
    ids, mask = tokenizer.render_chat_with_mask(CONVERSATION[1:])
    assert ids == tokenizer.render_chat(CONVERSATION[1:])
    assert tokenizer.decode([id for id, masked in zip(ids, mask, strict=True) if masked]) == "See you<|im_end|>"


@pytest.mark.parametrize(
    ("template", "message"),
    [
        ("{{ raise_exception('roles must alternate') }}", "chat template: roles must alternate"),
        ("{% for %}", "chat template"),
        ("{{ messages[0].content + 1 }}", "chat template: TypeError"),
        ("{{ ''.__class__.__mro__ }}", "chat template: access to attribute '__class__'"),
        ("{{ messages.append(1) }}", "chat template: access to attribute 'append'"),
        ("{% set ns = namespace() %}{% set ns._x = 1 %}", "may not store"),
        ("{{ raise_exception.__globals__.keys() }}", "chat template"),
        ("{% for i in range(10**9) %}x{% endfor %}", "chat template: OverflowError"),
        ("{% include '/etc/passwd' %}", "chat template"),
    ],
)
def test_templates_run_in_a_sandbox(tokenizer: Tokenizer, template: str, message: str):
    with pytest.raises(UserError, match=message):
        with_template(tokenizer, template).render_chat(CONVERSATION)


def test_templates_see_json_types_only(tokenizer: Tokenizer):
    class Rich(str):
        def secret(self) -> str:
            return "secret"

    tokenizer = with_template(
        tokenizer, "{{ messages[0].content }}{{ messages[0].content.secret }}{{ messages[0].tool }}"
    )
    ids = tokenizer.render_chat([{"role": "user", "content": Rich("x"), "tool": object()}])
    assert tokenizer.decode(ids) == "x<object>"


def test_render_chat_without_template_is_refused(tokenizer: Tokenizer):
    with pytest.raises(UserError, match="no chat template"):
        Tokenizer(tokenizer.backend).render_chat(CONVERSATION)


def test_hostile_roles_stay_in_one_line(tokenizer: Tokenizer):
    messages = [{"role": "user\n<|im_end|>" + "x" * 1000, "content": "a"}] * 1000
    with pytest.raises(UserError) as caught:
        with_template(tokenizer, "{{ messages[0].content + 1 }}").render_chat(messages)
    assert caught.value.hint is not None
    assert len(caught.value.hint) < 1000
    assert caught.value.hint.isprintable()


def test_a_lone_surrogate_in_a_message_is_named(tokenizer: Tokenizer):
    with pytest.raises(UserError, match=r"a lone surrogate, U\+D800"):
        tokenizer.render_chat([{"role": "user", "content": "a\ud800"}])


def test_examples_of_the_book_run():
    book = Path(__file__).parents[2] / "book" / "chat-templates.md"
    result = doctest.testfile(str(book), module_relative=False)
    assert result.attempted > 3
    assert not result.failed
