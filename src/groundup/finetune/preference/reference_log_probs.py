"""Log-probabilities of responses under the reference, computed once before the training, and kept for a resumed run.

The reference is the model before the training: no second copy of it is ever in memory.
"""

import hashlib
from collections.abc import Sequence
from pathlib import Path

import torch
import torch.distributed as dist
from jaxtyping import Float
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from groundup.artifacts.machine import Machine
from groundup.finetune.preference.preference_batches import EncodedResponse, pad_responses
from groundup.finetune.response_log_probs import masked_log_probs
from groundup.generate.text_embedding import batches_by_length
from groundup.model.moe import pop_aux_loss
from groundup.model.serialization import save_tensors
from groundup.train.micro_batch import DEFAULT_TOKENS
from groundup.train.mixed_precision import autocast

REFERENCE_FILE = "reference-{}.safetensors"


def reference_log_probs(
    model: nn.Module,
    responses: Sequence[EncodedResponse],
    precision: str,
    machine: Machine,
    folder: Path | None,
    name: str,
) -> Float[Tensor, " N"]:
    """The log-probability of each response under `model`, a sum over its tokens; read from `folder` if it is there already.

    In a process group each rank computes a part of them, and the main one writes.

    name: of the set of responses, for its file and the progress.
    """
    key = _content_key(responses, precision)
    path = None if folder is None else folder / REFERENCE_FILE.format(name)
    found = None if path is None else _read(path, key)
    rank, ranks = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    if ranks > 1:
        missing = torch.tensor(float(found is None))
        dist.all_reduce(missing)
        found = None if missing else found
    if found is not None:
        return found
    sums = response_log_prob_sums(model, responses, precision, machine, f"reference, {name}", (rank, ranks))
    if ranks > 1:
        dist.all_reduce(sums)
    if path is not None and rank == 0:
        path.parent.mkdir(parents=True, exist_ok=True)
        partial = path.with_suffix(".partial")
        save_tensors({"log_probs": sums}, partial, metadata={"content": key})
        partial.rename(path)
    return sums


@torch.no_grad()
def response_log_prob_sums(
    model: nn.Module,
    responses: Sequence[EncodedResponse],
    precision: str,
    machine: Machine,
    name: str,
    part: tuple[int, int] = (0, 1),
) -> Float[Tensor, " N"]:
    """The log-probability of each response under `model`, a sum over its tokens, in float32 on the CPU.

    part: (rank, ranks), to compute those of one of several ranks; the others are 0.
    """
    device = next(model.parameters()).device
    sums = torch.zeros(len(responses))
    model.eval()
    with machine.progress.task(name, total=len(responses), unit="responses") as task:
        batches = batches_by_length([response.ids for response in responses], DEFAULT_TOKENS[device.type])
        for rows in list(batches)[part[0] :: part[1]]:
            tokens, mask = (part.to(device) for part in pad_responses([responses[row] for row in rows], 0))
            with autocast(device, precision):
                sums[rows] = masked_log_probs(model, tokens, mask).sum(dim=1).cpu()
            pop_aux_loss(model)
            task.advance(len(rows))
    return sums


def _read(path: Path, key: str) -> Float[Tensor, " N"] | None:
    """The stored values, if they are of the same responses."""
    try:
        with safe_open(path, framework="pt") as file:
            return file.get_tensor("log_probs") if (file.metadata() or {}).get("content") == key else None
    except (OSError, SafetensorError):
        return None


def _content_key(responses: Sequence[EncodedResponse], precision: str) -> str:
    digest = hashlib.sha256(precision.encode())
    for response in responses:
        digest.update(repr(response).encode())
    return digest.hexdigest()
