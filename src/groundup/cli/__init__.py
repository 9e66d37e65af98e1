"""Command line: each command imports its chapter when it runs, so `--help`, `plan` and `status` start at once.

    options.py             arguments and options that several commands have
    plain_help.py          layout of the help pages, unknown commands
    extras.py              optional packages that are not installed
    init_data.py           what init finds in the data
    init_session.py        plans and recipe of init, for terminal and form
    init_form.py           the form of init
    init_command.py        init
    plan_calibration.py    plan --calibrate
    pipeline_commands.py   plan, run, launch, sweep, ladder
    inspect_commands.py    status, watch, inspect, verify, diff, report, explain, models
    compare_command.py     compare
    trace_command.py       trace
    model_commands.py      embed, export
    evaluate_command.py    evaluate
    measure_input.py       its language measures, and texts with labels
    chat_command.py        chat
    serve_command.py       serve
    quantize_command.py    quantize
    generate_command.py    continuations, translations and summaries, of one text or a file
    classify_command.py    classify
    merge_command.py       merge
    model_check.py         opening of models, and what is said about it
    text_input.py          texts from files, one a line
    __main__.py            `python -m groundup.cli`

Results go to stdout, progress and notes to stderr. A mistake of the user is one line and a hint, with exit code 2.
Deliberately absent: any work. A command parses its arguments, calls a chapter and prints.
"""

import faulthandler
import os
import sys
import warnings
from typing import Annotated, NoReturn

import typer

from groundup import __version__
from groundup.artifacts.errors import USER_ERROR_EXIT_CODE, AlreadyReported, PeerLost, UserError
from groundup.artifacts.parent_death import exit_with_launcher
from groundup.artifacts.storage_errors import describe_storage_error
from groundup.cli import extras, inspect_commands, model_commands, pipeline_commands
from groundup.cli.plain_help import PlainCommand, PlainGroup

COMMANDS = {
    "Build": (pipeline_commands, ("init", "plan", "run", "launch", "sweep", "ladder")),
    "Inspect": (
        inspect_commands,
        ("status", "watch", "inspect", "verify", "diff", "report", "compare", "trace", "explain", "models"),
    ),
    "Use a model": (
        model_commands,
        ("generate", "chat", "embed", "classify", "serve", "evaluate", "quantize", "export", "merge"),
    ),
}
"""Panels of the help page: module and commands, in order."""

app = typer.Typer(
    name="groundup",
    cls=PlainGroup,
    help="Build a language model from one recipe: tokenizer, base model, chat model, quantized model, server, report.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)


def _print_version(wanted: bool) -> None:
    if wanted:
        print(f"groundup {__version__}")
        raise typer.Exit


@app.callback()
def options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    pass


for panel, (module, names) in COMMANDS.items():
    for name in names:
        app.command(rich_help_panel=panel, cls=PlainCommand)(getattr(module, name))
app.command("_worker", hidden=True)(pipeline_commands.worker)
app.command("_agent", hidden=True)(pipeline_commands.agent)


def main() -> None:
    """Entry point. Turns the expected exceptions into one line and an exit code; any other is a bug with a traceback."""
    exit_with_launcher()
    if sys.__stderr__ is not None:
        faulthandler.enable(sys.__stderr__)  # a crash in compiled code names the line of Python that led to it
    warnings.formatwarning = lambda message, *_, **__: f"warning: {message}\n"  # without the line of code
    try:
        app()
    except UserError as error:
        _exit_with_error(error)
    except ModuleNotFoundError as error:
        if (known := extras.missing_package_error(error)) is None:
            raise
        _exit_with_error(known)
    except AlreadyReported:
        sys.exit(USER_ERROR_EXIT_CODE)
    except PeerLost as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:  # `groundup ... | head`
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except OSError as error:
        if (known := describe_storage_error(error)) is None:
            raise
        _exit_with_error(known)


def _exit_with_error(error: UserError) -> NoReturn:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    sys.exit(USER_ERROR_EXIT_CODE)
