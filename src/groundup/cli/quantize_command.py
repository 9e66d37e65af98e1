"""`groundup quantize`: a model with fewer bits a weight, or all methods side by side."""

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.progress import PROGRESS_KINDS
from groundup.cli.model_check import check_writes_text
from groundup.cli.options import AdapterOption, DeviceOption, JsonOption, ModelArgument, VerifyOption


def quantize(
    model: ModelArgument,
    out: Annotated[
        Path | None, typer.Option(help="Folder to write: the model; with --compare, the table and a picture.")
    ] = None,
    method: Annotated[str | None, typer.Option(help="rtn, gptq, awq, autoround, nf4, float8 or smoothquant.")] = None,
    bits: Annotated[int | None, typer.Option(help="Bits per weight.")] = None,
    size: Annotated[
        str | None, typer.Option(help="Largest size of the file, such as 90MB: each layer its bits, by sensitivity.")
    ] = None,
    group_size: Annotated[int | None, typer.Option(help="Weights of one row per scale.")] = None,
    symmetric: Annotated[
        bool | None, typer.Option("--symmetric/--asymmetric", help="Without or with zero points.")
    ] = None,
    act_order: Annotated[
        bool | None,
        typer.Option("--act-order/--no-act-order", help="gptq: quantize the weights of the largest inputs first."),
    ] = None,
    damp_percent: Annotated[
        float | None, typer.Option(help="gptq: added to the Hessian's diagonal, as a fraction of its mean.")
    ] = None,
    rounding_steps: Annotated[int | None, typer.Option(help="autoround: learning steps for each block.")] = None,
    calibration: Annotated[
        list[Path] | None,
        typer.Option(
            metavar="PATH",
            help="Text for calibration and comparison: a file, .jsonl with text or messages, or a folder; may be "
            "repeated. Default: that of the run, else text that the model writes itself.",
        ),
    ] = None,
    calibration_tokens: Annotated[int | None, typer.Option(help="Tokens for calibration.")] = None,
    eval_tokens: Annotated[int | None, typer.Option(help="Other tokens for the comparison with MODEL.")] = None,
    seed: Annotated[int, typer.Option(min=0, help="Seed of the choice of text.")] = 0,
    compare: Annotated[bool, typer.Option("--compare", help="Compare methods side by side and keep no model.")] = False,
    methods: Annotated[
        str | None,
        typer.Option(
            help="With --compare: methods (rtn,gptq,gguf) and single models (awq-4,gptq-90MB,gguf-q8_0); default: all."
        ),
    ] = None,
    as_json: JsonOption = False,
    device: DeviceOption = "auto",
    adapter: AdapterOption = None,
    verify: VerifyOption = True,
) -> None:
    """Quantize the weights of a model, and compare it with MODEL on other text.

    Defaults of method, bits and the other knobs are those of [quantize]: groundup explain quantize.bits

    Example: groundup quantize runs/quickstart --out small --bits 4
    """
    from groundup.quantize.calibration_text import existing_files
    from groundup.quantize.method_comparison import COMPARED_BITS, candidate_names, compare_methods
    from groundup.quantize.price_table import format_price, format_row, price_heading
    from groundup.quantize.standalone import quantize_folder

    files = existing_files(calibration or ())
    check_writes_text(model)
    given = {
        "method": method, "bits": bits, "size": size, "group_size": group_size, "symmetric": symmetric, "act_order": act_order,
        "damp_percent": damp_percent, "rounding_steps": rounding_steps,
        "calibration_tokens": calibration_tokens, "eval_tokens": eval_tokens,
    }  # fmt: skip
    knobs: dict[str, Any] = {name: value for name, value in given.items() if value is not None}
    common: dict[str, Any] = {
        "device": device, "calibration": files, "seed": seed, "progress": PROGRESS_KINDS["auto"](),
        "adapter": adapter, "verify": verify,
    }  # fmt: skip
    if compare:
        if method is not None:
            raise UserError("both --compare and --method", hint="--methods names what to compare")
        if out is not None and out.exists() and any(out.iterdir() if out.is_dir() else [out]):
            raise UserError(f"{out}: exists and is not empty", hint="name a new folder")
        names = candidate_names(methods, (bits,) if bits is not None else COMPARED_BITS, knobs.pop("size", None))
        if not as_json:
            print(price_heading(), flush=True)
        show = (lambda row: None) if as_json else (lambda row: print(format_row(row), flush=True))
        result = compare_methods(model, names, on_row=show, **common, **knobs)
        if as_json:
            print(json.dumps(result, indent=1))
        if out is not None:
            _write_comparison(result, out)
        return
    if methods is not None:
        raise UserError("--methods without --compare", hint="--method quantizes by one method")
    if out is None:
        raise UserError("no folder to write the model to", hint="--out DIR; or --compare, which keeps no model")
    summary = quantize_folder(model, out, **common, **knobs)
    print(json.dumps(summary, indent=1) if as_json else format_price(summary))


def _write_comparison(result: dict[str, Any], out: Path) -> None:
    from groundup.report.quantization_plots import plot_quality_against_size

    out.mkdir(parents=True, exist_ok=True)
    (out / "comparison.json").write_text(json.dumps(result, indent=1) + "\n", encoding="utf-8")
    picture = plot_quality_against_size(result["rows"])
    if picture:
        (out / "comparison.svg").write_text(picture, encoding="utf-8")
    print(f"written: {', '.join(str(file) for file in sorted(out.glob('comparison.*')))}")
