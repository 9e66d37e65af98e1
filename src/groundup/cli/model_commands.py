"""Commands that take a model: generate, embed, evaluate, export; the others have files of their own."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.cli.chat_command import chat as chat
from groundup.cli.classify_command import classify as classify
from groundup.cli.generate_command import generate as generate
from groundup.cli.merge_command import merge as merge
from groundup.cli.model_check import note_truncated, open_for_text
from groundup.cli.options import AdapterOption, DeviceOption, DtypeOption, JsonOption, ModelArgument, VerifyOption
from groundup.cli.quantize_command import quantize as quantize
from groundup.cli.serve_command import serve as serve
from groundup.cli.text_input import read_text, texts_to_read

InputOption = Annotated[
    Path | None, typer.Option(help="Texts: a file with one per line, or .jsonl with fields text and id.")
]


def embed(
    model: ModelArgument,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to embed.")] = None,
    input: InputOption = None,
    query: Annotated[str | None, typer.Option(help="Print the texts nearest to this one instead of vectors.")] = None,
    top: Annotated[int, typer.Option(min=1, help="Number of nearest texts.")] = 5,
    out: Annotated[
        Path | None, typer.Option(help="File to write: .npy (and the ids in .ids.txt) or .jsonl; default: print JSON.")
    ] = None,
    pooling: Annotated[
        str | None, typer.Option(help="mean, cls (first token) or last (token); default: the model's, else mean.")
    ] = None,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Turn texts into vectors of length 1, or find the texts nearest to a query.

    Example: groundup embed runs/encoder --input texts.txt --query "how to boil rice" --top 3
    """
    from groundup.generate.text_embedding import embed_many, nearest_texts

    entries = texts_to_read(texts, input, "embed")
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UserError(f"{out}: expected a name that ends with .npy or .jsonl")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"{out}: no folder {out.parent}", hint="create it first")
    if query is not None and not query.strip():
        raise UserError("--query: an empty text, which is near to nothing")
    network, tokenizer = open_for_text(model, device, dtype, verify, adapter)
    wanted = [entry.text for entry in entries] + ([query] if query is not None else [])
    vectors, num_truncated = embed_many(network, tokenizer, wanted, pooling=pooling)
    note_truncated(num_truncated, len(wanted), network)
    if query is not None:
        for index, score in nearest_texts(vectors[-1], vectors[:-1], top):
            print(f"{score:.4f}  {entries[index].id}  {' '.join(entries[index].text.split())}")
        return
    ids = [entry.id for entry in entries]
    if out is not None and out.suffix == ".npy":
        import numpy as np

        np.save(out, vectors.numpy())
        out.with_suffix(".ids.txt").write_text("".join(f"{id}\n" for id in ids), encoding="utf-8")
        return
    lines = (json.dumps({"id": id, "embedding": row.tolist()}) for id, row in zip(ids, vectors, strict=True))
    if out is None:
        print("\n".join(lines))
    else:
        out.write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")


def evaluate(
    model: ModelArgument,
    text: Annotated[Path | None, typer.Option(help="Text to score, UTF-8.")] = None,
    task: Annotated[
        Path | None,
        typer.Option(
            help="Questions with known answers: JSON lines of question, choices, answer (its index); or of prompt, completion."
        ),
    ] = None,
    apply_chat_template: Annotated[
        bool, typer.Option("--apply-chat-template", help="Ask the questions of --task in the model's chat template.")
    ] = False,
    delimiter: Annotated[str, typer.Option(help="Text between a question of --task and its choice.")] = " ",
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Measure bits per byte of a model on a text, or its answers to questions, with intervals of 95%.

    Example: groundup evaluate runs/quickstart --text held-out.txt

    Example: groundup evaluate runs/mine --task questions.jsonl --apply-chat-template
    """
    from groundup.evaluate import run_task, score_text, task_of_file
    from groundup.model.serialization import weight_dtype

    if text is None and task is None:
        raise UserError("nothing to evaluate on", hint="--text FILE, or --task FILE")
    if apply_chat_template and task is None:
        raise UserError("--apply-chat-template without --task", hint="a text is scored as it is")
    content = None if text is None else read_text(text)
    questions = (
        None if task is None else task_of_file(task, apply_chat_template=apply_chat_template, delimiter=delimiter)
    )
    network, tokenizer = open_for_text(model, device, dtype, verify, adapter)
    score: dict[str, Any] = {"dtype": weight_dtype(network)}
    score |= {} if content is None else score_text(network, tokenizer, content)
    result = None if questions is None else run_task(questions, network, tokenizer)
    if as_json:
        print(json.dumps(score | (result or {}), indent=1))
        return
    for key, value in score.items():
        print(
            f"{key:<16} "
            + (f"{value:,.4f}" if isinstance(value, float) else f"{value:,}" if isinstance(value, int) else value)
        )
    if result is not None:
        chance = "" if result["chance"] is None else f", chance {result['chance']:.1%}"
        for name, interval in (("accuracy", "interval"), ("accuracy_norm", "interval_norm")):
            if name in result:
                bounds = " ({:.1%} to {:.1%})".format(*result[interval])
                print(f"{name:<16} {result[name]:.1%}{bounds} of {result['items']:,} items{chance}")


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[
        str, typer.Option(help="huggingface, gguf, gptq, awq, compressed-tensors, bitsandbytes.")
    ] = "huggingface",
    dtype: Annotated[
        str | None,
        typer.Option(
            help="float32, bfloat16 or float16; gguf also q8_0, q6_k, q5_k_m, q4_k_m, q4_0, q3_k_m and others. "
            "Default: that of the model."
        ),
    ] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Text for rounding to gguf's types: a file, .jsonl or a folder; may be repeated. Default: that of the "
            "run, else text that the model writes itself.",
        ),
    ] = None,
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Export a model to a format of other software, open it again, and compare logits and token ids.

    Example: groundup export runs/quickstart --format gguf --out exported
    """
    from groundup.quantize import export_model

    exported = export_model(
        model, out, format=format, dtype=dtype, adapter=adapter, verify=verify, calibration=calibration or ()
    )
    for note in exported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(*exported.files, sep="\n")
    print(
        f"{exported.dtype}, opened again: equal token ids, logits within {exported.max_logit_difference:.2g}",
        file=sys.stderr,
    )
