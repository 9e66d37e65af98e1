"""Arguments and options that several commands have."""

from pathlib import Path
from typing import Annotated

import typer

RecipeArgument = Annotated[Path, typer.Argument(metavar="RECIPE", help="A recipe file (TOML).")]
RunArgument = Annotated[Path, typer.Argument(metavar="RUN", help="A run folder, for example runs/quickstart.")]
ModelArgument = Annotated[
    Path,
    typer.Argument(
        metavar="MODEL", help="A run folder, one of its stage folders, a Hugging Face folder or a .gguf file."
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="KNOB=VALUE", help="Override a knob of the recipe; may be repeated."),
]
RunsOption = Annotated[Path, typer.Option("--runs", help="Parent folder of all runs.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON.")]
AdapterOption = Annotated[
    Path | None,
    typer.Option(metavar="DIR", help="Adapter to use with MODEL: a PEFT folder, a run, or one of its stage folders."),
]
DeviceOption = Annotated[str, typer.Option(help="auto, cpu, cuda, cuda:1 or mps.")]
DtypeOption = Annotated[
    str,
    typer.Option(
        help="float32, bfloat16 or float16; auto: that of the files where the machine is fast at it, else float32. "
        "Quantized weights keep theirs."
    ),
]
MaxTokensOption = Annotated[int, typer.Option("--max-tokens", min=1, help="Maximum number of new tokens.")]
TemperatureOption = Annotated[float, typer.Option(min=0.0, help="Sampling temperature; 0: greedy decoding.")]
TopPOption = Annotated[
    float,
    typer.Option(
        "--top-p", min=0.0, max=1.0,
        help="Nucleus sampling: draw from the most probable tokens with this total probability."
    ),
]  # fmt: skip
SeedOption = Annotated[int | None, typer.Option(help="Random seed; default: a random one.")]
KvBitsOption = Annotated[
    int | None,
    typer.Option(
        help="8: keys and values of earlier tokens in 8 bits, which halves their memory. Default: as computed."
    ),
]
DraftOption = Annotated[
    Path | None,
    typer.Option(metavar="MODEL", help="Smaller model that proposes tokens: the same answers in less time."),
]
PromptLookupOption = Annotated[
    bool, typer.Option("--prompt-lookup", help="The prompt proposes tokens: for answers that repeat much of it.")
]
DeterministicOption = Annotated[
    bool,
    typer.Option(
        "--deterministic",
        help="The same answer to a request and a seed, bit for bit, alone or among others: slower, on a CPU only.",
    ),
]
VerifyOption = Annotated[
    bool, typer.Option("--verify/--no-verify", help="Compare the files of a run's stage with their SHA-256 before use.")
]
