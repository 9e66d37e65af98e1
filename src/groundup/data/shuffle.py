"""The last passes: split, mix and shuffle a corpus that does not fit into memory.

Each unit's surviving rows are written once more, one row group for each file of the result that they go to; then each
file gathers its row groups and sorts them by a hash. What stands where follows from the seed and the texts alone.
"""

import hashlib
import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet

from groundup.data.document import Dropped
from groundup.data.funnel import Funnel
from groundup.data.rows import FINAL, Writer, write_json

ROUTED = FINAL.append(pyarrow.field("order", pyarrow.binary(16)))
VALIDATION = -1


def route(task: dict[str, Any]) -> dict[str, Any]:
    """Take the duplicates out of unit `number`, and sort what stays by where it goes."""
    clean, folder, number = Path(task["clean"]), Path(task["folder"]), task["number"]
    dropped: dict[int, str] = {int(ordinal): reason for ordinal, reason in task["dropped"].items()}
    places: dict[int, list[dict[str, Any]]] = {}
    funnel = Funnel()
    with pyarrow.parquet.ParquetFile(clean / f"{number:05d}.parquet") as file:
        for batch in file.iter_batches(batch_size=256):
            for row in batch.to_pylist():
                if reason := dropped.get(row["ordinal"]):
                    funnel.later(Dropped(reason, row["id"], row["text"]))
                    continue
                held_out = share(b"split" + row["key"]) < task["validation_fraction"]
                copies = 1 if held_out else copies_of(row["key"], task["weight"])
                if copies == 0:
                    funnel.later(Dropped("not_sampled", row["id"], row["text"]))
                for copy in range(copies):
                    order = hashlib.blake2b(
                        f"{task['seed']} {row['ordinal']} {copy}".encode(), digest_size=16
                    ).digest()
                    place = VALIDATION if held_out else int.from_bytes(order[:8], "big") % task["shards"]
                    final = {"text": row["text"], "source": row["source"], "id": row["id"], "order": order}
                    places.setdefault(place, []).append(final)
    writer = Writer(folder / f"{number:05d}.parquet", ROUTED)
    for place in sorted(places):
        writer.rows = places[place]
        writer.flush()
    writer.close()
    answer = {"number": number, "places": sorted(places), "funnel": asdict(funnel)}
    write_json(folder / f"{number:05d}.json", answer)
    return {"number": number}


def gather(task: dict[str, Any]) -> dict[str, Any]:
    """Write one file of the result: everything that was routed to it, in hash order."""
    folder, target, place = Path(task["folder"]), Path(task["target"]), task["place"]
    tables = []
    for number in range(task["units"]):
        places = json.loads((folder / f"{number:05d}.json").read_text())["places"]
        if place in places:
            with pyarrow.parquet.ParquetFile(folder / f"{number:05d}.parquet") as file:
                tables.append(file.read_row_group(places.index(place)))
    table = pyarrow.concat_tables(tables).sort_by("order") if tables else ROUTED.empty_table()
    writer = Writer(target, FINAL)
    for row in table.to_pylist():
        writer.add({name: row[name] for name in FINAL.names})
    writer.close()
    counts: dict[str, list[int]] = {}
    for source, text in zip(table["source"].to_pylist(), table["text"].to_pylist(), strict=True):
        pair = counts.setdefault(source, [0, 0])
        pair[0] += 1
        pair[1] += len(text.encode())
    return {"place": place, "counts": counts}


def share(data: bytes) -> float:
    """A number from 0 to 1 that depends on `data` alone and is evenly spread."""
    return int.from_bytes(hashlib.blake2b(data, digest_size=8).digest(), "big") / 2**64


def copies_of(key: bytes, weight: float) -> int:
    """How often a document is seen in one pass: the whole part of the weight, and once more for that share of them."""
    whole = int(weight)
    return whole + (share(b"mix" + key) < weight - whole)
