"""Help pages without type brackets, and errors for unknown commands that name a visible command."""

from difflib import get_close_matches
from typing import Any

from typer.core import TyperCommand, TyperGroup

from groundup.artifacts.errors import UserError
from groundup.stages import STAGES

METAVARS = {"str": "TEXT", "int": "N", "float": "X", "path": "PATH"}


class _PlainHelp:
    """`RECIPE` instead of `{RECIPE}`, `PATH` instead of `<path>`; nothing behind flags and arguments."""

    def collect_usage_pieces(self, ctx: Any) -> list[str]:
        return [word.strip("{}") for word in super().collect_usage_pieces(ctx)]  # type: ignore[misc]

    def get_params(self, ctx: Any) -> list[Any]:
        params = super().get_params(ctx)  # type: ignore[misc]
        for param in params:
            if param.param_type_name == "argument":
                param.display_type_rich = lambda ctx: None
            elif param.metavar is None:
                kind = param.display_type(ctx).strip("<>").split()[0].removeprefix("list[").rstrip("]").lower()
                param.metavar = "" if param.is_flag else METAVARS[kind]
        return params


class PlainCommand(_PlainHelp, TyperCommand):
    pass


class PlainGroup(_PlainHelp, TyperGroup):
    def resolve_command(self, ctx: Any, args: list[str]) -> Any:
        """Raises UserError for an unknown command."""
        name = args[0]
        if self.get_command(ctx, name) is None and not name.startswith("-"):
            if name in {part for stage in STAGES for part in (stage.name, stage.section)}:
                hint = "a stage, not a command: groundup run RECIPE --until STAGE"
            else:
                visible = [key for key, command in self.commands.items() if not command.hidden]
                close = get_close_matches(name, visible, n=1)
                hint = f"groundup {close[0]}?" if close else f"one of {', '.join(visible)}"
            raise UserError(f"{name}: no such command", hint=hint)
        return super().resolve_command(ctx, args)
