"""Rounding of a matrix to a block type: the scales, minimums and codes with the least weighted squared error.

For fixed codes the error is a quadratic function of a group's scale and minimum, so each step has a closed form:

    1. several grids a group, from slightly too wide to too narrow: round, fit scale and minimum to the codes, keep the best
    2. scales and minimums of a block's groups as integers times the block's two float16 numbers, chosen in the same way
    3. codes on that grid; then integers, block numbers and codes in turn, as long as the error falls

The weight of an error is the importance of its column, the mean square of that input of the layer (the diagonal of GPTQ's
Hessian), times a growing function of the value.

Sources: the search over grids and the weights are those of ggml's k-quants (ggml-org/llama.cpp pull requests 1684 and 4861); the
alternation in step 3 is Lloyd's (1982).
"""

from concurrent.futures import ThreadPoolExecutor

import torch
from jaxtyping import Float, UInt8
from torch import Tensor

from groundup.interop.gguf.types.gguf_blocks import Blocks, BlockType

CHUNK_VALUES = 1 << 15
"""Values rounded at a time on a thread: a chunk and what is computed from it stay in the caches of a core."""

WIDENED = torch.linspace(-0.9, 1.1, 17).tolist()
"""By how many steps the grids of a group are wider than its range."""
COARSE = 16
"""Codes up to which each of them counts: a grid that begins with the lowest code at the other end is tried too."""
ROUNDS = 3
"""Of step 3."""
TINY = 1e-30


