"""Fixtures: a machine with its own cache, a [data] section, and prose that passes all filters."""

import random
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from groundup.artifacts.machine import Machine
from groundup.recipe.data_config import DataConfig

NOUNS = [
    "river",
    "valley",
    "people",
    "houses",
    "stone",
    "windows",
    "south",
    "hills",
    "summer",
    "days",
    "mill",
    "road",
    "village",
    "winter",
    "war",
    "wood",
    "builder",
    "coast",
    "walls",
    "roof",
    "spring",
    "door",
    "children",
    "lamp",
    "night",
    "moon",
    "stick",
    "week",
    "stories",
    "harbours",
    "ships",
    "oranges",
    "captain",
    "plan",
    "place",
    "museum",
    "council",
    "vote",
    "June",
    "market",
    "bridge",
    "garden",
    "letter",
    "doctor",
    "teacher",
    "horse",
    "field",
    "rain",
    "snow",
    "bread",
    "water",
    "cousin",
    "brother",
    "station",
    "train",
    "ticket",
    "friend",
    "song",
]
VERBS = [
    "runs",
    "lives",
    "builds",
    "looks",
    "stands",
    "leaves",
    "turns",
    "grinds",
    "takes",
    "sells",
    "mends",
    "closes",
    "says",
    "sees",
    "believes",
    "goes",
    "comes",
    "feeds",
    "repays",
    "tells",
    "carries",
    "swims",
    "hears",
    "makes",
    "votes",
    "expects",
    "passes",
    "crosses",
    "writes",
    "visits",
    "teaches",
    "rides",
    "plants",
    "falls",
    "bakes",
    "drinks",
    "meets",
    "sings",
]
OTHER = [
    "quiet",
    "small",
    "long",
    "summer",
    "old",
    "four",
    "upper",
    "south",
    "dear",
    "second",
    "early",
    "late",
    "red",
    "green",
    "empty",
    "heavy",
    "bright",
    "slow",
    "clever",
    "honest",
    "narrow",
    "distant",
    "gentle",
    "bitter",
    "hollow",
    "patient",
    "curious",
    "sudden",
    "proud",
    "silent",
    "simple",
    "ancient",
    "broken",
    "warm",
    "cold",
    "wet",
    "plain",
    "strange",
    "useful",
]


def make_prose(seed: int, words: int = 120) -> str:
    """Sentences that pass all filters, different for each seed."""
    chance = random.Random(seed)
    pick = chance.choice
    sentences = []
    while words > 0:
        first = f"{pick(('A', 'The', 'Her', 'Their', 'Every'))} {pick(OTHER)} {pick(NOUNS)} {pick(VERBS)}"
        first += f" {pick(('to', 'with', 'by', 'over', 'of'))}"
        second = f"{pick(('a', 'the', 'my', 'some', 'that'))} {pick(OTHER)} {pick(NOUNS)},"
        second += f" {pick(('and', 'but', 'while', 'for'))} {pick(OTHER)} {pick(NOUNS)}"
        sentences.append(
            f"{first} {second} {pick(VERBS)} {pick(('near', 'under', 'behind', 'the', 'of'))} {pick(OTHER)} {pick(NOUNS)}."
        )
        words -= 15
    return "\n".join(" ".join(sentences[start : start + 3]) for start in range(0, len(sentences), 3))


@pytest.fixture(scope="session")
def prose() -> Callable[..., str]:
    """prose(seed, words=120) -> a text."""
    return make_prose


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    return Machine(threads=1, cache_dir=tmp_path / "cache")


@pytest.fixture
def recipe() -> Callable[..., Any]:
    """recipe(sources=[...], **knobs) -> recipe view of the stage."""

    def make(seed: int = 7, **knobs: Any) -> Any:
        return SimpleNamespace(data=DataConfig.model_validate(knobs), seed=seed)

    return make
