"""Drawing of a model with the shapes of its weights: the whole at the left, one block enlarged at the right."""

import math
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

from matplotlib.patches import FancyArrowPatch, FancyBboxPatch

from groundup.plan.shape.weight_shapes import Shapes, WeightShapes, weight_shapes
from groundup.recipe import ModelConfig
from groundup.report import formatting
from groundup.report.plot_style import BLUE, INK, RULE, SOFT, WIDTH, svg_figure

LINE, HEAD, PAD, GAP = 0.135, 0.2, 0.05, 0.16
"""Height of a line, of a title, of the space around them, and of an arrow, in inches."""
TINTS = {"attention": "#e3ecf3", "feed_forward": "#faeedd", "norm": "#f1f3f5", "ends": "#e6f0ec", "block": "#ffffff"}
SHADOW = 0.06
TEXT = "text"
"""Tint of a line of text without a box."""
LEFT, SPLIT = 1.95, 2.75
"""Width of the left column, and start of the right one, in inches."""


@dataclass(frozen=True)
class Box:
    """A part of the drawing: title, lines of (name, shape) below it, number of parameters, tint."""

    title: str
    lines: list[tuple[str, str]] = field(default_factory=list)
    parameters: int = 0
    tint: str = "norm"

    @property
    def height(self) -> float:
        return HEAD + LINE * len(self.lines) + (PAD if self.lines else 0)


def draw_model(config: ModelConfig) -> tuple[str, str]:
    """SVG of the model, and a text that says the same."""
    shapes = weight_shapes(config)
    whole = _whole(config, shapes)
    stack = "decoder.blocks" if "decoder.blocks" in shapes.stacks else next(iter(shapes.stacks))
    block, kind = _typical_block(shapes.stacks[stack])
    name = stack.rpartition(".")[0] or config.architecture
    parts = _block_parts(config, block)
    left = sum(box.height + GAP for box in whole) + 2 * GAP + 2 * SHADOW + 0.1
    right = sum(part.height + GAP for part in parts) + HEAD + 2 * GAP
    height = max(left, right) + 0.1
    with svg_figure(height) as (plot, axes):
        axes.set_xlim(0, WIDTH)
        axes.set_ylim(0, height)
        axes.set_axis_off()
        top, bottom = _draw_whole(axes, config, whole, (height - left) / 2, height)
        _draw_block(axes, config, parts, f"one {name} block of {kind}", height, (top, bottom))
    return plot.svg, _alternative(whole, parts)


def _typical_block(blocks: tuple[Shapes, ...]) -> tuple[Shapes, str]:
    """The most frequent kind of block, and how many blocks of the stack are of it."""
    counts = Counter(tuple(sorted(shapes.items())) for shapes in blocks)
    kind, count = counts.most_common(1)[0]
    chosen = next(shapes for shapes in blocks if tuple(sorted(shapes.items())) == kind)
    return chosen, f"{len(blocks)}" if count == len(blocks) else f"{len(blocks)}; {count} are as this one"


def _whole(config: ModelConfig, shapes: WeightShapes) -> list[Box]:
    """Embedding, stacks, final norms and head, in the order of the computation."""
    boxes = []
    by_part: dict[str, Shapes] = {}
    for name, shape in shapes.ends.items():
        part = (
            "embedding" if name.startswith("embedding") else "head" if name.startswith("head") else name.split(".")[0]
        )
        by_part.setdefault(part, {})[name] = shape
    boxes.append(_box("Token embedding", by_part.pop("embedding"), "ends"))
    for stack, blocks in shapes.stacks.items():
        role, _, _ = stack.rpartition(".")
        inner = by_part.pop(role, {})
        positions = {name: shape for name, shape in inner.items() if "norm" not in name}
        if role == "decoder":
            boxes.append(Box("target ids   T, embedded as well", tint=TEXT))
        count = sum(math.prod(shape) for block in (*blocks, positions) for shape in block.values())
        lines = [(f"{role or 'position'} bias", _format_shape(name, shape)) for name, shape in positions.items()]
        boxes.append(Box(f"{len(blocks)} × {role or config.architecture} block", lines, count, "block"))
        if norms := {name: shape for name, shape in inner.items() if "norm" in name}:
            boxes.append(_box("Final norm", norms, "norm"))
        if role == "encoder":
            boxes.append(Box("memory   T, to every cross-attention", tint=TEXT))
    head = by_part.pop("head", {})
    for part, rest in by_part.items():
        boxes.append(_box("Final norm" if "norm" in part else part.replace("_", " ").capitalize(), rest, "norm"))
    if head or config.tie_embeddings:
        tied = (
            []
            if any(len(shape) > 1 and config.vocab_size in shape for shape in head.values())
            else [("weights of the embedding", f"{config.hidden_size:,} → {config.vocab_size:,}")]
        )
        box = _box("Output head", head, "ends")
        boxes.append(Box(box.title, [*box.lines, *tied], box.parameters, box.tint))
    return boxes


