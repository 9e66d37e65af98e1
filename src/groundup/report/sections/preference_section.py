"""Preference tuning: accuracy and rewards on held-out preferences, curves, length of answers, divergence, answers."""

from typing import Any

from groundup.report.elements import Element, chat, figure, key_values, lead_in, paragraph, section, table
from groundup.report.formatting import count, excerpt, interval, three_digits
from groundup.report.run_data import stage_metrics

MAX_CHARACTERS = 700
ROWS = {
    "loss": "loss",
    "accuracy": "accuracy (reward of the better answer is higher)",
    "ranking_accuracy": "better answer is more probable, a token",
    "margin": "margin between the rewards",
    "chosen_reward": "reward of better answers",
    "rejected_reward": "reward of worse answers",
    "chosen_log_prob": "log-probability of a token of better answers",
    "rejected_log_prob": "log-probability of a token of worse answers",
}


def preference_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    metrics = stage_metrics(run_data, "preference")
    if not metrics:
        return None
    elements: list[Element | None] = [_description(metrics), key_values(_knobs(metrics))]
    scores = metrics.get("scores")
    if scores:
        elements.append(_scores(scores))
    if evaluations := metrics.get("validation"):
        from groundup.report.training_plots import plot_preferences  # matplotlib

        elements.append(
            figure(
                "preference-curves",
                plot_preferences(evaluations),
                "Held-out preferences: accuracy above, rewards below.",
                "Curves of accuracy and rewards over steps",
            )
        )
    answers = [
        chat([("user", excerpt(row["prompt"], 300)), ("assistant", excerpt(row["answer"], MAX_CHARACTERS))])
        for row in metrics.get("answers", [])
    ]
    text = lead_in("Greedy answers to the prompts of the recipe, after the training:") if answers else None
    return section("Preference tuning", [*elements, text, *answers])


def _description(metrics: dict[str, Any]) -> Element:
    counts, sampled = metrics["preferences"], metrics["sampled"]
    text = (
        f"The model of stage {metrics['from']} was trained on {count(counts['train'])} preferences with the loss "
        f"{metrics['loss_name']}, and scored on {count(counts['validation'])} held-out ones."
    )
    if sampled["kl"] is not None:
        before, after = sampled["tokens_before"], sampled["tokens_after"]
        text += (
            f" Of {count(sampled['answers'])} answers sampled to held-out prompts, the mean length went from {before:.0f} to "
            f"{after:.0f} tokens; the divergence from the model before is {three_digits(sampled['kl'])} nats a token."
        )
    return paragraph(text)


def _knobs(metrics: dict[str, Any]) -> list[tuple[str, str]]:
    options = ", ".join(f"{name} {value:g}" for name, value in metrics["options"].items())
    dropped = sum(metrics["preferences"]["dropped"].values())
    return [
        ("loss", metrics["loss_name"] + (f" ({options})" if options else "")),
        ("method", metrics["method"]),
        ("preferences", f"{count(metrics['preferences']['read'])} read, {count(dropped)} dropped"),
        ("passes", f"{metrics['epochs']:g}"),
        (
            "steps",
            f"{count(metrics['steps'])} of {count(metrics['batch_tokens'])} tokens; weights of {metrics['kept_step']}",
        ),
        ("learning rate", f"{metrics['learning_rate']:g}"),
        ("parameters", f"{count(metrics['parameters']['trained'])} of {count(metrics['parameters']['all'])} trained"),
    ]


def _scores(scores: dict[str, Any]) -> Element:
    before, after = scores["before"], scores["after"]
    rows = [
        [label, three_digits(before[name]), three_digits(after[name]), interval(after.get(f"{name}_interval"))]
        for name, label in ROWS.items()
        if name in after
    ]
    return table(
        ["held-out preferences", "before", "after", "95% interval"],
        rows,
        "Scores on preferences that were not trained on.",
    )
