"""Report section: what the model learnt from rewards."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, figure, key_values, lead_in, paragraph, sample, section
from groundup.report.run_data import stage_metrics
from groundup.report.training_plots import plot_rewards

LOSSES = {"grpo": "GRPO", "dr_grpo": "Dr. GRPO", "rloo": "RLOO"}
MAX_CHARACTERS = 400


def reinforcement_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    metrics = stage_metrics(run_data, "reinforcement")
    if not metrics:
        return None
    curve = metrics["curve"]
    text = (
        f"At each of {metrics['steps']:,} steps the model answered some problems several times, a program rated the answers, and "
        f"{LOSSES[metrics['loss_name']]} made those more likely that were better than the others of their group: "
        f"{formatting.pluralize(metrics['sampled_answers'], 'answer')} in all. Rewards: {', '.join(metrics['rewards'])}."
    )
    rewards = figure(
        "rewards",
        plot_rewards(curve, metrics.get("validation", [])),
        "Above: mean reward of the sampled answers at each step, and share of the held-out problems that greedy answers solve. "
        "Below: tokens of an answer.",
        f"Reward from {curve['reward'][0]:.2f} to {curve['reward'][-1]:.2f}.",
    )
    examples = [
        sample(
            f"{_short(row['prompt'])} ({row['answer']})",
            f"before: {_short(row['before'])}\nafter: {_short(row['after'])}",
        )
        for row in metrics.get("examples", [])
    ]
    shown = lead_in("Greedy answers to held-out problems, not selected:") if examples else None
    return section("Learning from rewards", [paragraph(text), key_values(_rows(metrics)), rewards, shown, *examples])


def _short(text: str) -> str:
    return formatting.excerpt(text, MAX_CHARACTERS)


def _rows(metrics: dict[str, Any]) -> list[tuple[str, Cell]]:
    problems, curve = metrics["problems"], metrics["curve"]
    rows: list[tuple[str, Cell]] = [
        ("Problems", f"{problems['train']:,} for training, {problems['validation']:,} held out")
    ]
    if scores := metrics.get("held_out"):
        rows += [
            (f"Solved {when}", f"{scores[when]:.1%} ({formatting.interval(scores[f'{when}_interval'])})")
            for when in ("before", "after")
        ]
        rows.append(
            ("Difference", f"{scores['difference']:+.1%} ({formatting.interval(scores['difference_interval'])})")
        )
    ends: list[tuple[str, str, str]] = [
        ("Reward of sampled answers", "reward", ".2f"),
        ("Entropy, nats per token", "entropy", ".2f"),
        ("Tokens of an answer", "answer_tokens", ".0f"),
        ("Answers cut off", "cut_answers", ".0%"),
    ]
    if any(curve["kl"]):
        ends.append(("KL from the model before, nats per token", "kl", ".4f"))
    rows += [(label, f"{curve[name][0]:{form}} to {curve[name][-1]:{form}}") for label, name, form in ends]
    return [*rows, ("Learning rate", f"{metrics['learning_rate']:g}")]
