"""Measure every family in every direction and write the table that the book shows: book/parity.md.

Run it as `python tests/parity/parity_table.py` after a change of the model or of interop; some minutes.
"""

import logging
import sys
import tempfile
import warnings
from collections.abc import Callable, Iterable
from importlib.metadata import version
from pathlib import Path
from typing import Any

TABLE = Path(__file__).parents[2] / "book" / "parity.md"

HEADER = """# Equal to the models that people use

The largest difference of a float32 logit, of the largest logit, between our model and that of transformers {transformers},
over {tokens} random tokens, and over models of random settings and sizes (odd head counts and widths) with random
weights in every tensor. *In*: their model, saved by them and opened by us, with and without a KV cache. *Out*: our model,
saved by us and opened by them. Equal means below 1e-4; 0 means bit for bit. Written by
`python tests/parity/parity_table.py`; `tests/parity/test_random_families.py` fails above 1e-4.

"""
GGUF = """
GGUF files in float32. *In*: written with the names and permutations of llama.cpp's conversion script,
opened by us, against the transformers model it was made of. *Out*: written by us, opened by transformers where
it can.

Every architecture that is written as GGUF is also compared with llama.cpp itself, by
`tests/parity/test_interop_llama_cpp.py`: the same ids, logits within 1e-5 of their norm in float32 (1e-3 under GELU, which
llama.cpp takes from a table), and exports in float16, bfloat16, Q8_0 and Q4_0, Q4_K and Q6_K of llama.cpp's own quantizer
within the rounding of activations.

"""


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import test_interop_gguf as gguf
    import test_random_families as huggingface
    import torch

    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    logging.disable()
    count = huggingface.DRAWN_MODELS
    text = HEADER.format(transformers=version("transformers"), tokens=2 * huggingface.LENGTH)
    text += table(
        ["family", "models", "in", "out"],
        ([name, str(count), *map(figure, measure(huggingface.measure_family, name))] for name in huggingface.DRAWS),
    )
    text += GGUF + table(
        ["family", "in", "out"],
        (
            [
                name,
                figure(measure(gguf.measure_import, name)) if name in gguf.THEIRS else "",
                figure(measure(gguf.measure_export, name)) if name in gguf.OURS else "",
            ]
            for name in sorted(gguf.THEIRS.keys() | gguf.OURS.keys())
        ),
    )
    TABLE.parent.mkdir(exist_ok=True)
    TABLE.write_text(text, encoding="utf-8")
    print(text)


def measure(measurement: Callable, name: str) -> Any:
    with tempfile.TemporaryDirectory() as folder:
        return measurement(name, Path(folder))


def table(columns: list[str], rows: Iterable[list[str]]) -> str:
    lines = [columns, ["---"] + ["---:"] * (len(columns) - 1), *rows]
    return "".join(f"| {' | '.join(cells)} |\n" for cells in lines)


def figure(difference: float) -> str:
    return "0" if difference == 0 else f"{difference:.1e}"


if __name__ == "__main__":
    main()
