"""The commands. Each imports its chapter when it is asked for, so that `--help`, `plan` and `status` answer at once.

Reading order: `options` (what several commands share), `extras` (packages that may be missing), `build` (recipe, plan,
run), `look` (at what is there), `use` (a model). Results go to stdout, progress and notes to stderr. What the user can
mend is one line and a hint, with exit code 2.
"""

import os
import sys
from typing import NoReturn

import typer

from groundup.artifacts.errors import AlreadyReported, PeerLost, UserError
from groundup.cli import extras, inspect_commands, model_commands, pipeline_commands

COMMANDS = {
    "Build": (
        pipeline_commands.init,
        pipeline_commands.plan,
        pipeline_commands.run,
        pipeline_commands.launch,
        pipeline_commands.sweep,
        pipeline_commands.ladder,
    ),
    "Inspect": (
        inspect_commands.status,
        inspect_commands.watch,
        inspect_commands.verify,
        inspect_commands.diff,
        inspect_commands.report,
        inspect_commands.inspect,
        inspect_commands.explain,
    ),
    "Use a model": (
        model_commands.generate,
        model_commands.chat,
        model_commands.serve,
        model_commands.evaluate,
        model_commands.quantize,
        model_commands.export,
    ),
}
"""In the order of the help page."""

app = typer.Typer(
    name="groundup",
    help="Build a language model from the ground up: one recipe in; a tokenizer, a base model, a chat model, a 4-bit "
    "model, a server and a report out.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    add_completion=True,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for panel, commands in COMMANDS.items():
    for command in commands:
        app.command(rich_help_panel=panel)(command)
app.command("_worker", hidden=True)(pipeline_commands.worker)


def main() -> None:
    """Entry point: a UserError is one line and a hint; an interrupt ends quietly; the rest is a bug with a traceback.

    What several processes of one run meet is said by one of them.
    """
    try:
        app()
    except UserError as error:
        _exit_with_error(error)
    except ModuleNotFoundError as error:
        if (known := extras.missing_package_error(error)) is None:
            raise
        _exit_with_error(known)
    except AlreadyReported:
        sys.exit(2)
    except PeerLost as error:
        print(error, file=sys.stderr)
        sys.exit(1)
    except BrokenPipeError:
        os.dup2(
            os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno()
        )  # the reader, such as `head`, has seen enough
        sys.exit(1)


def _exit_with_error(error: UserError) -> NoReturn:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    sys.exit(2)
