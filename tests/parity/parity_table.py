"""Measure every family in every direction and write the table that the book shows: book/parity.md.

Run it as `python tests/parity/parity_table.py` after a change of the model or of interop; a few seconds.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path

TABLE = Path(__file__).parents[2] / "book" / "parity.md"

HEADER = """# Equal to the models that people use

The largest absolute difference of a float32 logit between our model and that of transformers {transformers},
over {tokens} random tokens, at toy size with odd head counts and widths and random weights in every tensor.
*In*: their model, saved by them and opened by us. *Out*: our model, saved by us and opened by them. Equal
means below 1e-4; 0 means bit for bit. Written by `python tests/parity/parity_table.py`; the tests
`tests/parity/test_interop_*.py` fail above 1e-4.

"""
GGUF = """
GGUF files in float32. *In*: written with the names and permutations of llama.cpp's conversion script,
opened by us, against the transformers model it was made of. *Out*: written by us, opened by transformers where
it can.

"""


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import test_interop_gguf as gguf
    import test_interop_huggingface as huggingface
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    toys = huggingface.TOYS
    text = HEADER.format(transformers=version("transformers"), tokens=2 * huggingface.LENGTH)
    text += table(
        (name, measure(huggingface.measure_import, toy), measure(huggingface.measure_export, toy))
        for name, toy in toys.items()
    )
    text += GGUF + table(
        (
            name,
            measure(gguf.measure_import, name) if name in gguf.THEIRS else None,
            measure(gguf.measure_export, name) if name in gguf.OURS else None,
        )
        for name in sorted(gguf.THEIRS.keys() | gguf.OURS.keys())
    )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    print(text)


def measure(measurement: Callable, toy) -> float:
    with tempfile.TemporaryDirectory() as folder:
        return measurement(toy, Path(folder))


def table(rows: Iterable[tuple[str, float | None, float | None]]) -> str:
    lines = ["| family | in | out |", "|---|---:|---:|"]
    lines += [f"| {name} | {figure(into)} | {figure(out)} |" for name, into, out in rows]
    return "\n".join(lines) + "\n"


def figure(difference: float | None) -> str:
    return "" if difference is None else "0" if difference == 0 else f"{difference:.1e}"


if __name__ == "__main__":
    main()
