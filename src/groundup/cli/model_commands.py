"""Commands that take a model: generate, chat, serve, evaluate, quantize, export."""

import json
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.options import (
    DeviceOption,
    JsonOption,
    MaxTokensOption,
    ModelArgument,
    SeedOption,
    TemperatureOption,
    TopPOption,
)


def generate(
    model: ModelArgument,
    prompt: Annotated[str, typer.Option(help="Text to continue; -: read it from standard input.")] = "The",
    max_tokens: MaxTokensOption = 128,
    temperature: TemperatureOption = 0.7,
    top_p: TopPOption = 0.95,
    seed: SeedOption = None,
    device: DeviceOption = "auto",
) -> None:
    """Continue a text.

    Example: groundup generate runs/quickstart --prompt "Once upon a time"
    """
    from groundup.generate import SamplingParams, stream_text

    network, tokenizer = _open_model(model, device)
    text = sys.stdin.read() if prompt == "-" else prompt
    print(text, end="", flush=True)
    sampling = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
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
) -> None:
    """Chat with a model in the terminal, or answer one message a line from a pipe.

    Example: groundup chat runs/quickstart
    """
    from groundup.generate import SamplingParams
    from groundup.generate.terminal_chat import chat as converse

    network, tokenizer = _open_model(model, device)
    sampling = SamplingParams(temperature=temperature, top_p=top_p, seed=seed)
    converse(network, tokenizer, sampling, system=system, max_tokens=max_tokens)


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
) -> None:
    """Serve a model over HTTP: OpenAI's API under /v1, a chat page at /.

    Example: groundup serve runs/quickstart --port 8000
    """
    from groundup.serve.server import serve as serve_forever

    network, tokenizer = _open_model(model, device)
    serve_forever(network, tokenizer, name=model.resolve().name, host=host, port=port, api_key=api_key)


def evaluate(
    model: ModelArgument,
    text: Annotated[Path, typer.Option(help="Text to score, UTF-8.")],
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
) -> None:
    """Measure bits per byte and perplexity of a model on a text.

    Example: groundup evaluate runs/quickstart --text held-out.txt
    """
    from groundup.evaluate import score_text

    content = _read_text(text)
    network, tokenizer = _open_model(model, device)
    score = score_text(network, tokenizer, content)
    if as_json:
        print(json.dumps(score, indent=1))
        return
    for key, value in score.items():
        print(f"{key:<16} " + (f"{value:,.4f}" if isinstance(value, float) else f"{value:,}"))


def quantize(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    method: Annotated[str, typer.Option(help="gptq, awq or rtn.")] = "gptq",
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights per scale; halved until it divides every layer.")] = 128,
    calibration: Annotated[
        Path | None, typer.Option(help="Calibration text for gptq and awq, UTF-8; default: the run's training text.")
    ] = None,
    device: DeviceOption = "auto",
) -> None:
    """Quantize the weights of a model to 4 or 8 bits.

    Example: groundup quantize runs/quickstart --out small --calibration text.txt
    """
    from groundup.quantize import quantize_folder

    summary = quantize_folder(
        model, out, method=method, bits=bits, group_size=group_size, device=device,
        calibration_text=_read_text(calibration) if calibration else None, progress=PROGRESS_KINDS["auto"]()
    )  # fmt: skip
    print("\n".join(f"{key:<22} {value}" for key, value in summary.items()))


def export(
    model: ModelArgument,
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    format: Annotated[str, typer.Option(help="huggingface, gguf, gptq, awq or compressed-tensors.")] = "huggingface",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Export a model to a format of other software.

    Example: groundup export runs/quickstart --format gguf --out exported
    """
    from groundup.quantize import export_model

    for path in export_model(model, out, format=format, dtype=dtype):
        print(path)


def _open_model(path: Path, device: str) -> tuple[Any, Any]:
    from groundup.quantize import open_model

    return open_model(path, device=device)


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint="expected a UTF-8 text file") from None
    except IsADirectoryError:
        raise UserError(f"{path}: a folder, expected a UTF-8 text file") from None
    except UnicodeDecodeError as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})", hint="convert it with iconv") from None
