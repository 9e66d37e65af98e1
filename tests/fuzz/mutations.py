"""Damaged copies of a file: flipped bits, lost, repeated and foreign bytes, and JSON values of other types and sizes."""

import copy
import json
import random
import struct
from collections.abc import Callable
from typing import Any

VALUES: tuple[Any, ...] = (
    None, True, -1, 0, 3, 2**31, 2**63, 10**400, 1.5, 1e300, float("nan"), float("inf"), "", "x", "x" * 100_000, "\ud800", "../x",
    "{{ 1 / 0 }}", "(a+)+$", [], [1], {}, {"a": 1}, [[[]]], ["x", 1, None], list(range(10_000)),
)  # fmt: skip
FRAGMENTS = (
    b"", b"\0", b"\xff\xfe", b"\xed\xa0\x80", b"\n", b'"', b"\\ud800", b"{", b"}", b"[", b",", b"NaN", b"1e999",
    b"\x7f\xff\xff\xff",    b"\xff" * 8, b"\0" * 8, b"[" * 3_000, b'{"a":' * 3_000, b"9" * 5_000, b"A" * 20_000, b" " * 20_000,
    b"{% for a in b %}",
)  # fmt: skip


def damage_bytes(data: bytes, generator: random.Random) -> bytes:
    """`data` with one to four places changed; one in ten breaks off."""
    for _ in range(generator.randint(1, 4)):
        start = generator.randrange(min(len(data), 4096) if generator.random() < 0.5 else len(data) + 1) if data else 0
        stop = min(start + generator.choice((0, 1, 2, 4, 8, 64, 1_000)), len(data))
        part = generator.choice((
            b"",
            generator.randbytes(generator.randint(1, 8)),
            generator.choice(FRAGMENTS),
            data[start:stop] * 3,
            bytes(byte ^ 1 << generator.randrange(8) for byte in data[start:stop][:8]),
        ))  # fmt: skip
        data = data[:start] + part + (b"" if generator.random() < 0.1 else data[stop:])
    return data


def damage_json(data: bytes, generator: random.Random) -> bytes:
    """A JSON text in which one or two values at random places are others, repeated, or missing."""
    holder = [json.loads(data)]
    for _ in range(generator.randint(1, 2)):
        container, key = _random_place(holder, generator)
        change = generator.random()
        if change < 0.15 and container is not holder:
            del container[key]
        elif change < 0.25:
            container[key] = [copy.deepcopy(container[key]) for _ in range(generator.choice((2, 100)))]
        elif change < 0.35:
            for _ in range(generator.choice((10, 200))):
                container[key] = [container[key]]
        elif change < 0.4 and isinstance(container, dict):
            container[generator.choice(("", "x", "\ud800", "x" * 10_000))] = container.pop(key)
        else:
            container[key] = copy.deepcopy(generator.choice(VALUES))
    return json.dumps(holder[0]).encode() if holder else b""


def damage_lines(data: bytes, generator: random.Random) -> bytes:
    """JSON lines with one line damaged."""
    lines = data.splitlines()
    index = generator.randrange(len(lines))
    lines[index] = damage_json(lines[index], generator)
    return b"\n".join(lines) + b"\n"


def damage_safetensors(data: bytes, generator: random.Random) -> bytes:
    """A safetensors file with a damaged header of the right length."""
    size = struct.unpack("<Q", data[:8])[0]
    header = damage_json(data[8 : 8 + size], generator)
    return struct.pack("<Q", len(header)) + header + data[8 + size :]


STRUCTURED: dict[str, Callable[[bytes, random.Random], bytes]] = {
    ".json": damage_json, ".ipynb": damage_json, ".jsonl": damage_lines, ".safetensors": damage_safetensors,
}  # fmt: skip


def damage(name: str, data: bytes, generator: random.Random) -> bytes:
    """A damaged copy of the content of a file with this name."""
    structured = STRUCTURED.get(name[name.rfind(".") :])
    if structured is not None and generator.random() < 0.6:
        return structured(data, generator)
    return damage_bytes(data, generator)


def _random_place(holder: list[Any], generator: random.Random) -> tuple[Any, Any]:
    container, key = holder, 0
    while isinstance(inner := container[key], dict | list) and inner and generator.random() < 0.85:
        container, key = inner, generator.choice(list(inner) if isinstance(inner, dict) else range(len(inner)))
    return container, key
