"""How many pages a paged cache has: a budget in bytes, or what the machine can spare."""

import torch

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import free_system_memory
from groundup.generate.paged_kv_cache import PAGE_SIZE, PagedKVCache, page_bytes
from groundup.model import Decoder, EncoderDecoder, StaticKVCache

SPARED = 2
"""Without a budget, the cache takes at most one part in so many of the free memory."""


def new_paged_cache(model: Decoder | EncoderDecoder, max_batch: int, memory: int | None = None) -> PagedKVCache:
    """An empty cache for up to `max_batch` sequences.

    memory: bytes that pages may occupy, those kept for later texts included; None: what `max_batch` texts of full length
        need, or half of the free memory if that is less, of which pages for one text of full length stay behind.

    Raises UserError for less than one page, and for more memory than the system gives.
    """
    weight = next(model.parameters())
    form = model.cache_type if isinstance(model, Decoder) else StaticKVCache
    size = page_bytes(model.config, form, weight.dtype)
    longest = -(-model.config.cached_context_length // PAGE_SIZE)
    num_pages, max_idle = max_batch * longest, longest
    if memory is not None and size:
        num_pages = max_idle = memory // size
    elif size and (free := _free_memory(weight.device)) is not None:
        num_pages = min(num_pages, max(free // SPARED // size, 1))
    if num_pages < 1:
        raise UserError(
            f"kv_cache_memory = {memory} bytes, expected at least {size}: a page of {PAGE_SIZE} tokens",
            hint=f"a text of the full context needs {longest * size / 1e6:,.0f} MB",
        )
    try:
        return PagedKVCache(model.config, form, num_pages, weight.dtype, weight.device, max_idle=max_idle)
    except (OSError, OverflowError):  # more addresses than the system gives
        raise UserError(
            f"kv_cache_memory = {num_pages * size} bytes, expected at most what the machine has", hint="a smaller one"
        ) from None


def _free_memory(device: torch.device) -> int | None:
    if device.type == "cuda":
        return torch.cuda.mem_get_info(device)[0]
    return free_system_memory() if device.type == "cpu" else None
