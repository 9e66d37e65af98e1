"""The form of `groundup init --form`: the questions of the terminal, as data for a page."""

from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError
from groundup.cli.init_data import SAMPLE
from groundup.cli.init_session import InitSession, check_unused, paths_or_sample, recipe_name, write_recipe
from groundup.plan.init.init_offers import OFFER_MEANINGS, BudgetAnswers, describe_offer

AUTOMATIC = "auto"
"""Answer to the goal: what the data suggest."""


class InitForm:
    """Answers of a form are texts, by the names of the options of `groundup init`; an empty one is its default.

    Args:
        given: answers of the command line, which the form shows.
        out: recipe file; None: named by data and goal.
    """

    def __init__(self, given: dict[str, str | None], devices: int | None, out: Path | None):
        self._given = {name: value for name, value in given.items() if value is not None}
        if devices is not None:
            self._given["devices"] = str(devices)
        self._out = out
        self._lines: list[str] = []
        self._session = InitSession(self._lines.append)

    def questions(self) -> dict[str, Any]:
        """{"questions": [{"name", "words", "kind", "default", "choices"}], "folder"}."""
        session = InitSession(self._lines.append)
        session.look(None, None)
        asked = {question.name: question for question in session.questions(None)}
        goals = {AUTOMATIC: "what the text suggests", **asked["goal"].choices}
        rows = [
            (
                "data",
                "Training text: files, folders, archives, globs or URLs, one a line; or sample",
                "lines",
                SAMPLE,
                {},
            ),
            ("chat", "Conversations, pairs or labelled texts to learn from, one path a line", "lines", "", {}),
            ("goal", "Goal", "choice", AUTOMATIC, goals),
            ("money", "Money for rented hardware, in USD", "number", "", {}),
            ("hardware", "Device", "choice", asked["hardware"].default, asked["hardware"].choices),
            ("devices", "Number of devices", "number", "", {}),
            ("hours", "Hours of pretraining", "number", "", {}),
        ]
        return {
            "folder": str(Path.cwd()),
            "questions": [
                {
                    "name": name,
                    "words": words,
                    "kind": kind,
                    "default": self._given.get(name, default),
                    "choices": choices,
                }
                for name, words, kind, default, choices in rows
            ],
        }

    def plans(self, answers: dict[str, str]) -> dict[str, Any]:
        """{"lines", "goal", "out", "plans": [{"name", "meaning", "rows"}], "chosen"}."""
        self._lines.clear()
        goal, budget, out = self._answers(answers)
        offered = self._session.offer(goal, budget, recipe_name(out.stem))
        assert self._session.found is not None
        return {
            "lines": [*self._session.found.lines, *self._lines],
            "goal": goal,
            "out": str(out),
            "plans": [
                {"name": each.offer.name, "meaning": OFFER_MEANINGS[each.offer.name], "rows": describe_offer(each)}
                for each in offered
            ],
            "chosen": self._session.choose(None, budget).offer.name,
        }  # fmt: skip

    def write(self, answers: dict[str, str]) -> dict[str, Any]:
        """{"path", "lines"}: the recipe of the plan `answers["plan"]`."""
        self._lines.clear()
        goal, budget, out = self._answers(answers)
        self._session.offer(goal, budget, recipe_name(out.stem))
        chosen = self._session.choose(answers.get("plan") or None, budget)
        lines = self._session.describe(chosen, goal)
        write_recipe(out, chosen.text)
        return {"path": str(out), "lines": lines}

    def _answers(self, answers: dict[str, str]) -> tuple[str, BudgetAnswers, Path]:
        chat = paths_or_sample(answers.get("chat", ""))
        found = self._session.look(paths_or_sample(answers.get("data", "")), chat)
        checks = {question.name: question for question in self._session.questions(chat)}
        goal = answers.get("goal", "")
        goal = checks["goal"].check(found.default_goal if goal in ("", AUTOMATIC) else goal)
        budget = {
            name: checks[name].check(answers[name]) for name in ("money", "hardware", "hours") if answers.get(name)
        }
        out = self._out or Path(f"{found.name}-{goal}.toml")
        check_unused(out)
        return goal, BudgetAnswers(devices=_check_devices(answers.get("devices", "")), **budget), out


def _check_devices(answer: str) -> int | None:
    if not answer:
        return None
    if not answer.isascii() or not answer.isdigit() or not 1 <= int(answer) <= 1_000_000:
        raise UserError(f"--devices {answer}: expected a whole number above 0", hint="such as 8")
    return int(answer)
