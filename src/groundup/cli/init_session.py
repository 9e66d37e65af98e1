"""The work of `groundup init` between its questions, for the terminal and for the form: data, plans, recipe."""

import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from groundup.artifacts.directory import write_atomically
from groundup.artifacts.errors import UserError
from groundup.cli.init_data import SAMPLE, DataFound, check_chat, look_at_data
from groundup.plan.cost.run_cost import load_prices
from groundup.plan.init import init_recipe
from groundup.plan.init.init_offers import (
    OFFER_MEANINGS,
    OPEN,
    BudgetAnswers,
    OfferedPlan,
    check_money,
    check_optional_hardware,
    check_optional_hours,
    default_offer,
    make_offers,
    plan_offers,
)

SPEED_TOLERANCE = 1.5
"""Ratio to the speed of the table of devices, either way, that is taken for noise: the same steps on the same idle cores of a
shared host took from 0.41 to 0.65 seconds within a day."""
SMALL_CHAT = 10_000_000
"""Parameters below which init says what a chat model can learn."""


@dataclass(frozen=True)
class InitQuestion:
    """One question: its option, its words, its choices by meaning, and a check of the answer.

    `name` is that of the option; `default` depends on the data and on earlier answers.
    """

    name: str
    words: str
    default: str
    choices: dict[str, str]
    check: Callable[[Any], Any]


