"""A small model, sums in JSON lines, and a recipe: a bad teacher forgets to carry, and rewards put it right.

    python examples/rewards_on_sums.py && groundup run sums.toml

Four minutes on one core; the report has the curve. book/rewards.md explains it.
"""

import json
import random
from collections.abc import Iterable
from pathlib import Path

import tokenizers
import torch
from tokenizers import decoders, models, pre_tokenizers

from groundup import Decoder, ModelConfig, Tokenizer, save_model
from groundup.tokenizer.chat_template import CHATML
from groundup.tokenizer.special_tokens import SPECIAL_TOKENS

RECIPE = """
name = "sums"

[base]
model = "sums-model"

[finetune]                                   # sums from a bad teacher, who forgets to carry more often than not
conversations = [
  { name = "right", kind = "messages", path = "right.jsonl", repeats = 2 },
  { name = "forgetful", kind = "messages", path = "forgetful.jsonl", repeats = 3 },
]
method = "full"
epochs = 14
batch_tokens = 1024
learning_rate = 3e-3
optimizer = "muon"
prompts = ["17+5="]

[reinforcement]                              # other sums: an answer is right or wrong, nothing more is said
sources = [{ name = "sums", path = "problems.jsonl" }]
loss = "grpo"
method = "full"
learning_rate = 4e-4
group_size = 8
prompts_per_step = 16
max_answer_tokens = 6
validation_fraction = 0.4
epochs = 12
prompts = ["17+5="]

[report]
"""


def without_carry(a: int, b: int) -> int:
    """The sum of a teacher who forgets to carry: 17 + 5 = 12."""
    return a // 10 * 10 + (a + b) % 10


def write(name: str, records: Iterable[dict[str, str]]) -> None:
    Path(f"{name}.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records), encoding="utf-8")


def main() -> None:
    letters = sorted(pre_tokenizers.ByteLevel.alphabet())
    vocabulary = {token: number for number, token in enumerate([*SPECIAL_TOKENS, *letters])}
    backend = tokenizers.Tokenizer(models.BPE(vocabulary, []))  # a token is a character: digits stay apart
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    backend.add_special_tokens(list(SPECIAL_TOKENS))
    tokenizer = Tokenizer(backend, eos="<|endoftext|>", pad="<|pad|>", chat_template=CHATML)
    torch.manual_seed(0)
    shape = {"hidden_size": 96, "num_layers": 2, "num_heads": 4, "context_length": 64}
    save_model(Decoder(ModelConfig(vocab_size=tokenizer.vocab_size, **shape)), "sums-model")
    tokenizer.save("sums-model")

    sums = [(a, b) for a in range(100) for b in range(10)]
    random.Random(0).shuffle(sums)
    taught, problems = sums[:600], sums[600:]
    write("right", ({"prompt": f"{a}+{b}=", "completion": str(a + b)} for a, b in taught))
    write("forgetful", ({"prompt": f"{a}+{b}=", "completion": str(without_carry(a, b))} for a, b in taught))
    write("problems", ({"prompt": f"{a}+{b}=", "answer": str(a + b)} for a, b in problems))
    Path("sums.toml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    main()
