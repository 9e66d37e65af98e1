"""Fine-tuning that ranks run in test_tuning_ranks.py, and one process for comparison."""

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from groundup.artifacts.machine import Machine
from groundup.data.conversation_shapes import in_turn
from groundup.finetune import finetune, finetune_preferences
from groundup.finetune.chat_batches import ChatBatches
from groundup.finetune.lora import LoRAOptions
from groundup.finetune.reinforcement.reinforcement import finetune_reinforcement
from groundup.model import Decoder
from groundup.recipe import ModelConfig
from groundup.tokenizer import Tokenizer
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS

MODEL = {
    "vocab_size": 264, "hidden_size": 32, "num_layers": 2, "num_heads": 2, "context_length": 96, "tie_embeddings": True,
}  # fmt: skip
WORDS = ("red", "green", "blue", "white", "black", "grey", "pink")
SFT = {"epochs": 4.0, "batch_tokens": 288, "sequence_length": 96, "learning_rate": 5e-3}
REINFORCEMENT = {
    "epochs": 4.0, "learning_rate": 1e-2, "prompts_per_step": 3, "group_size": 4, "max_answer_tokens": 8, "kl_coefficient": 0.1,
    "precision": "float32",
}  # fmt: skip
PREFERENCE = {"epochs": 3.0, "batch_tokens": 300, "learning_rate": 5e-3, "beta": 0.5}


@dataclass(frozen=True)
class TuningCase:
    """One training: of `finetune`, or with `loss` of `finetune_preferences` or `finetune_reinforcement`.

    Attributes:
        folder: keeps its checkpoints, one after each step.
        stops: steps at which an attempt ends; the last attempt goes on to the end.
    """

    options: dict[str, Any] = field(default_factory=dict)
    layout: dict[str, Any] = field(default_factory=dict)
    model: dict[str, Any] = field(default_factory=dict)
    loss: Any = None
    folder: Path | None = None
    stops: tuple[int, ...] = ()


class Stopped(Exception):
    """In place of a kill."""


def tune_all(cases: dict[str, TuningCase]) -> dict[str, dict[str, Any]]:
    """The outcome of each case."""
    return {name: tune_in_attempts(case) for name, case in cases.items()}


def tune_in_attempts(case: TuningCase) -> dict[str, Any]:
    """The outcome of the last attempt."""
    original = ChatBatches.batch

    def stop_at(step: int) -> Callable[..., Any]:
        def batch(self: ChatBatches, index: int) -> Any:
            if index == step:
                raise Stopped
            return original(self, index)

        return batch

    for stop in case.stops:
        ChatBatches.batch = stop_at(stop)  # type: ignore[method-assign]
        with suppress(Stopped):
            tune(case)
        ChatBatches.batch = original  # type: ignore[method-assign]
    return tune(case)


def tune(case: TuningCase) -> dict[str, Any]:
    """Losses, gradient norms, evaluations and final weights, merged."""
    torch.manual_seed(0)
    torch.set_num_threads(1)
    model = Decoder(ModelConfig(**MODEL | case.model)).eval()
    tokenizer = byte_tokenizer()
    every = 0.0 if case.folder is not None else 1e9
    machine = Machine(threads=1, device="cpu", layout=case.layout, micro_batch_size=1, checkpoint_every_seconds=every)
    options: dict[str, Any] = {"machine": machine, "folder": case.folder, "seed": 3, "lora_rank": 4} | case.options
    if isinstance(options.get("lora"), dict):
        options["lora"] = LoRAOptions(**options["lora"])
    if case.loss is None:
        chats = [in_turn([f"Which colour is {word}?", f"It is {word}."]) for word in WORDS]
        result: Any = finetune(model, tokenizer, chats[:5], chats[5:], **SFT | options)
    elif case.loss in ("grpo", "rloo"):
        problems = [{"prompt": word, "answer": ""} for word in WORDS]
        result = finetune_reinforcement(
            model, tokenizer, problems[:5], small_letters, problems[5:], loss=case.loss, **REINFORCEMENT | options
        )
    else:
        pairs = [{"prompt": f"{word}?", "chosen": f"Yes, {word}.", "rejected": "No." * (index % 3 + 1)}
                 for index, word in enumerate(WORDS)]  # fmt: skip
        result = finetune_preferences(model, tokenizer, pairs[:5], pairs[5:], loss=case.loss, **PREFERENCE | options)
    records = result.training.records
    names = ("step", "loss", "gradient_norm", "learning_rate", "tokens", "kl", "reward")
    found: dict[str, Any] = {name: [record[name] for record in records] for name in names if name in records[0]}
    weights = {name: weight.numpy() for name, weight in result.model.state_dict().items() if not weight.is_meta}
    return found | {"evaluations": result.training.evaluations, "weights": weights}


def small_letters(text: str, problem: Any) -> float:
    """Share of small letters: most groups of a new model differ in it."""
    return sum(letter.islower() for letter in text) / max(1, len(text))


def byte_tokenizer() -> Tokenizer:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocab=vocabulary, merges=[]))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    return Tokenizer(backend, eos="<|endoftext|>", pad="<|pad|>", chat_template=CHATML)
