"""What to do with the model now."""

from typing import Any

from groundup.report.elements import code, commands, lead_in, paragraph, section
from groundup.report.run_data import stage_metrics

EXPORT_FORMATS = {"huggingface": "a Hugging Face folder", "gguf": "a GGUF file"}


def usage_section(facts: dict[str, Any]) -> dict[str, Any] | None:
    lines = next_commands(facts, f"runs/{facts['name']}")
    if not lines:
        return None
    blocks = [lead_in("From the folder in which it was built:"), commands(lines)]
    if exported := stage_metrics(facts, "export"):
        layout = EXPORT_FORMATS.get(exported["format"], exported["format"])
        words = (
            f" holds the model as other software reads it: {layout}, {exported['dtype']}. {_same(exported)}"
        )
        blocks.append(paragraph(code(facts["stages"]["export"]["folder"]), words))
    return section("How to use it", blocks)


def next_commands(facts: dict[str, Any], run: str) -> list[tuple[str, str]]:
    """(command, what it does) for what the run in the folder `run` has built, most wanted first."""
    stages = facts["stages"]
    lines = []
    if facts["recipe"].get("model", {}).get("architecture", "decoder") != "decoder":
        return [(f"groundup verify {run}", "is every byte as it was written?")] if stages else []
    if "chat" in stages:
        lines.append((f"groundup chat {run}", "talk with it in the terminal"))
        lines.append((f"groundup serve {run}", "OpenAI's API and a chat page at http://127.0.0.1:8000"))
    if "quantized" in stages:
        folder = stages["quantized"]["folder"]
        bits = stage_metrics(facts, "quantized")["bits"]
        lines.append((f"groundup chat {run}/{folder}", f"the same in {bits} bits a weight"))
    if "base" in stages:
        folder = stages["base"]["folder"]
        lines.append(
            (f'groundup generate {run}/{folder} --prompt "The"', "let the base model go on from a text")
        )
        lines.append((f"groundup evaluate {run}/{folder} --text FILE", "bits per byte of a text of yours"))
        lines.append((f"groundup export {run} --format gguf --out DIR", "a file for llama.cpp"))
    if "data" in stages:
        lines.append((f"groundup inspect {run}", "page through what was kept and dropped"))
    if stages:
        lines.append((f"groundup verify {run}", "is every byte as it was written?"))
    return lines


def _same(exported: dict[str, Any]) -> str:
    difference = exported.get("max_logit_difference")
    if difference is None:
        return ""
    if difference == 0:
        return "Read back, its logits are the same."
    return f"Read back, no logit differs by more than {difference:.1g}."
