"""Which weights of a fine-tuning on a few hundred conversations are the best: answers at ten points of it, beside held-out loss.

    python benchmarks/best_weights.py runs/quickstart/04-base           # the quickstart's conversations
    python benchmarks/best_weights.py MODEL --epochs 6 --questions 24

A row is an evaluation: steps, held-out loss (nats per token), training questions answered as trained (the first eight words), the
share of words in common with the true answer (F1) for training questions and for held-out ones, held-out questions that got an
answer of the training set word by word, and different answers to held-out questions.
"""

import argparse
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from groundup import open_model
from groundup.artifacts.machine import Machine
from groundup.finetune import LoRAOptions, finetune, read_conversations, sft
from groundup.finetune.finetune_plan import with_chat_template
from groundup.finetune.finetune_task import greedy_answers
from groundup.finetune.training_data.conversations import split_conversations
from groundup.recipe import load_recipe

RECIPE = Path(__file__).parent.parent / "recipes" / "quickstart.toml"
WORDS = 8
HELD_OUT = 0.2


def questions(conversations: Any, count: int, known: Mapping[str, Any] | None = None) -> dict[str, list[str]]:
    """At most `count` first turns, evenly spaced, with their answers; none of `known`."""
    found: dict[str, list[str]] = {}
    for each in conversations:
        if each.messages[0]["role"] == "user" and each.answer.strip() and each.opening not in (known or {}):
            found.setdefault(each.opening, []).append(each.answer)
    return {name: found[name] for name in list(found)[:: max(1, len(found) // count)][:count]}


def words_in_common(answer: str, expected: str) -> float:
    """F1 of the words of an answer."""
    ours, theirs = Counter(answer.lower().split()), Counter(expected.lower().split())
    return 2 * (ours & theirs).total() / max(1, ours.total() + theirs.total())


def mean_best(answers: Sequence[str], expected: Mapping[str, Sequence[str]]) -> float:
    best = [
        max(words_in_common(a, each) for each in texts) for a, texts in zip(answers, expected.values(), strict=True)
    ]
    return sum(best) / max(1, len(best))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", type=Path)
    parser.add_argument("--epochs", type=float)
    parser.add_argument("--questions", type=int, default=60)
    parser.add_argument("--taught", action="store_true", help="the model knows its chat template: no token rows")
    arguments = parser.parse_args()
    machine, config = Machine(device="cpu"), load_recipe(RECIPE).finetune
    assert config is not None
    model, tokenizer = open_model(arguments.model, "cpu")[:2]
    with_chat_template(tokenizer)
    conversations, _ = read_conversations(config.conversations, machine, config.doubled_roles)
    train, validation = split_conversations(conversations, HELD_OUT)
    old = questions(train, arguments.questions)
    new = questions(validation, arguments.questions, {each.opening: 1 for each in train})
    learnt = {each.answer for each in train}
    score = sft.validation_loss
    print(f"{len(train)} conversations, {len(validation)} held out; {len(old)} and {len(new)} questions", flush=True)

    def measure(model: Any, *rest: Any) -> float:
        loss = score(model, *rest)
        answers, others = (greedy_answers(model.eval(), tokenizer, list(each)) for each in (old, new))
        recalled = sum(
            any(answer.split()[:WORDS] == text.split()[:WORDS] for text in texts)
            for answer, texts in zip(answers, old.values(), strict=True)
        )
        print(f"| {loss:.2f} | {recalled} | {mean_best(answers, old):.2f} | {mean_best(others, new):.2f} | "
              f"{sum(answer in learnt for answer in others)} | {len(set(others))} |", flush=True)  # fmt: skip
        return loss

    sft.validation_loss = measure
    result = finetune(
        model, tokenizer, train, validation, epochs=arguments.epochs, machine=machine, precision="bfloat16",
        augment_user_turns=not arguments.taught, lora=LoRAOptions(token_rows=not arguments.taught),
    )  # fmt: skip
    print("after 0 steps, then", [record["step"] for record in result.training.evaluations], result.knobs)


if __name__ == "__main__":
    main()
