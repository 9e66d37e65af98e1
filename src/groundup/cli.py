"""The commands. Each imports its chapter when it is asked for, so that `--help`, `plan` and `status` answer at once.

Results go to stdout, progress and notes to stderr. What the user can mend is one line and a hint, with exit code 2.
"""

import json
import os
import sys
from pathlib import Path
from typing import Annotated, Any

import typer

from groundup.artifacts.errors import UserError
from groundup.artifacts.manifest import Manifest
from groundup.artifacts.progress import KINDS, clock
from groundup.options import (
    AsJson,
    Device,
    MaxTokens,
    Model,
    Recipe,
    Run,
    Runs,
    Seed,
    Sets,
    Temperature,
    TopP,
)

app = typer.Typer(
    name="groundup",
    help="Build a language model from the ground up: one recipe in; a tokenizer, a base model, a chat model, a 4-bit "
    "model, a server and a report out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)


@app.command()
def init(
    out: Annotated[Path, typer.Option(help="The recipe to write.")] = Path("recipe.toml"),
    goal: Annotated[str | None, typer.Option(help="base, chat or chat-4bit.")] = None,
    data: Annotated[
        str | None, typer.Option(help="Your text: files with globs, an address, or `sample`.")
    ] = None,
    hardware: Annotated[
        str | None, typer.Option(help="A device that the plan knows, such as cpu-2 or h100.")
    ] = None,
    devices: Annotated[int | None, typer.Option(min=1, help="How many of them.")] = None,
    hours: Annotated[float | None, typer.Option(help="Time for pretraining.")] = None,
) -> None:
    """Ask for goal, data, hardware and budget, and write a recipe made for them."""
    from groundup.plan import advise

    if out.exists():
        raise UserError(f"{out} exists", hint="choose another name with --out")
    answers: dict[str, Any] = {
        "goal": goal,
        "data": data,
        "hardware": hardware,
        "devices": devices,
        "hours": hours,
    }
    for question in advise.QUESTIONS:
        if answers[question.name] is None:
            ask = sys.stdin.isatty()
            answers[question.name] = (
                typer.prompt(question.text, question.default, err=True) if ask else question.default
            )
    out.write_text(advise.recipe_text(answers, name=out.stem), encoding="utf-8")
    print(f"wrote {out}\nnext: groundup plan {out}")


@app.command()
def plan(
    recipe: Recipe,
    sets: Sets = None,
    pdf: Annotated[Path | None, typer.Option(help="Also write the blueprint as a PDF.")] = None,
    as_json: AsJson = False,
) -> None:
    """What a recipe will cost: parameters, tokens, memory, layout, hours, money. Refuses what will not fit."""
    from groundup.plan import derive, tell
    from groundup.recipe import load

    facts = derive(load(recipe, sets or ())).facts()
    print(json.dumps(facts, indent=1) if as_json else tell.table(facts))
    if pdf is not None:
        from groundup.report.blueprint import write_blueprint

        write_blueprint(facts, pdf)
        _note(f"wrote {pdf}")


@app.command()
def run(
    recipe: Recipe,
    sets: Sets = None,
    from_stage: Annotated[
        str | None, typer.Option("--from", metavar="STAGE", help="Build again from here.")
    ] = None,
    until: Annotated[
        str | None, typer.Option("--until", metavar="STAGE", help="Stop after this stage.")
    ] = None,
    replace: Annotated[
        bool, typer.Option("--replace", help="Build finished stages again whose recipe changed.")
    ] = False,
    runs: Runs = Path("runs"),
) -> None:
    """Build what the recipe asks for; what is finished stays, what was interrupted continues."""
    from groundup import pipeline
    from groundup.recipe import load

    wanted = load(recipe, sets or ())
    machine = pipeline.machine_for(wanted, KINDS[wanted.machine.progress]())
    folder = runs / wanted.name
    built = 0
    options = {"from_stage": from_stage, "until_stage": until, "replace_stale": replace}
    for job, state in pipeline.run(wanted, folder, machine, **options):
        built += state == "built"
        manifest = job.manifest()
        seconds = manifest.provenance["seconds"] if manifest and state == "built" else None
        _note(f"{job.stage.folder:<14} " + ("complete" if seconds is None else f"built in {clock(seconds)}"))
    if built:
        from groundup.report.summary import summary

        print(summary(folder))
    else:
        print(f"{folder}: nothing to do, everything is complete")


@app.command()
def status(run: Run, as_json: AsJson = False) -> None:
    """Which stages of a run are complete, stale, interrupted or missing."""
    from groundup import pipeline
    from groundup.plan import derive

    recipe = pipeline.read_recipe(run)
    machine = pipeline.machine_for(recipe, KINDS["none"]())
    rows = []
    for job in pipeline.jobs(derive(recipe).recipe, run, machine):
        manifest = job.manifest()
        size = sum(file["bytes"] for file in manifest.files.values()) if manifest else None
        seconds = manifest.provenance.get("seconds") if manifest else None
        rows.append({"stage": job.stage.folder, "state": job.state(), "bytes": size, "seconds": seconds})
    if as_json:
        print(json.dumps(rows, indent=1))
        return
    for row in rows:
        size = "" if row["bytes"] is None else f"{row['bytes'] / 1e6:9.1f} MB"
        print(
            f"{row['stage']:<14} {row['state']:<12} {size:>12} {'' if row['seconds'] is None else clock(row['seconds']):>9}"
        )


@app.command()
def verify(run: Run) -> None:
    """Hash every file of a run's finished stages again, and compare with the manifests."""
    from groundup import pipeline
    from groundup.artifacts.manifest import verify as verify_folder

    pipeline.read_recipe(run)
    folders = [
        run / stage.folder for stage in pipeline.STAGES if Manifest.read(run / stage.folder) is not None
    ]
    problems = [line for folder in folders for line in verify_folder(folder)]
    for line in problems:
        print(line)
    if problems:
        raise UserError(
            f"{run}: {len(problems)} file(s) differ",
            hint="groundup run RECIPE --from STAGE builds a stage again",
        )
    print(f"{run}: {len(folders)} finished stages, every file as it was written")


@app.command()
def diff(
    run: Run,
    other: Annotated[Path, typer.Argument(metavar="OTHER", help="Another run, or a recipe file.")],
    sets: Sets = None,
) -> None:
    """How two runs, or a run and a recipe, differ: knobs, derived values and scores."""
    from groundup import pipeline
    from groundup.plan import derive
    from groundup.recipe import load

    mine = pipeline.read_recipe(run)
    theirs = pipeline.read_recipe(other) if other.is_dir() else load(other, sets or ())
    one, two = (
        derive(recipe).recipe.model_dump(mode="json", exclude={"machine"}) for recipe in (mine, theirs)
    )
    lines = pipeline.differences(one, two)
    if other.is_dir():
        lines += pipeline.differences(_scores(run), _scores(other))
    print("\n".join(lines) if lines else f"{run} and {other}: no difference")


@app.command()
def generate(
    model: Model,
    prompt: Annotated[
        str, typer.Option(help="The text to continue; - reads it from standard input.")
    ] = "The",
    max_tokens: MaxTokens = 128,
    temperature: Temperature = 0.7,
    top_p: TopP = 0.95,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Continue a text."""
    from groundup.generate import Sampling, stream_text

    network, tokenizer = _open(model, device)
    text = sys.stdin.read() if prompt == "-" else prompt
    print(text, end="", flush=True)
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    for piece in stream_text(network, tokenizer, text, sampling=sampling, max_tokens=max_tokens):
        print(piece, end="", flush=True)
    print()


@app.command()
def chat(
    model: Model,
    system: Annotated[str | None, typer.Option(help="A system message.")] = None,
    max_tokens: MaxTokens = 256,
    temperature: Temperature = 0.5,
    top_p: TopP = 0.95,
    seed: Seed = None,
    device: Device = "auto",
) -> None:
    """Talk with a model in the terminal."""
    from groundup.generate import Sampling
    from groundup.generate.chat import chat as converse

    network, tokenizer = _open(model, device)
    sampling = Sampling(temperature=temperature, top_p=top_p, seed=seed)
    converse(network, tokenizer, sampling, system=system, max_tokens=max_tokens)


@app.command()
def serve(
    model: Model,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on.")] = 8000,
    api_key: Annotated[
        str | None,
        typer.Option(
            envvar="GROUNDUP_API_KEY", help="Let in only who sends this key; better set in the environment."
        ),
    ] = None,
    device: Device = "auto",
) -> None:
    """Serve a model over HTTP as OpenAI's API has it, with a chat page at /."""
    from groundup.serve.server import serve as serve_forever

    network, tokenizer = _open(model, device)
    serve_forever(network, tokenizer, name=model.resolve().name, host=host, port=port, api_key=api_key)


@app.command()
def evaluate(
    model: Model,
    text: Annotated[Path, typer.Option(help="The text to score: a UTF-8 file.")],
    as_json: AsJson = False,
    device: Device = "auto",
) -> None:
    """Bits per byte and perplexity of a model on a text."""
    from groundup.evaluate import score_text

    network, tokenizer = _open(model, device)
    score = score_text(network, tokenizer, _read_text(text))
    print(
        json.dumps(score, indent=1)
        if as_json
        else "\n".join(f"{key:<22} {value:,.4f}" for key, value in score.items())
    )


@app.command()
def quantize(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    method: Annotated[str, typer.Option(help="gptq, awq or rtn.")] = "gptq",
    bits: Annotated[int, typer.Option(help="4 or 8.")] = 4,
    group_size: Annotated[int, typer.Option(help="Weights that share a scale.")] = 128,
    calibration: Annotated[
        Path | None, typer.Option(help="Text that gptq and awq look at: a UTF-8 file.")
    ] = None,
    device: Device = "auto",
) -> None:
    """Keep 4 or 8 bits of each weight."""
    from groundup.quantize import quantize_folder

    facts = quantize_folder(
        model, out, method=method, bits=bits, group_size=group_size, device=device,
        calibration_text=_read_text(calibration) if calibration else None, progress=KINDS["auto"](),
    )  # fmt: skip
    print("\n".join(f"{key:<22} {value}" for key, value in facts.items()))


@app.command()
def export(
    model: Model,
    out: Annotated[Path, typer.Option(help="The folder to write.")],
    format: Annotated[
        str, typer.Option(help="huggingface, gguf, gptq, awq or compressed-tensors.")
    ] = "huggingface",
    dtype: Annotated[str, typer.Option(help="float32, bfloat16 or float16.")] = "float32",
) -> None:
    """Write a model in the layout that other software reads."""
    from groundup.quantize import export_model

    for path in export_model(model, out, format=format, dtype=dtype):
        print(path)


@app.command()
def report(
    run: Run,
    pdf: Annotated[
        Path | None, typer.Option(help="Where to put the PDF; default: report.pdf in the run.")
    ] = None,
) -> None:
    """Write the report of a run from what its manifests say, finished or not."""
    from groundup import pipeline
    from groundup.report import write_report

    pipeline.read_recipe(run)
    print(write_report(run, pdf or run / "report.pdf"))


@app.command()
def explain(
    knob: Annotated[str | None, typer.Argument(help="A knob such as train.steps; none: all of them.")] = None,
    schema: Annotated[
        bool, typer.Option("--schema", help="Print the recipe's JSON schema, for editors.")
    ] = False,
) -> None:
    """What a knob means, what it takes and its default."""
    from groundup.recipe import explain as explaining

    if schema:
        print(json.dumps(explaining.json_schema(), indent=1))
    elif knob:
        print(explaining.explain(knob))
    else:
        for name, takes, default, meaning in explaining.table():
            print(f"{name:<38} {meaning} [{takes}; default {default}]")


def main() -> None:
    """Entry point: a UserError is one line and a hint; an interrupt ends quietly; the rest is a bug with a traceback."""
    try:
        app()
    except UserError as error:
        print(f"error: {error.message}", file=sys.stderr)
        if error.hint:
            print(f"hint: {error.hint}", file=sys.stderr)
        sys.exit(2)
    except KeyboardInterrupt:
        print("\nstopped; the same command continues", file=sys.stderr)
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader, such as `head`, has seen enough
        sys.exit(1)


def _open(path: Path, device: str) -> tuple[Any, Any]:
    from groundup.quantize import open_model

    return open_model(path, device=device)


def _scores(run: Path) -> dict[str, Any]:
    manifest = Manifest.read(run / "05-scores")
    return {"scores": manifest.metrics} if manifest else {}


def _read_text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except FileNotFoundError:
        raise UserError(f"{path}: no such file", hint="give a UTF-8 text file") from None
    except (UnicodeDecodeError, IsADirectoryError) as error:
        raise UserError(f"{path}: not a UTF-8 text file ({error})", hint="convert it with iconv") from None


def _note(text: str) -> None:
    print(text, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