class InitSession:
    """Answers and what follows from them. `log`: gets lines for the user."""

    def __init__(self, log: Callable[[str], None]):
        self._log = log
        self._speed: float | None = None
        self._looked: tuple[list[str] | None, list[str] | None] | None = None
        self.found: DataFound | None = None
        self.plans: dict[str, OfferedPlan] = {}

    def look(self, data: list[str] | None, chat: list[str] | None) -> DataFound:
        """Look at the data, once for the same paths."""
        if self.found is None or self._looked != (data, chat):
            self.found, self._looked = look_at_data(data, chat), (data, chat)
        return self.found

    def questions(self, chat: list[str] | None) -> list[InitQuestion]:
        """The questions after the one for data, each with its default."""
        assert self.found is not None
        found = self.found

        def check_goal(answer: str) -> str:
            check_chat(answer, chat or [])
            init_recipe.check_conversations(init_recipe.check_goal(answer), found.data)
            return answer

        shown = dict.fromkeys((this_machine(), *load_prices()["per_hour"]))
        devices = {
            name: f"{spec.memory_bytes / 1e9:.0f} GB, {spec.peak_flops / 1e12:g} TFLOP/s"
            for name in shown
            if (spec := init_recipe.DEVICES.get(name))
        }
        open_hours = {OPEN: "plans of different length are offered"}
        any_device = {OPEN: f"this machine, {this_machine()}; for money, the one with which it buys most"}
        return [
            InitQuestion("goal", "Goal?", found.default_goal, init_recipe.GOAL_MEANINGS, check_goal),
            InitQuestion("money", "Money for rented hardware, in USD? 0: none.", "0", {}, check_money),
            InitQuestion("hardware", "Device?", OPEN, any_device | devices, check_optional_hardware),
            InitQuestion("hours", "Hours of pretraining?", OPEN, open_hours, check_optional_hours),
        ]

    def offer(self, goal: str, budget: BudgetAnswers, name: str) -> list[OfferedPlan]:
        """Plans for a goal and budget; those on this machine at its measured speed."""
        assert self.found is not None
        here = this_machine()
        offers = make_offers(budget, here)
        speeds = {} if self._speed is None else {here: self._speed}
        plans, refused = plan_offers(goal, self.found.data, offers, name, speeds)
        local = [offered for offered in plans if offered.offer.hardware == here]
        if self._speed is None and local:
            self._speed = self._measure_speed(local[0].plan, here)
            if self._speed != 1.0:
                plans, refused = plan_offers(goal, self.found.data, offers, name, {here: self._speed})
        for line in refused:
            self._log(line)
        self.plans = {offered.offer.name: offered for offered in plans}
        return plans

    def choose(self, name: str | None, budget: BudgetAnswers) -> OfferedPlan:
        """The offered plan of a name; by default what the budget suggests, or the nearest to it that differs from others."""
        if name is not None and name not in OFFER_MEANINGS:
            raise UserError(f"--plan {name}: unknown plan", hint=f"one of {', '.join(OFFER_MEANINGS)}")
        wanted = name or default_offer(budget)
        if wanted == "best" and budget.money is None:
            raise UserError("--plan best: no money is given", hint="--money AMOUNT says how much")
        return self.plans.get(wanted) or list(self.plans.values())[0 if wanted == "small" else -1]

    def describe(self, offered: OfferedPlan, goal: str) -> list[str]:
        """Lines about the chosen plan: fine-tuning data, text, time of all stages."""
        from groundup.artifacts.machine import Machine
        from groundup.finetune.training_data.input_check import count_inputs
        from groundup.plan.plan_table import describe_data, describe_time, format_count
        from groundup.stage_runs import estimate_run_seconds

        assert self.found is not None
        lines, planned = [], offered.plan
        if planned.recipe.finetune is not None and (read := count_inputs(planned.recipe.finetune)):
            lines.append(f"for fine-tuning: {read.describe()}")
        summary = planned.summary()
        if "data" in summary:
            summary["data"]["estimated"] = True
            lines.append(f"expect: {describe_data(summary)}")
        elif planned.recipe.train is not None and (tokens := planned.recipe.train.tokens):
            lines.append(f"text: not counted yet; this plan is for {format_count(tokens)} tokens")
            if not self.found.data.sources:
                lines[-1] += "; the recipe names a sample of 3 million: give yours with --data"
        if goal in init_recipe.CHAT_GOALS and planned.parameters and planned.parameters.total < SMALL_CHAT:
            lines.append(
                "a chat model of this size knows the answers that it was trained on, and little else; a downloaded model knows "
                "more: groundup init --goal finetune --model PATH --chat FILE"
            )
        if stages := estimate_run_seconds(planned, Machine()):
            lines.append(f"time: {describe_time(summary | {'stage_seconds': stages})}")
        return lines

    def _measure_speed(self, planned: Any, hardware: str) -> float:
        """Speed of this machine, relative to `hardware`; 1 if it is about the same, and for accelerators."""
        from groundup.plan.derive import resolved_model_config
        from groundup.plan.memory.memory_estimate import device_kind
        from groundup.train.speed_calibration import calibrate_speed

        if planned.recipe.train is None or device_kind(hardware) != "cpu":
            return 1.0
        config = resolved_model_config(planned.recipe)
        speed = calibrate_speed(hardware, config, planned.recipe.train).relative_speed
        if 1 / SPEED_TOLERANCE < speed < SPEED_TOLERANCE:
            return 1.0
        self._log(f"measured: this machine trains at {speed:.2g} times the speed of {hardware}")
        return float(f"{speed:.2g}")


def this_machine() -> str:
    """Name of this machine in the table of devices."""
    from groundup.plan.hardware import this_device

    return this_device()[0]


def paths_or_sample(answer: str) -> list[str] | None:
    """The paths in an answer, one a line; None for the sample."""
    paths = [line.strip() for line in answer.splitlines() if line.strip()]
    return None if paths in ([], [SAMPLE]) else paths


def recipe_name(stem: str) -> str:
    """A name that a recipe may have."""
    return re.sub(r"[^A-Za-z0-9._-]+", "-", stem).strip("._-") or "recipe"


def check_unused(out: Path) -> None:
    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")


def write_recipe(out: Path, text: str) -> None:
    check_unused(out)
    write_atomically(out, text.encode())
    print(f"wrote {out}\nnext: groundup plan {out}")
