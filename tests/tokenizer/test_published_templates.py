"""Chat templates of published models: the ids of transformers, and a loss on the assistant's turns with their ends."""

import pytest
from published_templates import (
    CONVERSATIONS,
    MULTI,
    RESULT,
    TEMPLATES,
    TOOLS,
    assistant,
    call,
    marked,
    pair,
    peer_ids,
    user,
)

from groundup.artifacts.errors import UserError
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import FIXED_DATE, render

AFTER_HELLO = {
    "deepseekv3": "<｜Assistant｜>«Hi there.<｜end▁of▁sentence｜>»<｜User｜>And now?<｜Assistant｜>«Yes.<｜end▁of▁sentence｜>»",
    "glm4moe": "<|assistant|>«\n<think></think>\nHi there.<|user|>»\nAnd now?<|assistant|>«\n<think></think>\nYes.<|user|>»",
    "gptoss": "<|end|><|start|>assistant«<|channel|>final<|message|>Hi there.<|end|>»<|start|>user<|message|>And now?<|end|>"
    "<|start|>assistant«<|channel|>final<|message|>Yes.<|return|>»",
    "granite_3_3": "<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>«Hi there.<|end_of_text|>\n»<|start_of_role|>user"
    "<|end_of_role|>And now?<|end_of_text|>\n<|start_of_role|>assistant<|end_of_role|>«Yes.<|end_of_text|>\n»",
    "mistral_nemo": "[/INST]«Hi there.<eos>»[INST]And now?[/INST]«Yes.<eos>»",
    "phi3": "<|end|>\n<|assistant|>\n«Hi there.<|end|>\n»<|user|>\nAnd now?<|end|>\n<|assistant|>\n«Yes.<|end|>\n<eos>»",
    "qwen2_5": "<|im_end|>\n<|im_start|>assistant\n«Hi there.<|im_end|>\n»<|im_start|>user\nAnd now?<|im_end|>\n"
    "<|im_start|>assistant\n«Yes.<|im_end|>\n»",
    # The template itself leaves the thoughts out of the first answer, where the model would write them.
    "qwen3": "<|im_end|>\n<|im_start|>assistant\n«<think>\n\n</think>\n\nHi there.<|im_end|>\n»<|im_start|>user\n"
    "And now?<|im_end|>\n<|im_start|>assistant\n«<think>\n\n</think>\n\nYes.<|im_end|>\n»",
    "qwen3_5_think": "<|im_end|>\n<|im_start|>assistant\n<think>\n«\n</think>\n\nHi there.<|im_end|>\n»<|im_start|>user\nAnd now?"
    "<|im_end|>\n<|im_start|>assistant\n<think>\n«\n</think>\n\nYes.<|im_end|>\n»",
    "smollm3": "<|im_end|>\n<|im_start|>assistant\n«Hi there.<|im_end|>\n»<|im_start|>user\nAnd now?<|im_end|>\n"
    "<|im_start|>assistant\n«Yes.<|im_end|>\n»",
}  # fmt: skip
END_OF_TURN = {
    "deepseekv3": "<｜end▁of▁sentence｜>", "glm4moe": "<|user|>", "gptoss": "<|return|>", "granite_3_3": "<|end_of_text|>",
    "mistral_nemo": "<eos>", "phi3": "<eos>", "qwen2_5": "<|im_end|>", "qwen3": "<|im_end|>", "qwen3_5_think": "<|im_end|>",
    "smollm3": "<|im_end|>",
}  # fmt: skip


@pytest.mark.parametrize("name", TEMPLATES)
@pytest.mark.usefixtures("fixed_date")
def test_ids_are_those_of_transformers(name: str):
    ours, peer = pair(TEMPLATES[name])
    rendered = 0
    for title, (messages, names) in CONVERSATIONS.items():
        for prompt in (False, True):
            try:
                expected, _ = peer_ids(peer, messages, add_generation_prompt=prompt, **names)
            except Exception:  # a template refuses in many ways
                with pytest.raises(UserError):
                    ours.render_chat(messages, add_generation_prompt=prompt, **names)
            else:
                rendered += 1
                assert ours.render_chat(messages, add_generation_prompt=prompt, **names) == expected, (title, prompt)
    assert rendered >= 14


@pytest.mark.parametrize("name", TEMPLATES)
def test_loss_covers_the_answers_and_the_end_of_turn(name: str):
    ours, _ = pair(TEMPLATES[name])
    assert marked(ours, MULTI).rpartition("Hello")[2] == AFTER_HELLO[name]
    last = AFTER_HELLO[name].replace("«", "", 1).replace("»", "", 1)
    if ours.training_form(MULTI) == "as rendered":
        ids, mask = ours.render_chat_with_mask(MULTI, last_turn_only=True)
        assert last.endswith(f"«{ours.decode([id for id, learnt in zip(ids, mask, strict=True) if learnt])}»")
    assert ours.token(ours.end_of_turn_id or 0) == END_OF_TURN[name]
    assert ours.end_of_turn_id in ours.stop_ids


def test_generation_does_not_end_between_thoughts_and_answer():
    ours, _ = pair(TEMPLATES["gptoss"])
    assert ours.token_id("<|end|>") not in ours.stop_ids
    phi, _ = pair(TEMPLATES["phi3"])
    assert phi.token_id("<|end|>") in phi.stop_ids


