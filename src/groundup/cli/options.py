"""The arguments and options that several commands share."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[
    Path, typer.Argument(metavar="RECIPE", help="A recipe file; recipes/ holds examples.")
]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, such as runs/quickstart.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run, one of its artifacts, a Hugging Face folder or a .gguf file."
    ),
]
SetOption = Annotated[
    list[str] | None, typer.Option("--set", metavar="KNOB=VALUE", help="Override a knob; may be repeated.")
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Folder that holds the runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON, for programs.")]
DeviceOption = Annotated[str, typer.Option(help="cpu, cuda, mps, or auto.")]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Longest answer, in tokens.")]
TemperatureOption = Annotated[
    float, typer.Option(min=0.0, help="0 takes the likeliest token; higher is more varied.")
]
TopPOption = Annotated[
    float,
    typer.Option("--top-p", min=0.0, max=1.0, help="Draw from the likeliest tokens of this total share."),
]
SeedOption = Annotated[int | None, typer.Option(help="Same seed, same text.")]
