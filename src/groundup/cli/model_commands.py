"""Commands that take a model: embed and export; the others have files of their own."""

import json
import sys
from pathlib import Path
from typing import Annotated

import typer

from groundup.artifacts.errors import UserError
from groundup.cli.chat_command import chat as chat
from groundup.cli.classify_command import classify as classify
from groundup.cli.evaluate_command import evaluate as evaluate
from groundup.cli.generate_command import generate as generate
from groundup.cli.merge_command import merge as merge
from groundup.cli.model_check import note_truncated, open_for_text
from groundup.cli.options import AdapterOption, DeviceOption, DtypeOption, ModelArgument, VerifyOption
from groundup.cli.quantize_command import quantize as quantize
from groundup.cli.serve_command import serve as serve
from groundup.cli.text_input import texts_to_read

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
