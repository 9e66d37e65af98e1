"""Compare every layout and engine with one process and write the table book/parallel.md.

    python tests/parallel/equivalence_table.py [native|deepspeed|megatron [WORD...]]

Runs the rows with a WORD in their name, or all, in an environment where the engine is installed; other rows stay as they
are. All of native takes a quarter of an hour.
"""

import sys
from importlib.metadata import version
from pathlib import Path

TABLE = Path(__file__).parents[2] / "book" / "parallel.md"
HEADER = """# Equivalence of parallel layouts

Five training steps of a toy model in each layout, compared with the same steps in one process: the largest relative difference
of a loss, of a gradient norm, and of any parameter's gradient in the first step (norm of the error over norm of the gradient).
Ranks are gloo processes on one machine; torch {torch}, float32 unless stated. Not tested on GPUs or with NCCL. Written by
`python tests/parallel/equivalence_table.py`. The bounds of `tests/parallel/test_equivalence.py` are 1e-6, 1e-5 and 2e-5, and
larger ones for bfloat16 and for Muon, whose products are in bfloat16.

The last rows are other engines with the same recipe, batches and training loop: DeepSpeed 0.19.8, and Megatron-Core 0.16.1,
whose CUDA calls are replaced by the CPU (`tests/parallel/megatron_shim.py`). `tests/parallel/test_other_engines.py` has the
same bounds; `make test-engines` makes both environments and runs it.

| layout | ranks | loss | norm | gradient |
|---|---:|---:|---:|---:|
"""
FOOTER = """
Rejected before the first step, because PyTorch computes them wrongly without an error: the schedules with delayed weight
gradients (interleaved-zero-bubble, zero-bubble-v, dualpipe-v) with weights that are resharded after the forward pass. A slow
test runs them and fails when PyTorch is fixed.

## Other engines

    groundup run recipe.toml --set train.engine=deepspeed --set machine.devices=8 --set machine.layout.zero_stage=2
    groundup run recipe.toml --set train.engine=megatron --set machine.devices=8 --set machine.layout.tensor=4

Like the layout, the engine is not part of the fingerprint: an interrupted run can continue in another engine, from the same
checkpoint (`safetensors`, full tensors under this project's names; no pickled files of the engines are written).

- DeepSpeed shards (`machine.layout.zero_stage` 1, 2 or 3) and offloads the optimizer state or everything to the CPU
  (`machine.layout.cpu_offload`). It trains decoders, encoders and encoder-decoders, also on one device. Experts are plain
  parameters, balanced over all ranks.
- Megatron-Core trains decoders with pre-norm blocks as its own GPT model, from its local layers, with `tensor`, `pipeline`
  (its 1F1B schedule), `expert` (its all-to-all dispatcher) and `replicate` or `shard` (its distributed optimizer). It needs CUDA
  devices.

| | DeepSpeed | Megatron-Core |
|---|---|---|
| replicate | no: ZeRO has the shard axis only | yes |
| shard | ZeRO-1, 2, 3 | distributed optimizer |
| tensor | no | yes, without experts: its experts need its sequence parallelism, which is not set up |
| pipeline | no | 1F1B; the number of layers is divided evenly; not with tied embeddings |
| context | no | no: only attention of TransformerEngine, a CUDA package, has it; the local one asserts one rank |
| expert | no; experts themselves yes, with all three kinds of load balancing | yes; load balancing none or auxiliary_loss |
| resume | exact, also in and from PyTorch's layouts | the same |

Unsupported settings are rejected by `groundup plan`. Problems that the comparison found, and that are handled here: both engines
make master weights from weights rounded to bfloat16 (here they start exact); DeepSpeed divides gradients by the number of
ranks, and ZeRO-1 and 2 have no moments for parameter groups after the first; Megatron counts tensor-parallel chunks as copies in
the gradient norm unless it has initialised the parameters itself, and sums the gradients of norms inside attention over tensor
ranks only in `finalize_model_grads`.

Checkpoints that DeepSpeed has written elsewhere, beside a Hugging Face `config.json`, open like any model (`groundup generate`,
`export`, ...). Their pickles are read without executing code.

Not supported on several devices (rejected): float8, 8-bit optimizer state, pipelines of encoder-decoders or with tied
embeddings. Launching, restarts and stall detection: `launching.md`.
"""


def main() -> None:
    sys.path.insert(0, str(Path(__file__).parent))
    import gloo_ranks
    from equivalence import differences, run_rank
    from layout_cases import OTHER_ENGINES, QUICK, SLOW

    import conftest  # noqa: F401 - ranks find their cases through it

    engines = {"native": QUICK | SLOW, **OTHER_ENGINES}
    rows = {
        line.split(" | ")[0][2:]: line for line in TABLE.read_text(encoding="utf-8").splitlines() if line[:2] == "| "
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
    TABLE.write_text(HEADER.format(torch=version("torch")) + "\n".join(ordered) + "\n" + FOOTER, encoding="utf-8")


if __name__ == "__main__":
    main()
