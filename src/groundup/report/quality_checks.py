"""Checks of the results of each stage, in plain words: memorized text, degenerate samples, scores below a simple baseline."""

import math
import re
from collections.abc import Callable, Mapping
from typing import Any

MEMORIZED_NATS = 1.0
"""Held-out loss above the training loss from which a model counts as memorizing, in nats per token."""
OVERFITTED_RATIO = 1.02
"""Last held-out score over the best one."""
UNUSED_FRACTION = 0.2
WIDE_INTERVAL = 0.25
"""Width of the 95% interval, of the score."""
LOST_FRACTION = 0.5
"""Of the conversations."""
MIN_MIXED_GROUPS = 0.05
"""Groups whose answers differ in reward, of all: only these teach anything."""
RECALLED_FRACTION = 0.5
RECALL_NATS = 0.3
"""Loss of the training answers, per token, at which about half of them are recalled (lab book)."""
MAX_NEEDED_EPOCHS = 200
"""More passes are no advice: the model is too small."""
SMALL_CONVERSATIONS = 5_000
"""A larger set is not expected to be known by heart."""
FORGOTTEN_RATIO = 1.3
"""Bits per byte of ordinary text after fine-tuning, over those before."""
CHANCE = 0.5
FALLEN_NATS = 0.5
"""Of the log-probability of a token of better answers."""
LONGER_RATIO = 1.5
"""Tokens of a sampled answer after preference tuning, over those before."""
REPETITION_NGRAM = 3
MIN_REPEATED_WORDS = 12
DISTINCT_FRACTION = 0.5
REPEATED = re.compile(r"([^\W\d_])\1{11}|([,;:!?])\2{7}|(?<!\S)([^\W\d_]+)(?:\s+\3){3}(?!\S)")
"""A letter 12 times, a punctuation mark 8 times, or a word 4 times in a row; dots, dashes and digits fill lines of tables."""

Metrics = Mapping[str, Any]


def check_stage(name: str, metrics: Mapping[str, Metrics]) -> list[str]:
    """Warnings about the stage `name`; `metrics`: of all finished stages by name.

    >>> check_stage("tokens", {"tokens": {"vocab_size": 4096, "unused_tokens": 3000}})
    ['3,000 of 4,096 tokens never occur in the training text: a smaller tokenizer.vocab_size saves parameters']
    """
    check = CHECKS.get(name)
    return check(metrics) if check and name in metrics else []


def check_run(metrics: Mapping[str, Metrics]) -> list[str]:
    """Warnings about all finished stages."""
    return [warning for name in CHECKS for warning in check_stage(name, metrics)]


def strongest_baseline(scores: Metrics) -> tuple[str, float] | None:
    """Name and bits per byte of the best baseline."""
    known: dict[str, float] = scores.get("baselines", {})
    return min(known.items(), key=lambda pair: pair[1]) if known else None


def worse_than_baseline(scores: Metrics, bits_per_byte: float) -> str:
    """ ", worse than NAME (bits)" of the best baseline that is better, else nothing."""
    baseline = strongest_baseline(scores)
    return f", worse than {baseline[0]} ({baseline[1]:.3f})" if baseline and baseline[1] < bits_per_byte else ""


def word_search(retrieval: Metrics) -> dict[str, float]:
    """Accuracy of each search by words."""
    return {label: retrieval[key] for key, label in (("bm25", "BM25"), ("tf_idf", "TF-IDF")) if key in retrieval}


def is_degenerate(text: str) -> bool:
    """Blank, a letter, mark or word repeated, or more than half of the 3-grams of words (of characters, without spaces).

    >>> is_degenerate("and the patinate, " * 8), is_degenerate("am to the the the the ip"), is_degenerate("I am doing well.")
    (True, True, False)
    """
    words = text.split()
    units = words if 2 * len(words) >= MIN_REPEATED_WORDS else list(text)
    if not text.strip() or REPEATED.search(text):
        return True
    if len(units) < MIN_REPEATED_WORDS:
        return False
    ngrams = [tuple(units[start : start + REPETITION_NGRAM]) for start in range(len(units) - REPETITION_NGRAM + 1)]
    return len(set(ngrams)) < DISTINCT_FRACTION * len(ngrams)


def _check_tokens(metrics: Mapping[str, Metrics]) -> list[str]:
    size, unused = metrics["tokens"]["vocab_size"], metrics["tokens"].get("unused_tokens", 0)
    warnings = [_describe_lost(lost)] if (lost := metrics["tokens"].get("lost_characters", {})).get("count") else []
    if unused <= UNUSED_FRACTION * size or metrics.get("tokenizer", {}).get("pretrained"):
        return warnings
    return [
        *warnings,
        f"{unused:,} of {size:,} tokens never occur in the training text: a smaller tokenizer.vocab_size saves parameters",
    ]


