"""First pass of the data stage: read and clean the files of one work unit into one parquet file."""

from dataclasses import asdict
from pathlib import Path
from typing import Any

from groundup.artifacts.machine import Machine
from groundup.data.clean.cleaning_steps import FilterContext, build_steps, clean_document, utf8_bytes
from groundup.data.clean.step_types import CleaningStep
from groundup.data.dedup.document_keys import DedupKeyWriter, code_key, text_key
from groundup.data.dedup.passages import PassageWriter
from groundup.data.document import DroppedDocument
from groundup.data.document_reader import AUTO, read_file_kinds
from groundup.data.filter_stats import FilterStats
from groundup.data.hash_cache import cached_sha256
from groundup.data.inputs import InputFile
from groundup.data.license import expand_allowed
from groundup.data.readers.reader_options import ReaderOptions
from groundup.data.unit_progress import UnitProgress
from groundup.data.work_files import CLEAN_SCHEMA, ORDINAL_UNIT_BITS, DocumentWriter, write_json_atomically
from groundup.recipe.data_config import DataConfig, SourceConfig


def process_unit(task: dict[str, Any]) -> dict[str, Any]:
    """Write NNNNN.parquet, and NNNNN.json last: it marks the unit as complete. `task`: see `work_units.unit_task`.

    Deduplication keys are written beside them: NNNNN.keys, and NNNNN.paragraphs or NNNNN.ngrams if enabled.
    """
    config = DataConfig.model_validate(task["config"])
    source = SourceConfig.model_validate(task["source"])
    machine = Machine(cache_dir=Path(task["cache"]), offline=task["offline"], threads=1)
    weights, evaluation = (Path(task[name]) if task[name] else None for name in ("weights", "evaluation"))
    context = FilterContext(weights, evaluation)
    steps: dict[str, list[CleaningStep]] = {}
    licenses = expand_allowed(config.code.licenses)
    options = ReaderOptions(
        source.text_column, config.html_extractor, source.delimiter, licenses, config.held_out_conversations or 0.0
    )
    unit, stem = task["unit"], Path(task["folder"]) / f"{task['unit']:05d}"
    stats = FilterStats(languages=context.languages, replaced=context.replaced)
    keys = DedupKeyWriter(config.minhash_dedup, task["seed"], stem)
    passages = PassageWriter(config, source.kind, stem)
    progress = UnitProgress(stem)
    contaminated: list[dict[str, str]] = []
    inputs: list[dict[str, Any]] = []
    writer = DocumentWriter(stem.with_suffix(".parquet"), CLEAN_SCHEMA)
    for file in (InputFile(name, Path(path), *rest) for name, path, *rest in task["files"]):
        path = file.fetch(machine)
        sha256 = cached_sha256(path, machine)
        size = path.stat().st_size
        inputs.append({"name": file.name, "bytes": size, "sha256": sha256})
        progress.start_file(file.name, size)
        for kind, found in read_file_kinds(source.kind, file, options):
            if source.kind == AUTO:
                stats.kinds[kind] = stats.kinds.get(kind, 0) + 1
            bytes_read = utf8_bytes(found.text)
            progress.add(bytes_read)
            result = found
            if not isinstance(found, DroppedDocument):
                if found.encoding:
                    stats.encodings[found.encoding] = stats.encodings.get(found.encoding, 0) + 1
                stats.add_left_out(found.left_out)
                if kind not in steps:
                    steps[kind] = build_steps(config, kind, source.clean, context)
                result = clean_document(found, steps[kind], stats.add_change)
            if isinstance(result, DroppedDocument):
                stats.add_dropped(result, bytes_read)
                contaminated += [{"source": source.name, "id": found.id, "item": item} for item in context.hits]
                context.hits.clear()
                continue
            text = result.text
            key = code_key(text) if kind == "code" else text_key(text)
            writer.add({
                "ordinal": (unit << ORDINAL_UNIT_BITS) + stats.kept[0], "source": source.name, "id": result.id,
                "text": text, "key": key, "bytes": utf8_bytes(text), "license": result.license or source.license or "",
            })  # fmt: skip
            keys.add(key, text)
            passages.add(text, kind)
            stats.add_control_tokens(text)
            stats.add_kept(result, bytes_read)
        if file.url is not None and not task["keep_downloads"]:
            path.unlink(missing_ok=True)
    for output in (writer, keys, passages, progress):
        output.close()
    result = {"stats": asdict(stats), "inputs": inputs, "contaminated": contaminated}
    write_json_atomically(stem.with_suffix(".json"), result)
    return {"unit": unit, "documents": stats.read[0]}
