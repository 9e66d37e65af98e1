"""Commands that take a model: generate, chat, embed, classify, serve, evaluate, export; quantize and merge have own files."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.cli.merge_command import merge as merge
from groundup.cli.model_check import check_writes_text
from groundup.cli.options import (
    AdapterOption,
    DeviceOption,
    JsonOption,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    TemperatureOption,
    TopPOption,
    VerifyOption,
)
from groundup.cli.quantize_command import quantize as quantize
from groundup.cli.text_input import InputText, read_text, read_texts

InputOption = Annotated[
    Path | None, typer.Option(help="Texts: a file with one per line, or .jsonl with fields text and id.")
]


def generate(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue or translate; -: read it from standard input.")
    ] = None,
    input: Annotated[
        Path | None, typer.Option(help="Prompts: a file with one text per line, or .jsonl with a field text.")
    ] = None,
    max_tokens: MaxTokensOption = 128,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0, help="Sampling temperature; 0: greedy. Default: 0.7; for an encoder-decoder: beam search."
        ),
    ] = None,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Beams of a beam search, which looks for the most likely text. Default: 4 for an encoder-decoder.",
        ),
    ] = None,
    target_language: Annotated[
        str | None,
        typer.Option(help="Language of the translation, a token of the model: fra_Latn (NLLB), fr_XX (mBART)."),
    ] = None,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Continue a text; translate or summarize it, if the model is an encoder-decoder.

    Of a file, it prints one line for each text, in which spaces replace line breaks.

    Example: groundup generate runs/quickstart --prompt "Once upon a time"
    """
    from groundup.generate import SamplingParams, beam_search_text, generate_texts, set_target_language, stream_text

    if beams is not None and temperature is not None:
        raise UserError("both --beams and --temperature", hint="beam search does not sample: give one of them")
    if prompt is not None and input is not None:
        raise UserError("both --prompt and --input", hint="give one of them")
    texts = [each.text for each in read_texts(input)] if input else []
    network, tokenizer = _open_model(model, device, verify, adapter)
    if target_language is not None:
        set_target_language(network, tokenizer, target_language)
    is_decoder = network.config.architecture == "decoder"
    sampling = SamplingParams(temperature=0.7 if temperature is None else temperature, top_p=top_p, seed=seed)
    search = beams or (4 if temperature is None and not is_decoder else 0)
    if texts and search:
        for each in texts:
            answer = beam_search_text(network, tokenizer, each, num_beams=search, max_tokens=max_tokens)
            print(" ".join(answer.splitlines()), flush=True)
        return
    if texts:
        for answer in generate_texts(network, tokenizer, texts, sampling=sampling, max_tokens=max_tokens):
            print(" ".join(answer.splitlines()), flush=True)
        return
    if prompt is None and not is_decoder:
        raise UserError("no text to read", hint="--prompt TEXT, or --input FILE with one text per line")
    text = sys.stdin.read() if prompt == "-" else prompt or "The"
    if is_decoder:
        print(text, end="", flush=True)
    if search:
        print(beam_search_text(network, tokenizer, text, num_beams=search, max_tokens=max_tokens))
        return
    for chunk in stream_text(network, tokenizer, text, sampling=sampling, max_tokens=max_tokens):
        print(chunk, end="", flush=True)
    print()