def _describe_lost(lost: Metrics) -> str:
    size = lost.get("vocab_size_with_bytes")
    remedy = f"tokenizer.vocab_size = {size} adds the missing bytes" if size else "train a new tokenizer"
    return (
        f"{lost['count']:,} of {lost['characters']:,} characters are not in the vocabulary and are lost, such as "
        f"{' '.join(list(lost['most_frequent'])[:5])}: {remedy}"
    )


def _check_base(metrics: Mapping[str, Metrics]) -> list[str]:
    evaluations = [row for row in metrics["base"].get("validation") or [] if row.get("bits_per_byte")]
    if not evaluations:
        return []
    best, last = min(evaluations, key=lambda row: row["bits_per_byte"]), evaluations[-1]
    if (
        metrics["base"].get("kept_step") == best["step"]
        or last["bits_per_byte"] <= OVERFITTED_RATIO * best["bits_per_byte"]
    ):
        return []
    return [
        f"held-out text was predicted best at step {best['step']:,} of {last['step']:,} ({best['bits_per_byte']:.3f} bits per "
        f"byte, {last['bits_per_byte']:.3f} at the end): later steps memorized the training text; "
        "train.keep_best_weights=true keeps the best"
    ]


def _check_scores(metrics: Mapping[str, Metrics]) -> list[str]:
    scores, warnings = metrics["scores"], []
    if "bits_per_byte" not in scores:
        return []
    final_loss, loss = metrics.get("base", {}).get("final_loss"), scores.get("loss")
    if final_loss is not None and loss is not None and loss - final_loss > MEMORIZED_NATS:
        warnings.append(
            f"memorized: the training loss is {final_loss:.2f} nats per token, that of held-out text {loss:.2f}: "
            "fewer passes over the text, or more text"
        )
    baseline = strongest_baseline(scores)
    if baseline and scores["bits_per_byte"] >= baseline[1]:
        warnings.append(
            f"{scores['bits_per_byte']:.3f} bits per byte is no better than {baseline[0]} ({baseline[1]:.3f}): "
            "longer training, or more text"
        )
    interval = scores.get("bits_per_byte_interval", ())
    if interval is None:
        warnings.append("one held-out document: the score has no interval, and says little")
    elif interval and interval[1] - interval[0] > WIDE_INTERVAL * scores["bits_per_byte"]:
        warnings.append(
            f"the 95% interval, {interval[0]:.2f} to {interval[1]:.2f} bits per byte, is too wide for comparisons: "
            "a larger data.validation_fraction narrows it"
        )
    degenerate = [row["prompt"] for row in scores.get("samples", []) if is_degenerate(row["text"])]
    if degenerate:
        warnings.append(f"{len(degenerate)} of {len(scores['samples'])} samples are blank or repeat themselves")
    return warnings


def _check_chat(metrics: Mapping[str, Metrics]) -> list[str]:
    chat, warnings = metrics["chat"], []
    degenerate = [row["prompt"] for row in chat.get("answers", []) if is_degenerate(row["answer"])]
    if degenerate:
        warnings.append(f"{len(degenerate)} of {len(chat['answers'])} answers are blank or repeat themselves")
    translation = chat.get("translation")
    recall = chat.get("recall") or {"questions": 0}
    if translation:  # is judged by pairs that the model has not seen
        recall = {"questions": 0}
    counts = chat.get("conversations", {})
    if dropped := counts.get("dropped"):
        lost, reason = sum(dropped.values()), max(dropped, key=lambda each: dropped[each])
        if lost > LOST_FRACTION * counts.get("read", math.inf):
            most = counts.get("reasons", {}).get(reason, reason)
            warnings.append(f"{lost:,} of {counts['read']:,} conversations were dropped, most as {most}")
    known = counts.get("train", math.inf) <= SMALL_CONVERSATIONS
    if recall.get("before", 0) > recall.get("recalled", 0):
        warnings.append(
            f"the model answered {recall['before']} of {recall['questions']} training questions as trained before "
            f"fine-tuning, and {recall['recalled']} after: a lower finetune.learning_rate"
            + (f" than {chat['learning_rate']:g}" if "learning_rate" in chat else "")
        )
    elif known and recall["questions"] and recall["recalled"] < RECALLED_FRACTION * recall["questions"]:
        warnings.append(
            f"the chat model answers {recall['recalled']} of {recall['questions']} of its training questions as trained: "
            f"{_recall_advice(chat)}"
        )
    ordinary = chat.get("ordinary_text")
    if ordinary and ordinary["after"] > FORGOTTEN_RATIO * ordinary["before"]:
        warnings.append(
            f"fine-tuning made ordinary text harder: {ordinary['before']:.2f} bits per byte before, {ordinary['after']:.2f} "
            "after: fewer finetune.epochs or a lower finetune.learning_rate"
        )
    if retrieval := chat.get("retrieval"):
        name, words = max(word_search(retrieval).items(), key=lambda item: item[1])
        if words >= retrieval["accuracy"]:
            warnings.append(
                f"search by words ({name}) finds the right text first for {words:.0%} of the queries, the embeddings for "
                f"{retrieval['accuracy']:.0%}: more text, or pretraining for hours"
            )
    labels = chat.get("classification", {})
    if labels.get("accuracy", 1.0) <= labels.get("majority", 0.0):
        warnings.append("the classifier is no better than the most frequent label: more epochs, or more examples")
    samples = translation.get("samples", []) if translation else []
    repeated = [row for row in samples if is_degenerate(row["text"]) and not is_degenerate(row["reference"])]
    if repeated:
        warnings.append(f"{len(repeated)} of {len(samples)} held-out translations are blank or repeat themselves")
    if translation and translation["bleu"] <= translation["copying"]["bleu"]:
        warnings.append("the translations are no better than the input copied: more pairs, or more finetune.epochs")
    return warnings