def _block_parts(config: ModelConfig, block: Shapes) -> list[Box]:
    """Norms and sublayers of a block in the order of the computation; a box with the title + is a residual sum."""
    groups: dict[str, Shapes] = {}
    for name, shape in block.items():
        part, _, rest = name.partition(".")
        groups.setdefault(part, {})[rest] = shape
    total = Box("+")
    placement = config.norm_placement

    def sublayer(name: str, title: str, detail: str, tint: str) -> list[Box]:
        before, after = groups.get(f"{name}_norm"), groups.get(f"{name}_post_norm")
        box = _box(title, groups[name], tint, detail)
        boxes = [_box("Norm", before, "norm")] if before and placement != "post" else []
        boxes += [box, *([_box("Norm", after, "norm")] if after else []), total]
        return boxes + ([_box("Norm", before, "norm")] if before and placement == "post" else [])

    parts: list[Box] = []
    if "mixer" in groups:
        parts += [_box("Norm", groups["norm"], "norm"), _box("State-space mixer", groups["mixer"], "attention"), total]
    if "attention" in groups:
        parts += sublayer("attention", _attention_title(config), _attention_detail(config), "attention")
    if "cross_attention" in groups:
        parts += sublayer("cross_attention", "Cross-attention", "keys and values from the encoder", "attention")
    if "feed_forward" in groups:
        title = "Mixture of experts" if "router.weight" in groups["feed_forward"] else "Feed-forward"
        parts += sublayer("feed_forward", title, _feed_forward_detail(config, groups["feed_forward"]), "feed_forward")
    return parts


def _attention_title(config: ModelConfig) -> str:
    return "Latent attention" if config.latent_attention else "Self-attention"


def _attention_detail(config: ModelConfig) -> str:
    heads = f"{config.num_heads} heads of {config.head_dim}"
    if config.num_kv_heads != config.num_heads:
        heads += f", {config.num_kv_heads} of keys and values"
    positions = {"rope": "RoPE", "alibi": "ALiBi", "relative": "relative positions"}.get(config.position_embedding)
    window = f"window of {config.sliding_window:,}" if config.sliding_window else None
    return ", ".join(filter(None, (heads, positions, window)))


def _feed_forward_detail(config: ModelConfig, shapes: Shapes) -> str:
    if config.moe is None or "router.weight" not in shapes:
        return config.feed_forward
    shared = f" and {config.moe.num_shared_experts} shared" if config.moe.num_shared_experts else ""
    return (
        f"{config.moe.experts_per_token} of {config.moe.num_experts} experts{shared} for a token, {config.feed_forward}"
    )


def _box(title: str, shapes: Shapes, tint: str, detail: str = "") -> Box:
    lines = [(detail, "")] if detail else []
    for name, shape in shapes.items():
        lines.append((_readable(name), _format_shape(name, shape)))
    vectors = [line for line, shape in zip(lines[bool(detail) :], shapes.values(), strict=True) if len(shape) == 1]
    if len(vectors) == 1 == len(shapes):  # the only weight: no name needed
        lines = []
    return Box(title, lines, sum(map(math.prod, shapes.values())), tint)


def _readable(name: str) -> str:
    words = name.removesuffix(".weight").replace("_proj", "").split(".")
    roles = {
        "q": "queries",
        "k": "keys",
        "v": "values",
        "o": "output",
        "q_norm": "norm of queries",
        "k_norm": "norm of keys",
    }
    words = [word for word in words if word not in ("embedding", "encoder", "decoder", "head", "final_norm", "global")]
    return " ".join(roles.get(word, word.replace("_", " ")) for word in words) or "weights"


def _format_shape(name: str, shape: tuple[int, ...]) -> str:
    """Inputs → outputs of a matrix that is stored as outputs × inputs; rows × columns of a table."""
    if len(shape) == 1:
        return f"{shape[0]:,}"
    if "embedding" in name or "position" in name:
        return " × ".join(f"{size:,}" for size in shape)
    *copies, outputs, inputs = shape
    return "".join(f"{size:,} × " for size in copies) + f"{inputs:,} → {outputs:,}"