def test_calls_and_answers_to_their_results_have_a_loss():
    glm = pair(TEMPLATES["glm4moe"])[0]
    chat = [user("1+2?"), assistant(None, tool_calls=call({"a": 1})), RESULT, assistant("It is 3.")]
    assert marked(glm, chat, **TOOLS).rpartition("1+2?")[2] == (
        "<|assistant|>«\n<think></think>\n<tool_call>add\n<arg_key>a</arg_key>\n<arg_value>1</arg_value>\n</tool_call>"
        "<|observation|>»\n<tool_response>\n3\n</tool_response><|assistant|>«\n<think></think>\nIt is 3.<|user|>»"
    )
    assert marked(glm, chat[:2], **TOOLS).endswith("</tool_call><|observation|>»")
    qwen = pair(TEMPLATES["qwen2_5"])[0]
    assert marked(qwen, chat, **TOOLS).rpartition("1+2?")[2] == (
        '<|im_end|>\n<|im_start|>assistant\n«<tool_call>\n{"name": "add", "arguments": {"a": 1}}\n</tool_call><|im_end|>\n»'
        "<|im_start|>user\n<tool_response>\n3\n</tool_response><|im_end|>\n<|im_start|>assistant\n«It is 3.<|im_end|>\n»"
    )


def test_thoughts_of_every_answer_are_learnt():
    chat = [user("Hello"), assistant("Hi.", reasoning="A greeting."), user("x"), assistant("y", reasoning="Hm.")]
    expected = {
        "qwen3": "«<think>\nA greeting.\n</think>\n\nHi.<|im_end|>\n»<|im_start|>user\nx<|im_end|>\n<|im_start|>assistant\n"
        "«<think>\nHm.\n</think>\n\ny<|im_end|>\n»",
        "glm4moe": "«\n<think>A greeting.</think>\nHi.<|user|>»\nx<|assistant|>«\n<think>Hm.</think>\ny<|user|>»",
        "gptoss": "«<|channel|>analysis<|message|>A greeting.<|end|><|start|>assistant<|channel|>final<|message|>Hi.<|end|>»"
        "<|start|>user<|message|>x<|end|><|start|>assistant«<|channel|>analysis<|message|>Hm.<|end|>"
        "<|start|>assistant<|channel|>final<|message|>y<|return|>»",
    }
    for name, text in expected.items():
        ours = pair(TEMPLATES[name])[0]
        assert ours.training_form(chat) == "as last"
        assert marked(ours, chat).endswith(text)


def test_an_answer_without_weight_has_no_loss():
    chat = [MULTI[0], {**MULTI[1], "weight": 0}, *MULTI[2:]]
    for name in ("qwen2_5", "qwen3", "smollm3"):  # by rendering, put together, and by tags
        text = marked(pair(TEMPLATES[name])[0], chat)
        assert text.count("«") == 1
        assert "Hi there.<|im_end|>" in text.partition("«")[0]


ALWAYS_WITH_HEADER = (
    "{% for m in messages %}{{ '<|im_start|>' + m.role + '\n' + m.content + '<|im_end|>\n' }}{% endfor %}"
    "{{ '<|im_start|>assistant\n' }}"
)
WITHOUT_PROMPT = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}"
SPACE_BEFORE = (
    "{% for m in messages %}{% if m.role == 'user' %}{{ 'User: ' + m.content + ' Assistant: ' }}"
    "{% else %}{{ m.content + eos_token }}{% endif %}{% endfor %}"
)
END_AFTER_ALL = (
    "{% for m in messages %}{{ '<|' + m.role + '|>' + m.content | trim }}{% endfor %}"
    "{{ '<|assistant|>' if add_generation_prompt else eos_token }}"
)
UNEQUAL = "{{ messages | length }}{% for m in messages %}{{ m.content + eos_token }}{% endfor %}"


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (ALWAYS_WITH_HEADER, "<|im_start|>user\nHello<|im_end|>\n<|im_start|>assistant\n«Hi there.<|im_end|>»\n<|im_start|>user\n"
         "And now?<|im_end|>\n<|im_start|>assistant\n«Yes.<|im_end|>»\n<|im_start|>assistant\n"),
        (WITHOUT_PROMPT, "user: Hello<eos>assistant:« Hi there.<eos>»user: And now?<eos>assistant:« Yes.<eos>»"),
        (SPACE_BEFORE, "User: Hello Assistant:« Hi there.<eos>»User: And now? Assistant:« Yes.<eos>»"),
        (END_AFTER_ALL, "<|user|>Hello<|assistant|>«Hi there.<|user|>»And now?<|assistant|>«Yes.<eos>»"),
        (UNEQUAL, "4Hello<eos>«Hi there.<eos>»And now?<eos>«Yes.<eos>»"),
    ],
    ids=["header always", "no prompt", "space before", "end after all", "unequal"],
)  # fmt: skip
def test_loss_with_templates_of_unusual_shape(template: str, expected: str):
    ours = pair(template, "<|im_start|><|im_end|><|user|><|assistant|>")[0]
    assert marked(ours, MULTI) == expected


def test_dates_are_the_same_on_every_day():
    template = "{{ strftime_now('%Y-%m-%d') }}"
    assert render(template, MULTI)[0] == "2024-07-26"
    assert render(template, MULTI, now=FIXED_DATE.replace(year=2030))[0] == "2030-07-26"


def test_a_template_without_an_end_of_turn_has_none():
    ours: Tokenizer = pair("{% for m in messages %}{{ m.role + ': ' + m.content }}\n{% endfor %}")[0]
    assert ours.end_of_turn_id is None