def chat(
    model: ModelArgument,
    system: Annotated[str | None, typer.Option(help="System message.")] = None,
    max_tokens: MaxTokensOption = 256,
    temperature: TemperatureOption = 0.5,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Chat with a model in the terminal, or answer one message a line from a pipe.

    Example: groundup chat runs/quickstart
    """
    from groundup.generate import SamplingParams
    from groundup.generate.terminal_chat import chat as converse

    network, tokenizer = _open_model(model, device, verify, adapter)
    sampling = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    converse(network, tokenizer, sampling, system=system, max_tokens=max_tokens)


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
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Turn texts into vectors of length 1, or find the texts nearest to a query.

    Example: groundup embed runs/encoder --input texts.txt --query "how to boil rice" --top 3
    """
    from groundup.generate.text_embedding import embed_many, nearest_texts

    entries = _texts_to_read(texts, input, "embed")
    if out is not None and out.suffix not in (".npy", ".jsonl"):
        raise UserError(f"{out}: expected a name that ends with .npy or .jsonl")
    if out is not None and not out.parent.is_dir():
        raise UserError(f"{out}: no folder {out.parent}", hint="create it first")
    if query is not None and not query.strip():
        raise UserError("--query: an empty text, which is near to nothing")
    network, tokenizer = _open_model(model, device, verify, adapter)
    wanted = [entry.text for entry in entries] + ([query] if query is not None else [])
    vectors, num_truncated = embed_many(network, tokenizer, wanted, pooling=pooling)
    _note_truncated(num_truncated, len(wanted), network)
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


def classify(
    model: ModelArgument,
    texts: Annotated[list[str] | None, typer.Argument(metavar="[TEXT]...", help="Texts to classify.")] = None,
    input: InputOption = None,
    query: Annotated[
        str | None, typer.Option(help="For models of pairs, the text before each: a reranker's query, a premise.")
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    verify: VerifyOption = True,
) -> None:
    """Give each text a label, or find its named entities, by a classifier: fine-tuned here, or one of transformers.

    Prints probability, label, id and text; with --json the probabilities of all labels. Of a classifier of tokens: a line for
    each entity, with the text of the entity. Of one with a single label, such as a reranker: scores, the highest first.

    Example: groundup classify runs/reviews --input texts.txt
    """
    from groundup.finetune import load_classifier
    from groundup.generate import classify_texts, find_entities
    from groundup.generate.text_embedding import encode_for_embedding
    from groundup.interop.model_loading import resolve_model_path

    entries = _texts_to_read(texts, input, "classify")
    network, tokenizer = _open_model(model, device, verify)
    classifier = load_classifier(network, resolve_model_path(model))
    wanted = [entry.text for entry in entries]
    _note_truncated(encode_for_embedding(network, tokenizer, wanted)[1], len(wanted), network)
    if classifier.head.settings.per_token:
        if query is not None:
            raise UserError("--query with a classifier of tokens, expected one of texts", hint="leave --query out")
        for entry, found in zip(entries, find_entities(classifier, tokenizer, wanted), strict=True):
            _print_entities(entry, found, as_json)
        return
    scored = list(zip(entries, classify_texts(classifier, tokenizer, wanted, query=query).tolist(), strict=True))
    if len(classifier.labels) == 1:
        scored.sort(key=lambda pair: -pair[1][0])
    for entry, row in scored:
        probabilities = dict(zip(classifier.labels, row, strict=True))
        label = max(probabilities, key=probabilities.__getitem__)
        if as_json:
            print(json.dumps({"id": entry.id, "label": label, "probabilities": probabilities}, ensure_ascii=False))
        else:
            print(f"{probabilities[label]:.4f}  {label}  {entry.id}  {' '.join(entry.text.split())}")


def _print_entities(entry: InputText, entities: list[Any], as_json: bool) -> None:
    """A line for each entity, or one of JSON for the text."""
    parts = [(entity, " ".join(entry.text[entity.begin : entity.end].split())) for entity in entities]
    if as_json:
        found = [entity._asdict() | {"text": text} for entity, text in parts]
        print(json.dumps({"id": entry.id, "entities": found}, ensure_ascii=False))
        return
    for entity, text in parts:
        print(f"{entity.probability:.4f}  {entity.label}  {entry.id}  {text}")


def serve(
    model: ModelArgument,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GROUNDUP_API_KEY", help="Key that requests must send; safer in the environment than here."
        ),
    ] = None,
    device: DeviceOption = "auto",
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            metavar="[NAME=]DIR",
            help="Adapter to serve beside MODEL, which requests choose as their model; may be repeated.",
        ),
    ] = None,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Name of this server that requests without a key may use; may be repeated.")
    ] = None,
    verify: VerifyOption = True,
) -> None:
    """Serve a model over HTTP: OpenAI's API under /v1, a chat page at /.

    Example: groundup serve runs/quickstart --port 8000
    """
    from groundup.interop.adapters import adapter_tokenizer, with_adapter
    from groundup.serve.server import serve as serve_forever

    network, tokenizer = _open_model(model, device, verify)
    name = model.resolve().name
    adapters = {}
    for option in adapter or []:
        served, _, folder = option.rpartition("=")
        served = served or Path(folder).resolve().name
        if served in (name, *adapters):
            raise UserError(
                f"--adapter {option}: the name {served} is taken", hint="--adapter NAME=DIR gives another one"
            )
        adapters[served] = (
            with_adapter(network, Path(folder), verify=verify),
            adapter_tokenizer(Path(folder), tokenizer),
        )
    serve_forever(
        network,
        tokenizer,
        name=name,
        host=host,
        port=port,
        api_key=api_key,
        adapters=adapters,
        allowed_hosts=[name.lower() for name in allow_host or ()],
    )


def evaluate(
    model: ModelArgument,
    text: Annotated[Path, typer.Option(help="Text to score, UTF-8.")],
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Measure bits per byte and perplexity of a model on a text.

    Example: groundup evaluate runs/quickstart --text held-out.txt
    """
    from groundup.evaluate import score_text

    content = read_text(text)
    network, tokenizer = _open_model(model, device, verify, adapter)
    score = score_text(network, tokenizer, content)
    if as_json:
        print(json.dumps(score, indent=1))
        return
    for key, value in score.items():
        print(f"{key:<16} " + (f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"))


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[str, typer.Option(help="huggingface, gguf, gptq, awq or compressed-tensors.")] = "huggingface",
    dtype: Annotated[str | None, typer.Option(help="float32, bfloat16 or float16; default: that of the model.")] = None,
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Export a model to a format of other software, open it again, and compare logits and token ids.

    Example: groundup export runs/quickstart --format gguf --out exported
    """
    from groundup.quantize import export_model

    check_writes_text(model)
    exported = export_model(model, out, format=format, dtype=dtype, adapter=adapter, verify=verify)
    for note in exported.notes:
        print(f"note: {note}", file=sys.stderr)
    print(*exported.files, sep="\n")
    print(
        f"{exported.dtype}, opened again: equal token ids, logits within {exported.max_logit_difference:.2g}",
        file=sys.stderr,
    )


def _texts_to_read(texts: list[str] | None, input: Path | None, command: str) -> list[InputText]:
    """The texts of the command line, then those of a file. Raises UserError if there are none."""
    entries = [InputText(str(number), text) for number, text in enumerate(texts or (), 1)]
    entries += read_texts(input) if input else []
    if not entries:
        raise UserError(
            f"no text to {command}", hint=f"groundup {command} MODEL TEXT, or --input FILE with one text per line"
        )
    if empty := [entry.id for entry in entries if not entry.text.strip()]:
        raise UserError(f"text {empty[0]} is empty: nothing to {command}")
    return entries


def _note_truncated(num_truncated: int, total: int, network: Any) -> None:
    if num_truncated:
        length = network.config.context_length
        print(
            f"note: of {num_truncated} of {total} texts, only the first {length} tokens (the context) are read",
            file=sys.stderr,
        )


def _open_model(path: Path, device: str, verify: bool, adapter: Path | None = None) -> tuple[Any, Any]:
    from groundup.quantize import open_model

    check_writes_text(path)
    return open_model(path, device=device, adapter=adapter, verify=verify)