def _draw_whole(axes: Any, config: ModelConfig, boxes: list[Box], margin: float, height: float) -> tuple[float, float]:
    """Draw the left column; top and bottom of the stack of blocks that the right one enlarges."""
    y = height - margin - 0.02
    center = LEFT / 2
    axes.text(center, y, "token ids   T", ha="center", va="top", fontsize=8, style="italic", color=SOFT)
    y -= GAP
    bounds = (y, y)
    for number, box in enumerate(boxes):
        _arrow(axes, center, y, y - GAP + 0.02)
        if number:
            shape = f"T × {config.hidden_size:,}" if box.tint != TEXT else ""
            axes.text(center + 0.08, y - GAP / 2 + 0.01, shape, fontsize=6.6, va="center", color=SOFT)
        y -= GAP
        if box.tint == TEXT:
            axes.text(center, y - HEAD / 2, box.title, ha="center", va="center", fontsize=8, style="italic", color=SOFT)
            y -= box.height
            continue
        if box.tint == "block":
            bounds = (y, y - box.height)
            for shift in (SHADOW, SHADOW / 2):
                _draw_box(axes, Box("", tint="block"), 0.05 + shift, y - shift, LEFT - 0.1, box.height)
        _draw_box(axes, box, 0.05, y, LEFT - 0.1, box.height)
        y -= box.height + (SHADOW if box.tint == "block" else 0)
    _arrow(axes, center, y, y - GAP + 0.02)
    result = (
        f"logits   T × {config.vocab_size:,}"
        if boxes[-1].title == "Output head"
        else f"vectors   T × {config.hidden_size:,}"
    )
    axes.text(center, y - GAP - 0.01, result, ha="center", va="top", fontsize=8, style="italic", color=SOFT)
    return bounds


def _draw_block(
    axes: Any, config: ModelConfig, parts: list[Box], title: str, height: float, zoomed: tuple[float, float]
) -> None:
    """Draw the right column in a frame that dashed lines connect with the stack."""
    inner = sum(part.height if part.title != "+" else 0.16 for part in parts) + GAP * (len(parts) + 1)
    frame = inner + HEAD + 0.08
    top = height - (height - frame) / 2
    x, width = SPLIT, WIDTH - SPLIT - 0.05
    axes.add_patch(
        FancyBboxPatch(
            (x, top - frame),
            width,
            frame,
            boxstyle="round,pad=0,rounding_size=0.06",
            facecolor="none",
            edgecolor=RULE,
            linewidth=1,
        )
    )
    axes.text(x + 0.12, top - 0.06, title, fontsize=8, va="top", style="italic", color=SOFT)
    for start, end in ((zoomed[0], top), (zoomed[1], top - frame)):
        axes.plot([LEFT + 0.03, x], [start, end], color=RULE, linewidth=0.8, linestyle=(0, (3, 3)))
    residual, body = x + 0.22, x + 0.42
    center = body + (width - 0.52) / 2
    y = top - HEAD - 0.04
    start = y
    for part in parts:
        _arrow(axes, center, y, y - GAP + 0.02)
        y -= GAP
        if part.title == "+":
            y -= 0.08
            axes.plot([residual, center - 0.08], [y, y], color=SOFT, linewidth=0.9)
            axes.plot([residual, residual], [start - GAP / 2, y], color=SOFT, linewidth=0.9)
            axes.plot([residual, center], [start - GAP / 2, start - GAP / 2], color=SOFT, linewidth=0.9)
            axes.plot(
                [center],
                [y],
                marker="o",
                markersize=10,
                markerfacecolor="white",
                markeredgecolor=SOFT,
                markeredgewidth=0.9,
            )
            axes.text(center, y - 0.004, "+", ha="center", va="center", fontsize=9, color=INK)
            y -= 0.08
            start = y
        else:
            _draw_box(axes, part, body, y, width - 0.52, part.height)
            y -= part.height
    _arrow(axes, center, y, y - GAP + 0.02)


def _draw_box(axes: Any, box: Box, x: float, top: float, width: float, height: float) -> None:
    style = "round,pad=0,rounding_size=0.05"
    axes.add_patch(
        FancyBboxPatch(
            (x, top - height), width, height, boxstyle=style, facecolor=TINTS[box.tint], edgecolor=RULE, linewidth=0.9
        )
    )
    if box.title:
        axes.text(x + 0.08, top - HEAD / 2 - 0.005, box.title, fontsize=8.3, va="center", color=INK)
    if box.parameters:
        count = formatting.short_count(box.parameters)
        axes.text(x + width - 0.08, top - HEAD / 2 - 0.005, count, fontsize=7.2, va="center", ha="right", color=BLUE)
    for number, (name, shape) in enumerate(box.lines):
        y = top - HEAD - LINE * (number + 0.4)
        axes.text(x + 0.08, y, name, fontsize=7.0, va="center", color=SOFT)
        axes.text(x + width - 0.08, y, shape, fontsize=7.0, va="center", ha="right", color=INK)


def _arrow(axes: Any, x: float, start: float, end: float) -> None:
    axes.add_patch(
        FancyArrowPatch(
            (x, start), (x, end), arrowstyle="-|>", mutation_scale=6, color=SOFT, linewidth=0.9, shrinkA=0, shrinkB=0
        )
    )


def _alternative(whole: list[Box], parts: list[Box]) -> str:
    def describe(box: Box) -> str:
        lines = ", ".join(f"{name} {shape}".strip() for name, shape in box.lines)
        return box.title + (f" ({lines})" if lines else "")

    return (
        "From top to bottom: " + "; ".join(map(describe, whole)) + ". A block: " + "; ".join(map(describe, parts)) + "."
    )
