"""All GPU checks and benchmarks in one call of less than nine minutes: correctness and speed.

    python benchmarks/gpu.py --json results.json             # on a GPU
    python benchmarks/gpu.py --device cpu --small            # the same code at a tiny size, as in the tests

Each part runs in a process of its own, checks first, within the remaining time; parts that fail or time out are reported,
and the others continue. Checks compare with float64 on the CPU by ||found - expected|| / ||expected||. Peers that are not
installed are skipped.
"""

import argparse
import json
import math
import os
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path

import torch
from loss_memory import LOSSES
from loss_memory import measure as measure_loss
from model_forward_backward import SHAPES, flops, groundup, is_missing, matmul_peak
from torch import Tensor
from train_step import PEERS
from train_step import measure as measure_step

from groundup import Decoder, ModelConfig

BUDGET = 520
"""Seconds for all parts together."""
PASS_TOKENS = 32_768
"""Tokens in one forward pass of the peers, and of ours if they fit."""
LARGE: list[dict[str, object]] = [{}, {"deterministic": False}, {"deterministic": False, "precision": "float8"}]
"""Settings of the large step."""
DATASHEET = {"H100": 989e12, "H200": 989e12, "A100": 312e12}
"""Dense bfloat16 FLOP/s by the vendor, the basis of published utilizations."""


@dataclass
class Finding:
    """One line of the table. `correct` is None for measurements without a check."""

    part: str
    name: str
    value: float
    unit: str
    correct: bool | None = None


Part = Callable[[str, bool], list[Finding]]


def relative_error(found: Tensor, expected: Tensor) -> float:
    expected = expected.double().cpu()
    return float((found.double().cpu() - expected).norm() / expected.norm())


def check(part: str, name: str, found: Tensor, expected: Tensor, limit: float) -> Finding:
    difference = relative_error(found, expected)
    return Finding(part, name, difference, f"error (at most {limit:g})", difference <= limit)


def small_decoder(**knobs: object) -> Decoder:
    torch.manual_seed(0)
    shape = {"vocab_size": 512, "hidden_size": 256, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2}
    return Decoder(ModelConfig(**(shape | {"intermediate_size": 512, "context_length": 512} | knobs)))