def quantize_rows(
    rows: Float[Tensor, "rows values"], kind: BlockType, importance: Float[Tensor, "1 values"] | None = None
) -> UInt8[Tensor, "rows bytes"]:
    """Packed blocks of float rows, which must be multiples of the block long.

    `importance`: of each column, at least 0; None: all alike.
    """
    width = rows.shape[1]
    packed = torch.empty(len(rows), width // kind.block * kind.block_bytes, dtype=torch.uint8)
    step = max(1, CHUNK_VALUES // width)

    def quantize(begin: int) -> None:
        x = rows[begin : begin + step].float()
        weights = None if importance is None else importance.expand_as(x)
        packed[begin : begin + step] = _quantize(x, kind, weights).view(len(x), -1)

    with ThreadPoolExecutor(torch.get_num_threads()) as pool:
        list(pool.map(quantize, range(0, len(rows), step)))
    return packed


def _quantize(x: Tensor, kind: BlockType, importance: Tensor | None) -> UInt8[Tensor, "blocks bytes"]:
    blocks = x.reshape(-1, kind.block // kind.group, kind.group)
    if kind.codes == (-127, 127):  # eight bits: the range decides
        d = (blocks.abs().amax(2) / 127)[:, 0]
        inverse = torch.where(d > 0, 1 / d.clamp(min=TINY), 0.0)
        return kind.pack(Blocks((blocks[:, 0] * inverse[:, None]).round().to(torch.int8), d.half()))
    weights = _weights(x, importance).view_as(blocks)
    fit = _fit_with_minimum if kind.has_minimum else _fit_symmetric
    scale, minimum = fit(blocks, weights, *kind.codes, free=kind.scales is None)
    if kind.scales is None:
        return kind.pack(_one_group(blocks, weights, kind, scale, minimum))
    return kind.pack(_grouped(blocks, weights, kind, scale, minimum))


def _weights(x: Tensor, importance: Tensor | None) -> Tensor:
    if importance is None:
        return x.square().mean(1, keepdim=True).sqrt() + x.abs()
    return importance.clamp(min=0) * (x.square().mean(1, keepdim=True) + x.square()).sqrt() + TINY


def _codes(x: Tensor, scale: Tensor, minimum: Tensor | None, lowest: int, highest: int) -> Tensor:
    inverse = torch.where(scale == 0, 0.0, 1 / torch.where(scale == 0, 1.0, scale))[..., None]
    shifted = x if minimum is None else x + minimum[..., None]
    return (shifted * inverse).round_().clamp_(lowest, highest)


def _fit_with_minimum(x: Tensor, w: Tensor, lowest: int, highest: int, free: bool) -> tuple[Tensor, Tensor | None]:
    """Scale and minimum of each group, x ~ scale * code - minimum; the minimum is at least 0 unless it is `free`."""
    low, high = x.amin(-1), x.amax(-1)
    if not free:
        low = low.clamp(max=0)
    span = (high - low).clamp(min=TINY)
    sum_w, sum_x, wx = w.sum(-1), (w * x).sum(-1), w * x
    scale, minimum, best = span / highest, -low, torch.full_like(low, torch.inf)
    for widened in WIDENED:
        codes = ((x - low[..., None]) * ((highest + widened) / span)[..., None]).round_().clamp_(lowest, highest)
        sums = _Sums(codes, w, wx, sum_w, sum_x)
        s, m = sums.fit(free)
        error = sums.error(s, m)
        better = (error < best) & (s > 0)
        scale, minimum = torch.where(better, s, scale), torch.where(better, m, minimum)
        best = torch.where(better, error, best)
    return torch.where(high > low, scale, 0.0), minimum


def _fit_symmetric(x: Tensor, w: Tensor, lowest: int, highest: int, free: bool) -> tuple[Tensor, Tensor | None]:
    """The scale of each group, x ~ scale * code; negative where the lowest code stands for the largest value."""
    largest = x.abs().amax(-1)
    inverse = torch.where(largest > 0, 1 / largest.clamp(min=TINY), 0.0)
    scale, best = torch.zeros_like(largest), torch.full_like(largest, -1.0)
    wx = w * x
    coarse = highest - lowest < COARSE
    for sign in (1, -1) if coarse else (1,):
        for widened in WIDENED if coarse else WIDENED[::2]:
            codes = (x * (sign * (-lowest + widened) * inverse)[..., None]).round_().clamp_(lowest, highest)
            product, square = (codes * wx).sum(-1), (codes.square() * w).sum(-1)
            gain = product.square() / square.clamp(min=TINY)
            better = gain > best
            scale = torch.where(better, product / square.clamp(min=TINY), scale)
            best = torch.where(better, gain, best)
    return scale, None


class _Sums:
    """Sums over a group that give the error of any scale and minimum, for fixed codes q: of w q^2, w q, w q x, w, w x."""

    def __init__(self, codes: Tensor, w: Tensor, wx: Tensor, sum_w: Tensor, sum_x: Tensor):
        wq = codes * w
        self.qq, self.q = (wq * codes).sum(-1), wq.sum(-1)
        self.qx, self.w, self.x = (codes * wx).sum(-1), sum_w, sum_x

    def fit(self, free: bool) -> tuple[Tensor, Tensor]:
        determinant = self.w * self.qq - self.q.square()
        solvable = determinant > 1e-6 * self.w * self.qq
        divisor = torch.where(solvable, determinant, 1.0)
        scale = torch.where(solvable, (self.w * self.qx - self.x * self.q) / divisor, 0.0)
        minimum = torch.where(solvable, (self.q * self.qx - self.qq * self.x) / divisor, 0.0)
        if not free:
            alone = self.qx / self.qq.clamp(min=TINY)
            scale, minimum = torch.where(minimum < 0, alone, scale), minimum.clamp(min=0)
        return scale, minimum

    def error(self, scale: Tensor, minimum: Tensor | None) -> Tensor:
        """Without the sum of w x^2, which is the same for all codes."""
        error = scale * (scale * self.qq - 2 * self.qx)
        if minimum is not None:
            error += minimum * (minimum * self.w + 2 * self.x - 2 * scale * self.q)
        return error


def _one_group(x: Tensor, w: Tensor, kind: BlockType, scale: Tensor, minimum: Tensor | None) -> Blocks:
    """Blocks with one float16 scale (and minimum), refitted to their codes."""
    wx, sum_w = w * x, w.sum(-1)
    sum_x, best = wx.sum(-1), None
    for _ in range(ROUNDS):
        scale, minimum = scale.half().float(), None if minimum is None else minimum.half().float()
        codes = _codes(x, scale, minimum, *kind.codes)
        sums = _Sums(codes, w, wx, sum_w, sum_x)
        found = (sums.error(scale, minimum), scale, minimum, codes)
        best = found if best is None else _better(best, found)
        if minimum is None:
            scale = sums.qx / sums.qq.clamp(min=TINY)
        else:
            scale, minimum = sums.fit(free=True)
    assert best is not None
    _, scale, minimum, codes = best
    return Blocks(codes[:, 0].to(torch.int8), scale[:, 0].half(), None if minimum is None else minimum[:, 0].half())


def _better(a: tuple, b: tuple) -> tuple:
    """By block, what has the smaller error, the first of each tuple (blocks 1)."""
    chosen = b[0] < a[0]
    return tuple(
        None if x is None else torch.where(chosen.view(-1, *(1,) * (x.dim() - 1)), y, x)
        for x, y in zip(a, b, strict=True)
    )


def _integers(values: Tensor, w: Tensor, lowest: int, highest: int) -> tuple[Tensor, Tensor]:
    """float16 (blocks 1) and integers (blocks groups) whose product is near `values`, each error weighted by w."""
    scale, _ = _fit_symmetric(values, w, lowest or -highest, highest, free=False)
    if lowest == 0:
        scale = scale.abs()
    scale = scale.half().float()[:, None]
    return scale, _codes(values[:, None], scale, None, lowest, highest)[:, 0]


def _grouped(x: Tensor, w: Tensor, kind: BlockType, scale: Tensor, minimum: Tensor | None) -> Blocks:
    assert kind.scales is not None
    wx, sum_w = w * x, w.sum(-1)
    sum_x = wx.sum(-1)
    sums = _Sums(_codes(x, scale, minimum, *kind.codes), w, wx, sum_w, sum_x)
    d, scales = _integers(scale, sums.qq + TINY, *kind.scales)
    m, minimums = (None, None) if minimum is None else _integers(minimum, sum_w, *kind.scales)
    best = None
    for _ in range(ROUNDS):
        s, o = d * scales, None if m is None or minimums is None else m * minimums
        codes = _codes(x, s, o, *kind.codes)
        sums = _Sums(codes, w, wx, sum_w, sum_x)
        found = (sums.error(s, o).sum(1, keepdim=True), d, scales, m, minimums, codes)
        best = found if best is None else _better(best, found)
        d, scales, m, minimums = _refit(sums, kind.scales, d, scales, m, minimums)
    assert best is not None
    _, d, scales, m, minimums, codes = best
    integer = torch.uint8 if kind.has_minimum else torch.int8
    return Blocks(
        codes.flatten(1).to(integer), d[:, 0].half(), None if m is None else m[:, 0].half(),
        scales.to(integer), None if minimums is None else minimums.to(integer),
    )  # fmt: skip


def _refit(
    sums: _Sums, limits: tuple[int, int], d: Tensor, scales: Tensor, m: Tensor | None, minimums: Tensor | None
) -> tuple[Tensor, Tensor, Tensor | None, Tensor | None]:
    """Integers for the codes, one kind after the other, then the numbers of the blocks."""
    target = sums.qx if m is None or minimums is None else sums.qx + m * minimums * sums.q
    safe = torch.where(d == 0, 1.0, d)
    scales = (target / (safe * sums.qq.clamp(min=TINY))).round().clamp(*limits)
    if m is None or minimums is None:
        d = (scales * sums.qx).sum(1, keepdim=True) / (scales.square() * sums.qq).sum(1, keepdim=True).clamp(min=TINY)
        return d.half().float(), scales, None, None
    safe = torch.where(m == 0, 1.0, m)
    minimums = ((d * scales * sums.q - sums.x) / (safe * sums.w)).round().clamp(*limits)
    dd = (scales.square() * sums.qq).sum(1, keepdim=True)
    mm = (minimums.square() * sums.w).sum(1, keepdim=True)
    dm = (scales * minimums * sums.q).sum(1, keepdim=True)
    dx, mx = (scales * sums.qx).sum(1, keepdim=True), (minimums * sums.x).sum(1, keepdim=True)
    determinant = dd * mm - dm.square()
    solvable = determinant > 1e-6 * dd * mm
    divisor = torch.where(solvable, determinant, 1.0)
    d = torch.where(solvable, (dx * mm - dm * mx) / divisor, dx / dd.clamp(min=TINY))
    m = torch.where(solvable, (dm * dx - dd * mx) / divisor, 0.0).clamp(min=0)
    return d.half().float(), scales, m.half().float(), minimums
