"""The title page: what the model is, in a few numbers and one card."""

from typing import Any

from groundup.report import formatting
from groundup.report.elements import Cell, code
from groundup.report.run_data import stage_metrics, stage_seconds


def cover_page(facts: dict[str, Any], title: str | None, author: str | None) -> dict[str, Any]:
    """{"title", "subtitle", "author", "numbers", "card", "voice", "colophon"}."""
    return {
        "kind": "groundup · report",
        "title": title or facts["name"],
        "subtitle": "A language model built from the ground up",
        "author": author,
        "numbers": _numbers(facts),
        "card": [[name, value if isinstance(value, list) else [value]] for name, value in _card(facts)],
        "voice": _voice(facts),
        "colophon": _colophon(facts),
    }


def describe_model(model: dict[str, Any]) -> str:
    """The shape of a model in half a sentence."""
    keys = model["num_kv_heads"]
    heads = f"{model['num_heads']} heads" + (f" ({keys} for keys)" if keys != model["num_heads"] else "")
    return (
        f"{model['architecture'].replace('_', '-')} transformer, {model['num_layers']} blocks, "
        f"{model['hidden_size']:,} wide, {heads}"
    )


def _numbers(facts: dict[str, Any]) -> list[dict[str, str]]:
    base, scores, quantized = (stage_metrics(facts, stage) for stage in ("base", "scores", "quantized"))
    found = []
    if base:
        found.append((formatting.short_count(base["parameters"]), "parameters"))
        found.append((formatting.short_count(base["tokens"]), "training tokens"))
    if "bits_per_byte" in scores:
        found.append((f"{scores['bits_per_byte']:.2f}", "bits per byte, held out"))
    if quantized:
        found.append(
            (formatting.byte_size(quantized["bytes"]["after"]), f"in {quantized['bits']} bits a weight")
        )
    return [{"value": value, "label": label} for value, label in found]


def _card(facts: dict[str, Any]) -> list[tuple[str, Cell]]:
    rows: list[tuple[str, Cell]] = []
    model = facts["plan"].get("model")
    if model:
        words = describe_model(model)
        rows.append(("What it is", words[0].upper() + words[1:]))
        rows.append(
            (
                "It reads",
                f"{model['context_length']:,} tokens at once, of a vocabulary of {model['vocab_size']:,}",
            )
        )
    if data := stage_metrics(facts, "data"):
        kept = sum(row["kept"]["bytes"] for row in data["sources"].values())
        rows.append(
            ("From", f"{formatting.byte_size(kept)} of text: {formatting.join_words(list(data['sources']))}")
        )
    if (base := stage_metrics(facts, "base")) and (took := stage_seconds(facts, "base")):
        where = facts["stages"]["base"]["provenance"].get("processor", "one machine")
        rows.append(
            (
                "Trained",
                f"{formatting.pluralize(base['steps'], 'step')} in {formatting.duration(took)} on {where}",
            )
        )
    scores = stage_metrics(facts, "scores")
    if guessed := scores.get("masked_lm"):
        rows.append(("Scores", f"{formatting.percent(guessed['accuracy'], 1)} of hidden tokens guessed"))
    if "bits_per_byte" in scores:
        edges = scores["bits_per_byte_interval"]
        sure = f" (95% interval {formatting.interval(edges, 2)})" if edges else ""
        beside = f"; xz needs {scores['baselines']['xz']:.2f}" if "xz" in scores.get("baselines", {}) else ""
        rows.append(("Scores", f"{scores['bits_per_byte']:.2f} bits per byte of held-out text{sure}{beside}"))
    if chat := stage_metrics(facts, "chat"):
        rows.append(("Chat", _chat_words(chat)))
    if quantized := stage_metrics(facts, "quantized"):
        rows.append((f"In {quantized['bits']} bits", _bits_words(quantized)))
    rows.append(("Bear in mind", "It says what its text makes likely, which need not be true, kind or safe."))
    last = next((stage for stage in ("chat", "base") if stage in facts["stages"]), None)
    if last:
        rows.append(
            (
                "Fingerprint",
                [code(facts["stages"][last]["fingerprint"][:16]), f" of {facts['stages'][last]['folder']}"],
            )
        )
    return rows


def _chat_words(chat: dict[str, Any]) -> str:
    number = chat.get("conversations", {}).get("train")
    taught = f"after {formatting.pluralize(number, 'conversation')}" if number else "after fine-tuning"
    return f"{taught}, learned {'with LoRA' if chat.get('method') == 'lora' else 'with all weights'}"


def _bits_words(quantized: dict[str, Any]) -> str:
    before, after = quantized["bytes"]["before"], quantized["bytes"]["after"]
    words = f"{formatting.byte_size(after)} instead of {formatting.byte_size(before)}, by {quantized['method'].upper()}"
    held_out = quantized.get("held_out", {})
    if "float" in held_out and quantized["method"] in held_out:
        cost = held_out[quantized["method"]]["bits_per_byte"] - held_out["float"]["bits_per_byte"]
        words += f", for {cost:+.3f} bits per byte"
    return words


def _voice(facts: dict[str, Any]) -> dict[str, str] | None:
    """One thing that it says, to be set large: an answer where it converses, else a continuation."""
    if answers := stage_metrics(facts, "chat").get("answers"):
        first = answers[0]
        return {
            "prompt": formatting.excerpt(first["prompt"], 80, 2),
            "reply": formatting.excerpt(first["answer"], 160, 3),
        }
    if samples := stage_metrics(facts, "scores").get("samples"):
        first = samples[0]
        return {
            "prompt": formatting.excerpt(first["prompt"], 80, 2),
            "text": formatting.excerpt(first["text"], 200, 3),
        }
    return None


def _colophon(facts: dict[str, Any]) -> str:
    for stage in reversed(list(facts["stages"].values())):
        provenance = stage["provenance"]
        if version := provenance.get("packages", {}).get("groundup"):
            commit = f", commit {provenance['commit']}" if provenance.get("commit") else ""
            return f"Made with groundup {version}{commit}"
    return "Made with groundup"
