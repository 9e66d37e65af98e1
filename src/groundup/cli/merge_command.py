"""`groundup merge`: one model from several."""

from pathlib import Path
from typing import Annotated

import typer

from groundup.artifacts.errors import UserError
from groundup.cli.options import VerifyOption


def merge(
    models: Annotated[
        list[Path], typer.Argument(metavar="MODEL...", help="Models, or adapters, of one configuration and vocabulary.")
    ],
    out: Annotated[Path, typer.Option(help="Folder to write.")],
    weights: Annotated[
        str | None, typer.Option(help="One number for each model, such as 0.7,0.3; default: equal ones.")
    ] = None,
    method: Annotated[
        str,
        typer.Option(help="linear (mean of the weights), task-arithmetic or ties (what was learnt, added to --base)."),
    ] = "linear",
    base: Annotated[Path | None, typer.Option(metavar="MODEL", help="The model that they were trained from.")] = None,
    density: Annotated[float, typer.Option(help="ties: part of the changes that is kept.")] = 0.2,
    verify: VerifyOption = True,
) -> None:
    """Merge models, or adapters of one base, into one model.

    Example: groundup merge runs/a runs/b --weights 0.7,0.3 --out merged
    """
    from groundup.interop.model_merging import merge_models

    numbers = None
    if weights is not None:
        try:
            numbers = [float(part) for part in weights.split(",")]
        except ValueError:
            raise UserError(f"--weights {weights}: expected numbers with commas between them", hint="0.7,0.3") from None
    merge_models(models, out, method=method, weights=numbers, base=base, density=density, verify=verify)
    print(out)
