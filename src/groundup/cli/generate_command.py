"""The command generate: continuations, translations and summaries of one text or of a file of them."""

import json
import sys
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.sanitize import sanitize_for_stream
from groundup.cli.model_check import open_for_writing, open_proposer
from groundup.cli.options import (
    AdapterOption,
    DeterministicOption,
    DeviceOption,
    DraftOption,
    DtypeOption,
    JsonOption,
    KvBitsOption,
    MaxTokensOption,
    ModelArgument,
    PromptLookupOption,
    SeedOption,
    TopPOption,
    VerifyOption,
)
from groundup.cli.text_input import InputText, read_text, read_texts

SOME_FAILED_EXIT_CODE = 1
DEFAULT_PROMPT = "The"


def generate(
    model: ModelArgument,
    prompt: Annotated[
        str | None, typer.Option(help="Text to continue or translate; -: read it from standard input.")
    ] = None,
    input: Annotated[
        Path | None, typer.Option(help="Prompts: a file with one text per line, or .jsonl with a field text.")
    ] = None,
    as_json: JsonOption = False,
    max_tokens: MaxTokensOption = 128,
    stop: Annotated[
        list[str] | None, typer.Option(help="Text at which an answer ends, left out of it; may be repeated.")
    ] = None,
    n: Annotated[int, typer.Option("--n", min=1, max=64, help="Answers to each prompt.")] = 1,
    best_of: Annotated[
        int | None, typer.Option(min=1, max=64, help="Samples of which the --n most likely ones per token are printed.")
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(
            min=0.0,
            help="Sampling temperature; 0: greedy. Default: 0.7; for an encoder-decoder beam search, or 0 with options "
            "of sampling.",
        ),
    ] = None,
    top_p: TopPOption = 0.95,
    top_k: Annotated[int, typer.Option(min=0, help="Draw from the so many most probable tokens; 0: from all.")] = 0,
    min_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="No tokens below this share of the highest probability.")
    ] = 0.0,
    typical_p: Annotated[
        float, typer.Option(min=0.0, max=1.0, help="Locally typical sampling, of this total probability.")
    ] = 1.0,
    repetition_penalty: Annotated[
        float, typer.Option(min=0.0, help="Above 1: tokens of prompt and answer become less likely.")
    ] = 1.0,
    presence_penalty: Annotated[float, typer.Option(help="Subtracted from the logits of tokens in the answer.")] = 0.0,
    frequency_penalty: Annotated[float, typer.Option(help="The same, for each time that a token is in it.")] = 0.0,
    logit_bias: Annotated[
        list[str] | None, typer.Option(metavar="ID=BIAS", help="Added to the logit of a token; may be repeated.")
    ] = None,
    ban: Annotated[
        list[str] | None, typer.Option(metavar="TEXT", help="Text that no answer contains; may be repeated.")
    ] = None,
    min_tokens: Annotated[int, typer.Option(min=0, help="Tokens of an answer at least.")] = 0,
    seed: SeedOption = None,
    json_schema: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers are JSON, valid by this JSON schema.")
    ] = None,
    grammar: Annotated[
        Path | None, typer.Option(metavar="FILE", help="Answers are texts of this grammar: Lark's syntax or GBNF.")
    ] = None,
    regex: Annotated[str | None, typer.Option(help="Answers match this regular expression as a whole.")] = None,
    draft: DraftOption = None,
    prompt_lookup: PromptLookupOption = False,
    beams: Annotated[
        int | None,
        typer.Option(
            min=1,
            max=64,
            help="Beams of a beam search, which looks for the most likely text. Default: 4 for an encoder-decoder.",
        ),
    ] = None,
    length_penalty: Annotated[
        float | None, typer.Option(help="Of beam search: the higher, the longer the text. Default: 0.6.")
    ] = None,
    no_repeat_ngram: Annotated[
        int | None, typer.Option(min=0, help="Of beam search: no so many tokens in a row twice; 0: off. Default: 4.")
    ] = None,
    logprobs: Annotated[
        int | None, typer.Option(min=0, max=20, help="With --json: log-probabilities, and so many likely tokens each.")
    ] = None,
    target_language: Annotated[
        str | None,
        typer.Option(help="Language of the translation, a token of the model: fra_Latn (NLLB), fr_XX (mBART)."),
    ] = None,
    kv_bits: KvBitsOption = None,
    deterministic: DeterministicOption = False,
    device: DeviceOption = "auto",
    dtype: DtypeOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Continue a text; translate or summarize it, if the model is an encoder-decoder.

    Of a file, it prints one line for each answer, in which spaces replace line breaks; with --json an object a line. Exit code
    1: some prompts have no answer, as standard error says; 2: none has, or an option is wrong.

    Example: groundup generate runs/quickstart --prompt "Once upon a time"
    """
    from groundup.generate import SamplingParams, set_target_language
    from groundup.generate.generation import require_generative

    searches = [
        f"--{name}" for name, value in (("beams", beams), ("length-penalty", length_penalty),
        ("no-repeat-ngram", no_repeat_ngram)) if value is not None
    ]  # fmt: skip
    grammars = [
        f"--{name}" for name, value in (("json-schema", json_schema), ("grammar", grammar), ("regex", regex))
        if value is not None
    ]  # fmt: skip
    proposers = [f"--{name}" for name, value in (("draft", draft), ("prompt-lookup", prompt_lookup)) if value]
    sampled = [
        f"--{name}" for name, given in (
            ("temperature", temperature is not None), ("top-k", top_k), ("min-p", min_p), ("typical-p", typical_p != 1),
            ("repetition-penalty", repetition_penalty != 1), ("presence-penalty", presence_penalty),
            ("frequency-penalty", frequency_penalty), ("logit-bias", logit_bias), ("ban", ban), ("stop", stop),
            ("min-tokens", min_tokens),
        ) if given
    ]  # fmt: skip
    counted = ["--logprobs"] if logprobs is not None else []
    counted += ["--best-of"] if best_of is not None else []
    for first, second, reason in (
        (["--prompt"] if prompt is not None else [], ["--input"] if input is not None else [], "give one of them"),
        (
            searches,
            [*sampled, *grammars, *proposers, *counted],
            "beam search looks for the likeliest text and samples none",
        ),
        (grammars, grammars[1:], "give one of them"),
        (proposers, proposers[1:], "give one of them"),
    ):
        if first and second:
            raise UserError(f"both {first[0]} and {second[0]}", hint=reason)
    if logprobs is not None and not as_json:
        raise UserError("--logprobs without --json", hint="--json")
    if best_of is not None and best_of < n:
        raise UserError(f"--best-of {best_of}, expected at least --n = {n}")
    texts = read_texts(input) if input else []
    network, tokenizer = open_for_writing(
        model, device, dtype, verify, adapter, kv_bits=kv_bits, deterministic=deterministic
    )
    network = require_generative(network)
    if target_language is not None:
        set_target_language(network, tokenizer, target_language)
    is_decoder = network.config.architecture == "decoder"
    if not texts:
        if prompt is None and not is_decoder:
            raise UserError("no text to read", hint="--prompt TEXT, or --input FILE with one text per line")
        texts = [
            InputText("1", _read_standard_input() if prompt == "-" else DEFAULT_PROMPT if prompt is None else prompt)
        ]
    others = [*sampled, *grammars, *proposers, *counted]
    if searches or (not is_decoder and not others):
        options = {"num_beams": beams or 4, "length_penalty": length_penalty, "no_repeat_ngram": no_repeat_ngram}
        options = {name: value for name, value in options.items() if value is not None}
        if options["num_beams"] < n:
            raise UserError(f"--n {n} of {options['num_beams']} beams, expected at most --beams")
        records = _search(network, tokenizer, texts, n, {**options, "max_tokens": max_tokens})
        _print(records, texts, as_json, single=input is None, echo=is_decoder)
        return
    sampling = SamplingParams(
        temperature=temperature if temperature is not None else 0.7 if is_decoder else 0.0, top_p=top_p, top_k=top_k, min_p=min_p,
        typical_p=typical_p, repetition_penalty=repetition_penalty, presence_penalty=presence_penalty,
        frequency_penalty=frequency_penalty, logit_bias=_biases(logit_bias or [], network.config.vocab_size),
        banned_sequences=_banned(tokenizer, ban or []), min_tokens=min_tokens, seed=seed,
        grammar=_compile(tokenizer, json_schema, grammar, regex),
    )  # fmt: skip
    options = {"sampling": sampling, "max_tokens": max_tokens, "stop": tuple(stop or ())}
    proposer = open_proposer(network, tokenizer, draft, prompt_lookup, (device, dtype, verify))
    if proposer is None and input is None and n == 1 and best_of is None and not as_json:
        from groundup.generate import stream_text

        _print_stream(texts[0].text if is_decoder else "", stream_text(network, tokenizer, texts[0].text, **options))
    else:
        options |= {"n": n, "best_of": best_of, "logprobs": logprobs, "proposer": proposer}
        records = _complete(network, tokenizer, texts, options)
        _print(records, texts, as_json, single=input is None, echo=is_decoder)
    if proposer is not None:
        counts = proposer.counts
        passes = f"{counts.passes} passes of the model"
        print(f"{counts.acceptance_rate:.0%} of {counts.proposed} proposed tokens accepted, {passes}", file=sys.stderr)


# ---- answers: the index of the text, and an object for --json


Record = tuple[int, dict[str, Any]]


def _complete(network: Any, tokenizer: Any, texts: list[InputText], options: dict[str, Any]) -> Iterator[Record]:
    from groundup.generate.text_completions import complete_texts

    for answers in complete_texts(network, tokenizer, (each.text for each in texts), **options):
        for answer in answers:
            if answer.error is not None:
                yield answer.prompt, {"error": answer.error}
                continue
            record = {"text": answer.text, "finish_reason": answer.finish_reason, "tokens": len(answer.tokens)}
            if options["logprobs"] is not None:
                record["logprobs"] = [
                    {
                        "token": _token_text(tokenizer, token), "logprob": logprob,
                        "top_logprobs": [{"token": _token_text(tokenizer, id), "logprob": each} for id, each in top],
                    }
                    for token, (logprob, top) in zip(answer.tokens, answer.logprobs, strict=True)
                ]  # fmt: skip
            yield answer.prompt, record


def _search(network: Any, tokenizer: Any, texts: list[InputText], n: int, options: dict[str, Any]) -> Iterator[Record]:
    from groundup.generate.beam_search import best_beam_texts

    for index, each in enumerate(texts):
        try:
            for text, score in best_beam_texts(network, tokenizer, each.text, **options)[:n]:
                yield index, {"text": text, "score": score}
        except UserError as error:
            yield index, {"error": error}


# ---- printing


def _print(records: Iterable[Record], texts: list[InputText], as_json: bool, *, single: bool, echo: bool) -> None:
    """Print answers. Exit code 1 if some texts have none; the error itself if there is one text only."""
    failed: set[int] = set()
    for index, record in records:
        each = texts[index]
        if (error := record.get("error")) is not None:
            if len(texts) == 1:
                raise error
            if index not in failed:
                print(f"error: prompt {each.id}: {error.message}", file=sys.stderr)
            failed.add(index)
        elif as_json:
            print(json.dumps({"id": each.id, "prompt": each.text, **record}, ensure_ascii=False), flush=True)
        elif single:
            print(sanitize_for_stream((each.text if echo else "") + record["text"], sys.stdout), flush=True)
        else:
            print(sanitize_for_stream(" ".join(record["text"].splitlines()), sys.stdout), flush=True)
    if len(failed) == len(texts):
        raise UserError("no prompt has an answer")
    if failed:
        raise typer.Exit(SOME_FAILED_EXIT_CODE)


def _print_stream(begin: str, chunks: Iterator[str]) -> None:
    """Print a text as it is written; nothing if the first token already fails."""
    for chunk in chunks:
        print(sanitize_for_stream(begin + chunk, sys.stdout), end="", flush=True)
        begin = ""
    print(sanitize_for_stream(begin, sys.stdout))


def _token_text(tokenizer: Any, id: int) -> str:
    return tokenizer.token_bytes(id).decode("utf-8", "backslashreplace") if id < tokenizer.vocab_size else ""


# ---- options


def _read_standard_input() -> str:
    try:
        return sys.stdin.buffer.read().decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"standard input is not UTF-8 text ({error})", hint="convert it with iconv") from None


def _biases(given: list[str], vocab_size: int) -> dict[int, float]:
    biases = {}
    for each in given:
        id, _, bias = each.partition("=")
        try:
            biases[int(id)] = float(bias)
        except ValueError:
            raise UserError(f"--logit-bias {each}, expected ID=BIAS, such as 11=-2.5") from None
        if not 0 <= int(id) < vocab_size:
            raise UserError(f"--logit-bias {each}: token id {id}, expected 0 to {vocab_size - 1}")
    return biases


def _banned(tokenizer: Any, texts: list[str]) -> list[list[int]]:
    """The tokens of each text, at the beginning of a line and after a space."""
    found = [tokenizer.encode(form) for text in texts for form in (text, " " + text)]
    return [list(ids) for ids in dict.fromkeys(map(tuple, found)) if ids]


def _compile(tokenizer: Any, json_schema: Path | None, grammar: Path | None, regex: str | None) -> Any:
    from groundup.generate import GrammarCompiler

    compiler = GrammarCompiler(tokenizer)
    if json_schema is not None:
        return compiler.json_schema(read_text(json_schema))
    if grammar is not None:
        return compiler.lark(read_text(grammar))
    return None if regex is None else compiler.regex(regex)
