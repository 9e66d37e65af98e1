"""Hold every layout and engine against one process and write the table that the book shows: book/parallel.md.

Run it as `python tests/parallel/equivalence_table.py [native|deepspeed|megatron [WORD...]]` after a change of parallel/ or the
engines, in an environment where the engine is installed; of its rows those with a WORD in their name, or all. Other rows
stay as they are. A quarter of an hour for all of native.
"""

import sys
from importlib.metadata import version
from pathlib import Path

TABLE = Path(__file__).parents[2] / "book" / "parallel.md"
HEADER = """# One recipe, any layout of devices

Five training steps of a toy model in each layout, against the same five in one process: the worst relative difference
of a loss, of a gradient norm, and of any one parameter's gradient in the first step (its error's norm over its own).
Ranks are processes on one machine, joined by gloo; torch {torch}, float32 unless said. Nothing here was run on a GPU or
with NCCL. Written by `python tests/parallel/equivalence_table.py`; `tests/parallel/test_equivalence.py` fails above 1e-6, 1e-5
and 2e-5, and above the bounds it states for bfloat16 and for Muon, whose products are in bfloat16.

The last rows are other engines on the same recipe, batches and loop: DeepSpeed 0.19.8, and Megatron-Core 0.16.1, which asks
for CUDA and was told that the CPU is one (`tests/parallel/megatron_shim.py`). `tests/parallel/test_other_engines.py` holds them
to the same bounds.

| layout | ranks | loss | norm | gradient |
|---|---:|---:|---:|---:|
"""
FOOTER = """
Refused before the first step, because PyTorch computes them wrongly without a word: the schedules with late weight gradients
(interleaved-zero-bubble, zero-bubble-v, dualpipe-v) with weights that are dropped after the forward pass. A slow test
computes them all the same and fails when PyTorch is mended.

## Other engines

    groundup run recipe.toml --set train.engine=deepspeed --set machine.devices=8 --set machine.layout.zero_stage=2
    groundup run recipe.toml --set train.engine=megatron --set machine.devices=8 --set machine.layout.tensor=4

The engine is no part of what a run is, as the layout is not: a run that was stopped goes on under another engine, from the
same checkpoint (`safetensors`, whole tensors under our names; neither engine's own pickled files are written).

- DeepSpeed shards (`machine.layout.zero_stage` 1, 2 or 3) and moves the optimizer's state or everything to the CPU's memory
  (`machine.layout.cpu_offload`). It trains decoders, encoders and encoder-decoders, and one device too.
- Megatron-Core trains decoders with pre-norm blocks as its own GPT model, out of its local layers, with `tensor` and
  `replicate` or `shard` (its distributed optimizer). It wants CUDA devices.

What they do not do is refused when it is planned. Found by holding them against one process, and taken care of here: both
make master weights of weights that were rounded to bfloat16 (they begin exact here); DeepSpeed divides gradients by the
number of ranks, and in ZeRO-1 and 2 gives no moments for all parameter groups but the first; Megatron counts a rank's
part of a matrix as a copy in the gradient's norm when its parameters were not initialised by itself, and sums the gradient
of norms inside attention over tensor ranks only where `finalize_model_grads` is called.

A folder that DeepSpeed saved elsewhere, beside a Hugging Face `config.json`, opens like any model (`groundup generate`,
`export`, ...). Its pickles are read without running anything in them.

Not there yet: float8 and 8-bit optimizer state on several devices (refused by name), pipelines of an encoder-decoder or
with a tied head (refused). How ranks are started, watched and started again is in `launching.md`.
"""


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import gloo_ranks
    from equivalence import differences, run_rank
    from layout_cases import OTHER_ENGINES, QUICK, SLOW

    import conftest  # noqa: F401 - ranks find their cases through it

    engines = {"native": QUICK | SLOW, **OTHER_ENGINES}
    rows = {
        line.split(" | ")[0][2:]: line
        for line in TABLE.read_text(encoding="utf-8").splitlines()
        if line[:2] == "| "
    }
    engine, *words = sys.argv[1:] or ["native"]
    for name, (ranks, case) in engines[engine].items():
        if words and not any(word in name for word in words):
            continue
        found = differences(case, gloo_ranks.run_ranks(ranks, run_rank, case))
        numbers = " | ".join(f"{found[key]:.1e}" for key in ("loss", "norm", "gradient"))
        rows[name] = f"| {name} | {ranks} | {numbers} |"
        print(rows[name], flush=True)
    ordered = [rows[name] for cases in engines.values() for name in cases if name in rows]
    TABLE.write_text(
        HEADER.format(torch=version("torch")) + "\n".join(ordered) + "\n" + FOOTER, encoding="utf-8"
    )


if __name__ == "__main__":
    main()
