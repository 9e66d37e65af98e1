"""Tokenizers with chat templates of published models: ours, and that of transformers with the same vocabulary."""

import re
from functools import cache
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, trainers
from tokenizers import Tokenizer as Backend
from transformers import PreTrainedTokenizerFast

from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import Message

FOLDER = Path(__file__).parent / "chat_templates"
TEMPLATES = {path.stem: path.read_text(encoding="utf-8") for path in sorted(FOLDER.glob("*.jinja"))}
SPECIAL = re.compile(
    r"<\|[\w ▁:/-]+?\|?>|<｜[^｜<>]+｜>|<\w+\|>|<(?:start|end)_of_\w+>|</?s>|<(?:bos|eos|pad|sop)>|<\w+_of_\w+>"
    r"|<end_of_utterance>|\[/?(?:INST|SYSTEM_PROMPT|AVAILABLE_TOOLS|TOOL_\w+|ARGS|CALL_ID|THINK)\]|\[gMASK\]"
)
"""Special tokens in the text of a template."""

ADD: dict[str, Any] = {
    "type": "function",
    "function": {
        "name": "add",
        "description": "Sum",
        "parameters": {
            "type": "object",
            "properties": {"a": {"type": "integer", "description": "x"}, "b": {"type": "integer", "description": "y"}},
            "required": ["a", "b"],
        },
    },
}


def user(text: Any) -> Message:
    return {"role": "user", "content": text}


def assistant(text: Any, **fields: Any) -> Message:
    return {"role": "assistant", "content": text, **fields}


def call(arguments: Any) -> list[dict[str, Any]]:
    return [{"id": "abcdefghi", "type": "function", "function": {"name": "add", "arguments": arguments}}]


RESULT: Message = {"role": "tool", "tool_call_id": "abcdefghi", "name": "add", "content": "3"}
SYSTEM: Message = {"role": "system", "content": "Be kind."}
TOOLS: dict[str, Any] = {"tools": [ADD]}
MULTI = [user("Hello"), assistant("Hi there."), user("And now?"), assistant("Yes.")]

CONVERSATIONS: dict[str, tuple[list[Message], dict[str, Any]]] = {
    "single": ([user("Hello"), assistant("Hi there.")], {}),
    "multi": (MULTI, {}),
    "system": ([SYSTEM, *MULTI], {}),
    "spaces": ([user(" Hello "), assistant(" Hi there. \n"), user("x"), assistant("\n\ny\n")], {}),
    "tools": ([user("1+2?"), assistant(None, tool_calls=call({"a": 1, "b": 2})), RESULT, assistant("It is 3.")], TOOLS),
    "arguments as text": (
        [user("1+2?"), assistant(None, tool_calls=call('{"a": 1, "b": 2}')), RESULT, assistant("It is 3.")],
        TOOLS,
    ),
    "ends with a call": ([user("1+2?"), assistant("", tool_calls=call({"a": 1, "b": 2}))], TOOLS),
    "thoughts": (
        [user("Hello"), assistant("Hi.", reasoning_content="A greeting."), user("x"), assistant("y", thinking="Hm.")],
        {},
    ),
    "thoughts in the text": (
        [
            user("Hello"),
            assistant("<think>\nA greeting.\n</think>\n\nHi."),
            user("x"),
            assistant("<think>Hm.</think>y"),
        ],
        {},
    ),
    "doubled roles": ([user("Hello"), user("You?"), assistant("Hi."), assistant("Yes.")], {}),
    "assistant first": ([assistant("Welcome."), *MULTI], {}),
    "user last": ([*MULTI, user("Bye")], {}),
    "documents": (MULTI, {"documents": [{"title": "T", "text": "X"}]}),
    "parts": ([user([{"type": "text", "text": "Hello"}]), assistant([{"type": "text", "text": "Hi."}])], {}),
}


@cache
def _base() -> Backend:
    backend = Backend(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)  # type: ignore[assignment]
    backend.decoder = decoders.ByteLevel()  # type: ignore[assignment]
    trainer = trainers.BpeTrainer(
        vocab_size=2000, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False
    )
    backend.train_from_iterator([*TEMPLATES.values(), *["Hello Hi there. And now? Yes. It is 3. Hm."] * 50], trainer)
    return backend


def pair(template: str, other: str = "") -> tuple[Tokenizer, PreTrainedTokenizerFast]:
    """Our tokenizer and that of transformers, with the special tokens of both templates."""
    names = sorted({"<bos>", "<eos>", *SPECIAL.findall(template), *SPECIAL.findall(other)})
    backends = [Backend.from_str(_base().to_str()) for _ in range(2)]
    for backend in backends:
        backend.add_special_tokens([AddedToken(name, special=True, normalized=False) for name in names])
    ours = Tokenizer(backends[0], bos="<bos>", eos="<eos>", chat_template=template)
    theirs = PreTrainedTokenizerFast(
        tokenizer_object=backends[1], bos_token="<bos>", eos_token="<eos>", chat_template=template
    )
    return ours, theirs


def peer_ids(peer: Any, messages: list[Message], **names: Any) -> tuple[list[int], list[int]]:
    """The ids of a conversation in transformers, and its mask; zeros without tags in the template."""
    encoded = peer.apply_chat_template(messages, return_dict=True, return_assistant_tokens_mask=True, **names)
    return list(encoded["input_ids"]), list(encoded["assistant_masks"])


def marked(tokenizer: Tokenizer, messages: list[Message], **names: Any) -> str:
    """The conversation to train on as text, with « » around what has a loss."""
    ids, mask = tokenizer.render_chat_with_mask(messages, **names)
    text, inside = "", 0
    for id, learnt in zip(ids, mask, strict=True):
        text += ("«" if learnt > inside else "»" if learnt < inside else "") + tokenizer.decode([id])
        inside = learnt
    return text + "»" * inside
