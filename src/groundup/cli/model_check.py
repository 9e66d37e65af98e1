"""Opening of models for commands, and what is said about it."""

import sys
from pathlib import Path
from typing import Any

from groundup.artifacts.errors import UserError


def check_writes_text(path: Path) -> None:
    """Raises UserError for a reward model; says it if a run has a later model that is unfinished."""
    from groundup.interop.model_loading import MODEL_FOLDERS, resolve_model_path  # torch, which --help needs not
    from groundup.interop.reward_files import is_reward_model

    if not path.is_dir():
        return
    folder = resolve_model_path(path)
    if is_reward_model(folder):
        raise UserError(
            f"{folder}: a reward model, which scores answers and writes none",
            hint=f"groundup classify {path} ANSWER --query PROMPT prints the reward",
        )
    for name in MODEL_FOLDERS if folder.parent == path else ():
        if name == folder.name:
            return
        if (path / f"{name}.partial").exists():
            print(f"note: {name} is unfinished; this is the model of {folder.name}", file=sys.stderr)
            return


def open_for_text(
    path: Path,
    device: str,
    dtype: str,
    verify: bool,
    adapter: Path | None = None,
    *,
    kv_bits: int | None = None,
    deterministic: bool = False,
) -> tuple[Any, Any]:
    """Model and tokenizer; `dtype` as in `open_model`, `kv_bits` as in `use_kv_bits`, `deterministic`: `make_deterministic`.

    Raises UserError for a reward model.
    """
    from groundup.generate import make_deterministic, use_kv_bits
    from groundup.quantize import open_model

    check_writes_text(path)
    model, tokenizer = open_model(path, device=device, dtype=dtype, adapter=adapter, verify=verify)
    model = use_kv_bits(model, kv_bits)
    if deterministic:
        make_deterministic(model)
    return model, tokenizer


def open_for_writing(
    path: Path,
    device: str,
    dtype: str,
    verify: bool,
    adapter: Path | None = None,
    *,
    kv_bits: int | None = None,
    deterministic: bool = False,
) -> tuple[Any, Any]:
    """`open_for_text` of a model that writes. Raises UserError for an encoder and for a classifier."""
    from groundup.generate.generation import require_generative
    from groundup.interop.classifier_files import read_classifier
    from groundup.interop.model_loading import as_trained, resolve_model_path

    model, tokenizer = open_for_text(path, device, dtype, verify, adapter, kv_bits=kv_bits, deterministic=deterministic)
    folder = resolve_model_path(path)
    if folder.is_dir() and (head := read_classifier(folder)) is not None:
        labels = ", ".join(head.settings.labels[:5])
        raise UserError(f"{path}: a classifier ({labels}), which writes no text", hint=f"groundup classify {path} TEXT")
    require_generative(model)
    return model, tokenizer if adapter else as_trained(folder, tokenizer)


def open_proposer(
    network: Any,
    tokenizer: Any,
    draft: Path | None,
    prompt_lookup: bool,
    opened: tuple[str, str, bool],
    *,
    max_batch: int = 8,
    cache_memory: int | None = None,
) -> Any:
    """What proposes tokens to a model (speculative decoding): a draft, opened on a device with a dtype, or prompt lookup.

    cache_memory: bytes for the keys and values of the draft.

    None: nothing does. Raises UserError for both, and for a draft that cannot.
    """
    from groundup.generate import DraftModel, PromptLookup, check_draft
    from groundup.generate.speculative_decoding import check_can_speculate

    if draft is None:
        if not prompt_lookup:
            return None
        check_can_speculate(network)
        return PromptLookup()
    if prompt_lookup:
        raise UserError("both --draft and --prompt-lookup", hint="give one of them")
    smaller, of_draft = open_for_writing(draft, *opened)
    check_draft(network, tokenizer, smaller, of_draft)
    return DraftModel(smaller, network.config.vocab_size, max_batch=max_batch, cache_memory=cache_memory)


def note_truncated(num_truncated: int, total: int, network: Any) -> None:
    """Say on standard error that texts are longer than the context of the model."""
    if num_truncated:
        length = network.config.context_length
        print(
            f"note: of {num_truncated} of {total} texts, only the first {length} tokens (the context) are read",
            file=sys.stderr,
        )
