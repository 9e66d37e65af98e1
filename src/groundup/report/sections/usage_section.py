"""Report section: commands for the model."""

from typing import Any

from groundup.report.elements import code, commands, lead_in, paragraph, section
from groundup.report.run_data import stage_metrics
from groundup.stages import last_model_stage

EXPORT_FORMATS = {"huggingface": "a Hugging Face folder", "gguf": "a GGUF file"}


def usage_section(run_data: dict[str, Any]) -> dict[str, Any] | None:
    lines = next_commands(run_data, f"runs/{run_data['name']}")
    if not lines:
        return None
    blocks = [lead_in("In the working directory of the run:"), commands(lines)]
    if exported := stage_metrics(run_data, "export"):
        layout = EXPORT_FORMATS.get(exported["format"], exported["format"])
        text = f" contains the exported model: {layout}, {exported['dtype']}. {_round_trip(exported)}"
        blocks.append(paragraph(code(run_data["stages"]["export"]["folder"]), text))
    return section("Usage", blocks)


def next_commands(run_data: dict[str, Any], run: str) -> list[tuple[str, str]]:
    """(command, description) for the artifacts of the run in the folder `run`."""
    stages = run_data["stages"]
    lines = []
    shape = run_data["plan"].get("model") or run_data["recipe"].get("model", {})  # the plan knows that of [base], too
    architecture = shape.get("architecture", "decoder")
    task = stage_metrics(run_data, "chat").get("task", "generation")
    scores_answers = stage_metrics(run_data, "preference").get("loss_name") == "reward"  # and writes none: no command
    if task == "classification":
        lines.append((f'groundup classify {run} "TEXT"', "the label of a text"))
        lines.append((f"groundup classify {run} --input FILE", "a label for each line of a file"))
    elif (architecture == "encoder" and "base" in stages) or task == "embedding":
        lines.append((f'groundup embed {run} --input FILE --query "TEXT"', "the lines of a file nearest to a text"))
        lines.append((f"groundup embed {run} --input FILE --out vectors.npy", "a vector for each line of a file"))
        lines.append((f"groundup serve {run}", "OpenAI-compatible embeddings at http://127.0.0.1:8000/v1"))
    elif architecture == "encoder_decoder" and "chat" in stages:
        lines.append((f'groundup generate {run} --prompt "TEXT"', "turn a text into another, as it was fine-tuned to"))
        lines.append((f"groundup generate {run} --input FILE", "the same for each line of a file"))
        lines.append((f"groundup serve {run}", "OpenAI-compatible completions at http://127.0.0.1:8000/v1"))
    elif architecture == "decoder" and not scores_answers:
        lines += _decoder_commands(run_data, run)
    if "data" in stages:
        lines.append((f"groundup inspect {run}", "browse kept and dropped documents"))
    if stages:
        lines.append((f"groundup verify {run}", "check all files against their hashes"))
    return lines


def _decoder_commands(run_data: dict[str, Any], run: str) -> list[tuple[str, str]]:
    stages, lines = run_data["stages"], []
    if last_model_stage(stages) not in (None, "base"):
        lines.append((f"groundup chat {run}", "chat in the terminal"))
        lines.append((f"groundup serve {run}", "OpenAI-compatible API and chat page at http://127.0.0.1:8000"))
    if "quantized" in stages:
        folder = stages["quantized"]["folder"]
        bits = stage_metrics(run_data, "quantized")["bits"]
        lines.append((f"groundup chat {run}/{folder}", f"chat with the {bits}-bit model"))
    if "base" in stages:
        folder = stages["base"]["folder"]
        lines.append((f'groundup generate {run}/{folder} --prompt "The"', "continue a text with the base model"))
        lines.append((f"groundup evaluate {run}/{folder} --text FILE", "bits per byte of a text file"))
        lines.append((f"groundup export {run} --format gguf --out DIR", "GGUF file for llama.cpp"))
    return lines


def _round_trip(exported: dict[str, Any]) -> str:
    difference = exported.get("max_logit_difference")
    if difference is None:
        return ""
    if difference == 0:
        return "Its logits equal those of the model."
    return f"The largest difference of a logit is {difference:.1g}."