def ceilings(device: str, small: bool) -> list[Finding]:
    """Upper limits: matrix products, and memory bandwidth."""
    source = torch.randn((2**22 if small else 2**30) // 4, device=device)
    target = torch.empty_like(source)
    seconds = quickest(lambda: target.copy_(source), device)
    return [
        Finding("ceilings", "bfloat16 matrix products", matmul_peak(device, 2) / 1e12, "TFLOP/s"),
        Finding("ceilings", "copy, read and written", 2 * source.nbytes / seconds / 1e9, "GB/s"),
    ]


def attention(device: str, small: bool) -> list[Finding]:
    """SDPA attention and its gradient against eager attention, for every mask."""
    from groundup.model.attention import eager_attention, sdpa_attention
    from groundup.model.position_encoding import build_position_encodings

    findings, length = [], 128 if small else 512
    documents = torch.arange(length).div(length // 3, rounding_mode="floor")[None].expand(2, -1)
    for name, packed, kind in (
        ("causal", False, "global"),
        ("documents", True, "global"),
        ("window", False, "local"),
        ("window in documents", True, "local"),
    ):
        config = small_decoder(attention_pattern=(kind,), sliding_window=30 if kind == "local" else None).config
        results = {}
        torch.manual_seed(1)
        inputs = [torch.randn(2, heads, length, 64) for heads in (4, 2, 2)]
        for where, dtype, implementation in (
            ("cpu", torch.float64, eager_attention),
            (device, torch.bfloat16, sdpa_attention),
        ):
            positions = torch.arange(length, device=where)
            document_ids = documents.to(where) if packed else None
            encoding = build_position_encodings(config, (kind,), causal=True)[kind].to(where)
            context = encoding(positions, document_ids, None)
            tensors = [x.to(torch.bfloat16).to(where, dtype).requires_grad_() for x in inputs]
            out = implementation(*tensors, context.mask, scale=0.125)
            out.float().square().sum().backward()
            results[implementation] = [out, *(x.grad for x in tensors)]
        pairs = zip(("output", "query", "key", "value"), results[sdpa_attention], results[eager_attention], strict=True)
        findings += [
            check("attention", f"{name}, {tensor}", found, expected, 1e-2) for tensor, found, expected in pairs
        ]
    return findings


def decoder(device: str, small: bool) -> list[Finding]:
    """A whole model in float32: logits, gradients, packed documents, and the KV cache."""
    torch.set_float32_matmul_precision("highest")
    reference, model = small_decoder(), small_decoder().to(device)
    tokens = torch.randint(512, (2, 96 if small else 384))
    documents = torch.arange(tokens.shape[1]).div(40, rounding_mode="floor")[None].expand(2, -1)
    findings = []
    for name, numbers in (("unpacked", None), ("packed", documents)):
        found = []
        for decoder, where in ((reference, "cpu"), (model, device)):
            document_ids = None if numbers is None else numbers.to(where)
            decoder.zero_grad()
            loss = decoder(tokens.to(where), labels=tokens.to(where), document_ids=document_ids).loss
            loss.backward()
            found.append(torch.cat([loss.detach()[None], *(w.grad.flatten() for w in decoder.parameters())]))
        findings.append(check("decoder", f"{name}, loss and gradients", found[1], found[0], 1e-3))
    with torch.inference_mode():
        full, cache = model(tokens.to(device)).logits, model.new_cache(2)
        chunks = [
            model(chunk.to(device), cache=cache).logits
            for chunk in tokens.split([50, 1, 1, len(tokens[0]) - 52], dim=1)[:3]
        ]
    findings.append(check("decoder", "cache", torch.cat(chunks, dim=1), full[:, :52], 1e-4))
    return findings


def loss(device: str, small: bool) -> list[Finding]:
    """Memory and time of the loss with a vocabulary of 128,000, beside implementations that store all logits."""
    sizes = (256, 4096, 64) if small else (8192, 128_000, 2048)
    figures = {
        name: run_isolated("measure_loss", name, device, *sizes)
        for name in LOSSES
        if name != "transformers" or not is_missing(name, sys.executable)
    }
    findings = []
    for name, found in figures.items():
        findings.append(Finding("loss", f"{name}, memory", found["bytes"] / 1e6, "MB"))
        findings.append(Finding("loss", f"{name}, forward and backward", found["seconds"] * 1e3, "ms"))
    for name in ("chunked", "compiled"):
        difference = abs(figures[name]["loss"] / figures["unchunked"]["loss"] - 1)
        findings.append(
            Finding("loss", f"{name} beside unchunked", difference, "error (at most 0.001)", difference < 1e-3)
        )
    return findings


def float8(device: str, small: bool) -> list[Finding]:
    """Float8 products forward and backward, if the hardware has them."""
    from groundup.artifacts.errors import UserError
    from groundup.train.mixed_precision import convert_to_float8_training, require_float8

    try:
        require_float8(torch.device(device))
    except UserError as reason:
        return [Finding("float8", str(reason), math.nan, "")]
    torch.manual_seed(0)
    size = 256 if small else 4096
    layer = torch.nn.Linear(size, size, bias=False, device=device)
    x, upward = torch.randn(2, size, size, device=device).unbind()
    results = []
    for run in ("expected", "found"):
        if run == "found":
            convert_to_float8_training(layer)
        inputs = x.clone().requires_grad_()
        out = layer(inputs)
        out.backward(upward.to(out.dtype))
        results.append((out, inputs.grad, layer.weight.grad.clone()))
        layer.zero_grad()
    findings = [
        check("float8", name, found, expected, 5e-2 if name == "product" else 0.1)
        for name, found, expected in zip(
            ("product", "gradient of x", "gradient of W"), results[1], results[0], strict=True
        )
    ]
    seconds = quickest(lambda: layer(x), device)
    return [*findings, Finding("float8", "product, scaling included", 2 * size**3 / seconds / 1e12, "TFLOP/s")]


def steps(device: str, small: bool) -> list[Finding]:
    """A compiled training step at GPT-2 size, beside the peers."""
    return race("steps", "eager" if small else "compiled", device, small)


def eager(device: str, small: bool) -> list[Finding]:
    """The same, not compiled."""
    return [] if small else race("eager", "eager", device, small)


def race(part: str, mode: str, device: str, small: bool) -> list[Finding]:
    """Ours, by default and without deterministic attention gradients, as the peers; and the peers."""
    name, batch = ("tiny", 2) if small else ("124m", 128)
    findings = step(part, "groundup", mode, device, name, batch)
    if not small:
        findings += step(part, "groundup", mode, device, name, batch, {"deterministic": False})
    for peer in PEERS:
        if peer == "nanogpt" or not is_missing(peer, sys.executable):
            findings += step(part, peer, mode, device, name, batch)
    return findings


def large(device: str, small: bool) -> list[Finding]:
    """A training step of 1.3 billion parameters with 2,048 tokens a sequence: model FLOPs utilization."""
    name, batch, mode = ("tiny", 2, "eager") if small else ("1.3b", 32, "compiled")
    findings = []
    for options in LARGE[:2] if small else LARGE:
        findings += step("large", "groundup", mode, device, name, batch, options)
    return findings


def step(
    part: str, contestant: str, mode: str, device: str, name: str, batch: int, options: dict | None = None
) -> list[Finding]:
    """Speed, memory and utilization of one contestant's step of `batch` sequences."""
    shape, label = SHAPES[name] | {"batch": batch}, f"{contestant}, {name}, {mode}"
    label += "".join(f", {knob} {value}".lower() for knob, value in (options or {}).items())
    try:
        passes = max(1, batch * shape["length"] // PASS_TOKENS)
        found = run_isolated("measure_step", contestant, shape, mode == "compiled", passes, 5, device, options)
    except RuntimeError as reason:
        return [Finding(part, f"{label}: {reason}", math.nan, "", False)]
    rows = [
        Finding(part, label, shape["batch"] * shape["length"] / found["seconds"], "tokens/s"),
        Finding(part, f"{label}, first step", found["first_step"], "s"),
        Finding(part, f"{label}, most memory", found["memory"] / 1e9, "GB"),
    ]
    if peak := stated_peak(device):
        utilization = 100 * flops(shape) / found["seconds"] / peak
        rows.append(Finding(part, f"{label}, utilization", utilization, "% of stated peak"))
    return rows


def engines(device: str, small: bool) -> list[Finding]:
    """Overhead of FSDP2 over a single rank, compared with the native engine."""
    shape = SHAPES["tiny" if small else "124m"]
    plain = run_isolated("measure_step", "groundup", shape, False, 1, 8, device)
    sharded = run_isolated("measure_sharded", device, shape)
    return [
        Finding("engines", "native engine, a step", plain["seconds"] * 1e3, "ms"),
        Finding("engines", "FSDP2 over one rank adds", 100 * (sharded["seconds"] / plain["seconds"] - 1), "%"),
    ]


def measure_sharded(device: str, shape: dict[str, int]) -> dict[str, float]:
    """The best step of a model sharded with FSDP2 over a single rank, in this process."""
    import torch.distributed as dist

    from groundup.artifacts.machine import Machine
    from groundup.recipe.layout_config import LayoutConfig
    from groundup.train import NEXT_TOKEN
    from groundup.train.device import deterministic_algorithms, setup_device
    from groundup.train.engines.parallel_engine import ParallelEngine

    with tempfile.NamedTemporaryFile() as store:
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, init_method=f"file://{store.name}", rank=0, world_size=1)
        try:
            machine = Machine(device=device)
            model = groundup(shape)[0].to(setup_device(machine))
            engine = ParallelEngine(model, NEXT_TOKEN, training(), machine, LayoutConfig(shard=1))
            tokens = torch.randint(shape["vocab"], (shape["batch"], shape["length"]))

            def one() -> None:
                with deterministic_algorithms(engine.device, True):
                    engine.forward_backward({"tokens": tokens, "labels": tokens})
                engine.optimizer_step(1.0)

            return {"seconds": quickest(one, device)}
        finally:
            dist.destroy_process_group()


def training(**knobs: object):
    """A complete TrainConfig."""
    from groundup.recipe.train_config import TrainConfig

    return TrainConfig(**({"steps": 8, "learning_rate": 1e-3, "warmup_steps": 2, "evaluate_every": 8} | knobs))


def repeats(device: str, small: bool) -> list[Finding]:
    """Reproducibility: the same training twice, and killed and resumed, is bit-identical; compiled it is close."""
    straight = trained_weights(device, small)
    killed = trained_weights(device, small, killed=True)
    findings = [
        check("repeats", "again", trained_weights(device, small), straight, 0.0),
        check("repeats", "killed after step 4, resumed", killed, straight, 0.0),
    ]
    if not small:
        exact = trained_weights(device, small, precision="float32")
        quick = trained_weights(device, small, precision="float32", compile="always")
        findings.append(check("repeats", "compiled, in float32", quick, exact, 1e-3))
        quick = [trained_weights(device, small, compile="always", killed=killed) for killed in (False, True)]
        findings.append(check("repeats", "compiled, killed, resumed", *quick, 0.0))
    return findings


def trained_weights(device: str, small: bool, killed: bool = False, compile: str = "never", **knobs: object) -> Tensor:
    """All weights of a small decoder after eight steps; a killed run loses the steps after the fourth."""
    from groundup.artifacts.machine import Machine
    from groundup.train import NEXT_TOKEN, NativeEngine, run_training_loop
    from groundup.train.device import setup_device

    # On a GPU the gradient of attention at this size differs from call to call, where it may.
    length, rows = (64, 16) if small else (1024, 64)
    shape = {} if small else {"hidden_size": 768, "num_heads": 12, "num_kv_heads": 12}

    class Batches:
        def __init__(self, ends: float):
            self.ends = ends

        def batch(self, step: int) -> dict[str, Tensor]:
            if step == self.ends:
                raise KeyboardInterrupt
            drawn = torch.randint(512, (rows, length), generator=torch.Generator().manual_seed(step))
            return {"tokens": drawn, "labels": drawn}

    machine = Machine(device=device, compile=compile, micro_batch_size=rows // 2, checkpoint_every_seconds=0)
    with tempfile.TemporaryDirectory() as folder:
        for ends in [4, math.inf] if killed else [math.inf]:
            model = small_decoder(context_length=length, **shape).to(setup_device(machine))
            engine = NativeEngine(model, NEXT_TOKEN, training(**knobs), machine)
            try:
                run_training_loop(engine, Batches(ends), engine.settings, Path(folder), machine)
            except KeyboardInterrupt:
                continue
    return torch.cat([weight.detach().flatten() for weight in model.parameters()])


def generation(device: str, small: bool) -> list[Finding]:
    """Greedy tokens/s at GPT-2 size in bfloat16, for one sequence and for 32."""
    from groundup.generate.generation import next_token_logits

    shape = SHAPES["tiny" if small else "124m"]
    model, _ = groundup(shape)
    model.to(device, torch.bfloat16).eval()
    findings = []
    for rows in (1, 32):
        cache, new = model.new_cache(rows), [[1] * 16] * rows
        next_token_logits(model, new, cache)
        began, count = time.perf_counter(), 8 if small else 128
        for _ in range(count):
            new = next_token_logits(model, new, cache).argmax(-1, keepdim=True).tolist()
        seconds = time.perf_counter() - began
        findings.append(Finding("generation", f"{rows} at a time", rows * count / seconds, "tokens/s"))
    return findings


def packed(device: str, small: bool) -> list[Finding]:
    """Layers in 4 bits: the kernel against the dequantized weight, and its time beside bfloat16 for 1, 16 and 512 rows."""
    from groundup.quantize import QuantizationScheme
    from groundup.quantize.kernels.kernel_choice import use_kernels
    from groundup.quantize.layers.packed_layers import make_layer
    from groundup.quantize.quantization_grid import round_to_nearest

    width = 256 if small else 4096
    plain = torch.nn.Linear(width, width, bias=False, device=device, dtype=torch.bfloat16).requires_grad_(False)
    layer = make_layer(round_to_nearest(plain.weight.float(), QuantizationScheme(4, 128)))
    weight = layer.dequantize()
    fast, findings = use_kernels(torch.nn.Sequential(layer)), []
    for rows in (1, 16, 512):
        x = torch.randn(rows, width, device=device, dtype=torch.bfloat16)
        with torch.inference_mode():
            findings.append(check("packed", f"4 bits, {rows} rows", fast(x), x.double() @ weight.double().T, 0.01))
            times = [quickest(partial(layer, x), device) for layer in (plain, fast)]
        findings.append(
            Finding(
                "packed", f"4 bits, {rows} rows: {type(fast[0]).__name__}", times[0] / times[1], "of bfloat16's speed"
            )
        )  # type: ignore[index]
    return findings


PARTS: dict[str, Part] = {
    part.__name__: part
    for part in (ceilings, attention, decoder, repeats, loss, float8, large, steps, engines, generation, packed, eager)
}


def quickest(run: Callable[[], object], device: str, times: int = 8) -> float:
    """Seconds of the fastest of several runs, after two warm-up runs."""
    seconds = []
    for _ in range(times + 2):
        began = time.perf_counter()
        run()
        if device == "cuda":
            torch.cuda.synchronize()
        seconds.append(time.perf_counter() - began)
    return min(seconds[2:])


def stated_peak(device: str) -> float | None:
    """The vendor's bfloat16 FLOP/s of this device; None if it is not in DATASHEET."""
    name = torch.cuda.get_device_name() if device == "cuda" else device
    return next((peak for kind, peak in DATASHEET.items() if kind in name), None)


def run_isolated(function: str, *arguments: object) -> dict[str, float]:
    """The result of a measurement function of this file, in a process of its own."""
    command = [sys.executable, __file__, "--isolated", json.dumps([function, *arguments])]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError((done.stderr.strip().splitlines() or ["killed"])[-1])
    return json.loads(done.stdout.splitlines()[-1])


MEASUREMENTS = {"measure_loss": measure_loss, "measure_step": measure_step, "measure_sharded": measure_sharded}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--small", action="store_true", help="tiny sizes: seconds, and figures that say nothing")
    parser.add_argument("--parts", nargs="+", choices=list(PARTS), default=list(PARTS))
    parser.add_argument("--seconds", type=float, default=BUDGET, help="for all parts together")
    parser.add_argument("--json", type=Path, help="file for the figures")
    parser.add_argument("--isolated", help=argparse.SUPPRESS)
    parser.add_argument("--part", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.isolated:
        function, *arguments = json.loads(options.isolated)
        print(json.dumps(MEASUREMENTS[function](*arguments)))
        return
    if options.part:
        findings = PARTS[options.part](options.device, options.small)
        print(json.dumps([asdict(finding) for finding in findings]))
        return
    if options.device == "cuda" and not torch.cuda.is_available():
        sys.exit("no GPU here (torch.cuda.is_available() is false): --device cpu --small runs the same code, tiny")

    began, findings = time.monotonic(), []
    print(title(options.device))
    for part in options.parts:
        found = run_part(part, options, options.seconds - (time.monotonic() - began))
        findings += found
        for finding in found:
            status = {None: "", True: "ok", False: "WRONG"}[finding.correct]
            value = "" if math.isnan(finding.value) else f"{finding.value:,.6g}"
            line = f"{finding.part:10} {finding.name:58} {value:>12} {finding.unit:24} {status}"
            print(line.rstrip(), flush=True)
    wrong = sum(finding.correct is False for finding in findings)
    print(f"{wrong or 'nothing'} wrong, {time.monotonic() - began:.0f} s")
    if options.json:
        figures = {"title": title(options.device), "findings": [asdict(finding) for finding in findings]}
        options.json.write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    sys.exit(wrong > 0)


def run_part(part: str, options: argparse.Namespace, seconds: float) -> list[Finding]:
    """The findings of one part, from a process of its own; a failure is a finding too."""
    command = [sys.executable, __file__, "--part", part, "--device", options.device, *["--small"] * options.small]
    print(f"{part} ...", file=sys.stderr, flush=True)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    ) as run:
        try:
            out, errors = run.communicate(timeout=max(1.0, seconds))
        except subprocess.TimeoutExpired:
            os.killpg(run.pid, signal.SIGKILL)
            return [Finding(part, f"not finished in the {max(0, seconds):.0f} s that were left", math.nan, "")]
    if run.returncode:
        return [Finding(part, (errors.strip().splitlines() or ["killed"])[-1], math.nan, "", False)]
    return [Finding(**finding) for finding in json.loads(out.splitlines()[-1])]


def title(device: str) -> str:
    name = torch.cuda.get_device_name() if device == "cuda" else f"{len(os.sched_getaffinity(0))} CPU cores"
    return f"{name}, torch {torch.__version__}, Python {sys.version.split()[0]}"


if __name__ == "__main__":
    main()
