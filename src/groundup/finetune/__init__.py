"""11. Teaching: from a model that continues text to one that answers.

Reading order: `dialogues` (conversations from files), `split` (which are held out), `variants` (what people
also type), `batches` (conversations to rows of tokens, loss on the assistant's alone), `pairs` (the same for an
encoder-decoder, as in translation), `forms` (which of the two a model learns from), `lora` (small
additions to frozen weights), `rows` (the control tokens' embeddings, which no text has trained), `adapter`
(the additions as a folder that PEFT opens), `sft` (one training run), `identity`, `stage`.

Deliberately absent: a loop (chapter 10 has the only one), and learning from preferences and rewards (DPO,
GRPO): a loss and its batches each, still to come.

Names below are imported when they are first used: `identity` needs no torch, and must be quick to reach.
"""

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from groundup.finetune.chat_batches import ChatBatches as ChatBatches
    from groundup.finetune.conversations import TrainingConversation as TrainingConversation
    from groundup.finetune.conversations import read_conversations as read_conversations
    from groundup.finetune.lora import apply_lora as apply_lora
    from groundup.finetune.lora import merge_lora as merge_lora

_LAZY_IMPORTS = {
    "ChatBatches": "chat_batches",
    "TrainingConversation": "conversations",
    "read_conversations": "conversations",
    "apply_lora": "lora",
    "merge_lora": "lora",
}

__all__ = ["ChatBatches", "TrainingConversation", "apply_lora", "merge_lora", "read_conversations"]


def __getattr__(name: str) -> Any:
    if name not in _LAZY_IMPORTS:
        raise AttributeError(
            f"module 'groundup.finetune' has no attribute {name!r}; it has {', '.join(__all__)}"
        )
    return getattr(importlib.import_module(f"groundup.finetune.{_LAZY_IMPORTS[name]}"), name)
