"""A small model, sums in JSON lines, and a recipe that teaches it some sums and lets it learn the rest from rewards.

    python examples/rewards_on_sums.py && groundup run sums.toml

Ten minutes on two cores; the report has the curve. book/rewards.md explains it.
"""

import json
import random
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

[finetune]                                   # some sums, not often enough to add well
conversations = [{ name = "sums", kind = "messages", path = "taught.jsonl" }]
method = "full"
epochs = 11
batch_tokens = 1024
learning_rate = 3e-3
optimizer = "muon"
augment_user_turns = false
prompts = ["12+7="]

[reinforcement]                              # other sums: an answer is right or wrong, nothing more is said
sources = [{ name = "sums", path = "problems.jsonl" }]
rewards = [{ kind = "answer" }]
loss = "grpo"
method = "full"
learning_rate = 2e-4
group_size = 8
prompts_per_step = 16
max_answer_tokens = 6
validation_fraction = 0.3
epochs = 3
prompts = ["12+7="]

[report]
"""


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
    for name, part, field in (("taught", sums[:500], "completion"), ("problems", sums[500:], "answer")):
        lines = (json.dumps({"prompt": f"{a}+{b}=", field: str(a + b)}) + "\n" for a, b in part)
        Path(f"{name}.jsonl").write_text("".join(lines), encoding="utf-8")
    Path("sums.toml").write_text(RECIPE, encoding="utf-8")


if __name__ == "__main__":
    main()
