"""Answers of models to the same prompts, in pairs for blind rating, and what the ratings say."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.artifacts.json_file import read_json_object
from groundup.artifacts.manifest import Manifest
from groundup.evaluate.intervals import share_interval
from groundup.generate import SamplingParams, decode_output, generate, generate_text
from groundup.model import Decoder
from groundup.stages import STAGE_FOLDERS
from groundup.tokenizer import Tokenizer

CHOICES = {"left": (1.0, 0.0), "right": (0.0, 1.0), "tie": (0.5, 0.5), "both bad": (0.5, 0.5)}
"""Wins of the left and the right answer, by the rater's choice."""


@dataclass(frozen=True)
class RatingPair:
    """Two answers to one prompt, by entries whose names the rater does not see."""

    prompt: str
    left: str
    right: str
    left_entry: str
    right_entry: str


def answer_prompts(
    model: Decoder, tokenizer: Tokenizer, prompts: Sequence[str], *, max_tokens: int, temperature: float, seed: int
) -> dict[str, str]:
    """The answer to each prompt: in the chat template if the tokenizer has one, else the continuation."""
    answers = {}
    for index, prompt in enumerate(prompts):
        sampling = SamplingParams(temperature=temperature, top_p=0.95, seed=seed + index)
        if tokenizer.chat_template is None:
            answers[prompt] = generate_text(model, tokenizer, prompt, sampling=sampling, max_tokens=max_tokens)
            continue
        ids = tokenizer.render_chat([{"role": "user", "content": prompt}], add_generation_prompt=True)
        limit = min(max_tokens, model.config.cached_context_length - len(ids))
        if limit < 1:
            raise UserError(f"a prompt of {len(ids)} tokens leaves no room for an answer", hint="shorten the prompts")
        found = generate(model, ids, sampling=sampling, max_tokens=limit, stop_ids=tokenizer.stop_ids)
        answers[prompt] = decode_output(tokenizer, found).strip()
    return answers


def stored_answers(run: Path) -> dict[str, str]:
    """Answers and continuations that a run stored for its report, by prompt."""
    answers: dict[str, str] = {}
    for stage, key, text in (("scores", "samples", "text"), ("chat", "answers", "answer")):
        manifest = Manifest.read(run / STAGE_FOLDERS[stage])
        for row in manifest.metrics.get(key) or () if manifest else ():
            answers[row["prompt"]] = row[text]
    return answers


def make_pairs(answers: Mapping[str, Mapping[str, str]], seed: int) -> list[RatingPair]:
    """Every two entries' answers to every prompt that they share, in random order, left and right at random.

    Equal answers are left out. Raises UserError if no pair is left.
    """
    generator = random.Random(seed)
    pairs = []
    for first, second in combinations(answers, 2):
        for prompt in answers[first].keys() & answers[second].keys():
            names = [first, second]
            generator.shuffle(names)
            left, right = (answers[name][prompt] for name in names)
            if left != right:
                pairs.append(RatingPair(prompt, left, right, *names))
    pairs.sort(key=lambda pair: pair.prompt)  # sets have no order
    generator.shuffle(pairs)
    if not pairs:
        raise UserError(
            f"{', '.join(answers)}: no prompt with different answers of two of them", hint="--prompts FILE, one a line"
        )
    return pairs


def summarize_ratings(path: Path) -> list[dict[str, Any]]:
    """Of each two entries in a file that the page saved: {"entry", "other", "ratings", "wins", "interval"}.

    `wins` is the share of `entry`, ties half; items are prompts: several ratings of one are not independent.
    Raises UserError for another file.
    """
    rows = read_json_object(path, hint="the file that the rating page saves").get("ratings")
    wins: dict[tuple[str, str], list[tuple[float, str]]] = {}
    try:
        for row in rows or ():
            names = (row["left_entry"], row["right_entry"])
            shares = CHOICES[row["choice"]]
            share = shares[0] if names[0] < names[1] else shares[1]
            wins.setdefault((min(names), max(names)), []).append((share, str(row["prompt"])))
    except (KeyError, TypeError, AttributeError):
        wins = {}
    if not wins:
        raise UserError(f"{path}: no ratings", hint="the file that the rating page saves")
    found = []
    for (entry, other), values in sorted(wins.items()):
        shares, prompts = zip(*values, strict=True)
        found.append(
            {
                "entry": entry, "other": other, "ratings": len(shares), "wins": sum(shares) / len(shares),
                "interval": share_interval(shares, prompts),
            }
        )  # fmt: skip
    return found
