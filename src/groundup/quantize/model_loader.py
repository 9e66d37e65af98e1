"""Open models at a path, quantized ones in any supported format included."""

from pathlib import Path

import torch
from torch import nn

from groundup import interop
from groundup.artifacts.freed_memory import release_freed_memory
from groundup.artifacts.run_record import check_artifact
from groundup.interop.adapters import adapter_tokenizer, add_adapter, split_adapter
from groundup.interop.model_loading import QUANTIZATION_FILE, is_quantized
from groundup.model.serialization import resolve_dtype
from groundup.model.token_weights import load_token_weights
from groundup.quantize.formats.huggingface_folder import load_huggingface_quantized
from groundup.quantize.kernels.kernel_choice import fast_dtype, inference_dtype, use_kernels
from groundup.quantize.quantized_folder import load_quantized_folder
from groundup.tokenizer import Tokenizer, load_pretrained_tokenizer


def open_model(
    path: Path | str,
    device: str = "auto",
    *,
    dtype: torch.dtype | str | None = None,
    adapter: Path | str | None = None,
    verify: bool = True,
) -> tuple[nn.Module, Tokenizer]:
    """The model and tokenizer at `path`, in evaluation mode.

        model, tokenizer = open_model("runs/quickstart/09-quantized")

    `path` is a quantized folder of a run, a Hugging Face folder with GPTQ, AWQ or compressed-tensors weights, a .gguf file
    (whose packed layers stay packed if there is no adapter), or anything else that `groundup.interop.open_model` opens.
    `dtype`: of what is not quantized: "float32", "bfloat16" or "float16"; "auto": that of the files where the device is fast
    at it, else float32; None: that of the files, or of a quantized model what is fast.
    `adapter`: a PEFT folder, a run or a stage, whose adapter is merged into the weights, or works beside packed ones.
    `verify`: compare the files of a run's stage with their SHA-256, and the base of an adapter with its fingerprint, first.
    Raises UserError for other contents and for damaged files.
    """
    path, adapter = split_adapter(path, adapter)
    path = interop.resolve_model_path(path)
    if not is_quantized(path) and (adapter is not None or not _is_packed_gguf(path)):
        model, tokenizer = interop.open_model(
            path, device, None if dtype == "auto" else dtype, adapter=adapter, verify=verify
        )
        model = model.to(fast_dtype(model)) if dtype == "auto" else model
        release_freed_memory()  # of reading the tokenizer, for one
        return model, tokenizer
    if verify:
        check_artifact(path)
    target = interop.resolve_device(device)
    computed = inference_dtype(target) if dtype in (None, "auto") else resolve_dtype(dtype)
    if computed is None and dtype == "auto" and target.type == "cpu":
        computed = torch.float32
    model, tokenizer = load_quantized_model(path, target, computed)
    if adapter is not None:
        add_adapter(model, adapter, verify=verify)
        tokenizer = adapter_tokenizer(adapter, tokenizer)
    return use_kernels(model.to(dtype=computed)), tokenizer


def load_quantized_model(
    path: Path, device: torch.device | str = "cpu", dtype: torch.dtype | None = None
) -> tuple[nn.Module, Tokenizer]:
    """A quantized model with its exact layers (not the int4 kernel), and its tokenizer; `dtype` as in `load_packed_gguf`."""
    if path.suffix == ".gguf":
        from groundup.quantize.formats.gguf_layers import load_packed_gguf  # optional dependency

        return load_packed_gguf(path, device, dtype)
    load = load_quantized_folder if (path / QUANTIZATION_FILE).is_file() else load_huggingface_quantized
    model = load(path, device)
    load_token_weights(model, path)
    return model, load_pretrained_tokenizer(path)


def _is_packed_gguf(path: Path) -> bool:
    if path.suffix != ".gguf":
        return False
    import groundup.interop.gguf  # noqa: F401  (names the package that is missing)
    from groundup.quantize.formats.gguf_layers import has_packed_layers

    return has_packed_layers(path)