def _check_preference(metrics: Mapping[str, Metrics]) -> list[str]:
    tuning, warnings = metrics["preference"], []
    scores, sampled = tuning.get("scores"), tuning.get("sampled") or {}
    if scores:
        before, after = scores["before"], scores["after"]
        bounds = after.get("accuracy_interval")
        if after["accuracy"] < CHANCE:
            warnings.append(
                f"accuracy {after['accuracy']:.2f} on held-out preferences is below chance: chosen and rejected may be swapped"
            )
        elif bounds and bounds[0] <= CHANCE:
            warnings.append(
                f"accuracy {after['accuracy']:.2f} on held-out preferences may be chance (95% interval from {bounds[0]:.2f}): "
                "more preferences, or a higher preference.learning_rate"
            )
        names = ("chosen_log_prob", "rejected_log_prob")
        falls = [before[name] - after[name] for name in names if name in after]
        if falls and falls[0] > FALLEN_NATS:
            warnings.append(
                f"better answers became less probable, by {falls[0]:.2f} nats a token: a larger preference.beta or a lower "
                "learning_rate holds them, loss = orpo teaches them"
            )
    lengths = sampled.get("tokens_before"), sampled.get("tokens_after")
    if lengths[0] and lengths[1] and lengths[1] > LONGER_RATIO * lengths[0]:
        warnings.append(
            f"answers got longer, from {lengths[0]:.0f} to {lengths[1]:.0f} tokens: better answers may be the longer ones; "
            "loss = simpo or ipo counts a token, not an answer"
        )
    if degenerate := [row["prompt"] for row in tuning.get("answers", []) if is_degenerate(row["answer"])]:
        warnings.append(
            f"the answer to {degenerate[0]!r} repeats itself or is blank after preference tuning: a lower "
            "preference.learning_rate, or fewer epochs"
        )
    return warnings


def _check_reinforcement(metrics: Mapping[str, Metrics]) -> list[str]:
    tuning, warnings = metrics["reinforcement"], []
    curve, scores = tuning.get("curve", {}), tuning.get("held_out")
    mixed, cut, rewards = (curve.get(name) or [math.nan] for name in ("mixed_groups", "cut_answers", "reward"))
    if sum(mixed) / len(mixed) < MIN_MIXED_GROUPS:
        warnings.append(
            f"nothing to learn from: in {1 - sum(mixed) / len(mixed):.0%} of the groups all answers had the same reward (mean "
            f"{sum(rewards) / len(rewards):.2f}): {'harder' if rewards[0] > CHANCE else 'easier'} problems, or a larger "
            "group_size"
        )
    if sum(cut) / len(cut) > CHANCE:
        warnings.append(
            f"{sum(cut) / len(cut):.0%} of the sampled answers were cut off: a larger reinforcement.max_answer_tokens"
        )
    if scores and scores["difference_interval"] and scores["difference_interval"][0] <= 0:
        low, high = scores["difference_interval"]
        warnings.append(
            f"held-out problems solved: {scores['before']:.0%} before, {scores['after']:.0%} after, which may be chance (95% "
            f"interval of the difference {low:+.0%} to {high:+.0%})"
        )
    return warnings


def _recall_advice(chat: Metrics) -> str:
    """What would make a model know its answers by heart: its loss falls by about the same factor in every pass."""
    losses, epochs = chat.get("loss", {}), chat.get("epochs")
    start, end = losses.get("train_start"), losses.get("train_end")
    if not (epochs and start and end and RECALL_NATS < end < start):
        return "more finetune.epochs, or a larger base model"
    reached = f"its loss on them ended at {end:.1f} nats per token, and would have to be {RECALL_NATS:g}"
    if chat.get("stopped_early"):
        return f"{reached}; training stopped early: finetune.keep_best_weights=false goes on"
    needed = epochs * math.log(start / RECALL_NATS) / math.log(start / end)
    if needed > MAX_NEEDED_EPOCHS:
        return f"{reached}: a larger base model, or fewer conversations"
    return f"{reached}: about {math.ceil(needed):g} finetune.epochs in place of {epochs:g}, or a larger base model"


CHECKS: dict[str, Callable[[Mapping[str, Metrics]], list[str]]] = {
    "tokens": _check_tokens, "base": _check_base, "scores": _check_scores, "chat": _check_chat,
    "preference": _check_preference, "reinforcement": _check_reinforcement,
}  # fmt: skip
