"""Artifacts: folders with a manifest, complete or absent, and what every chapter needs: errors, progress, machine.

    errors.py             UserError: the one exception that a user sees as one line
    storage_errors.py     a full disk, a quota, missing permissions: as a UserError
    fingerprint.py        canonical JSON and SHA-256
    differences.py        differences between two nested tables
    json_file.py          JSON files by schema, one-line errors
    jsonl_file.py         JSON Lines files by line, with checksums
    manifest.py           manifest.json: how a folder was made, and its files
    arguments.py          checks of arguments of public functions
    directory.py          partial folders, atomic writes, locks
    run_record.py         run.json: the hashes of a run's manifests, recipe and plan
    measure_rows.py       measures of a model as rows of a table, for terminal and report
    system_modules.py     modules of Python that only Linux and macOS have
    machine.py            the computer of a run: device, threads, folders
    rank_environment.py   rank and world size from the environment
    parent_death.py       end of a rank whose launcher was killed
    progress.py           progress bars and log lines
    freed_memory.py       memory that was freed, back to the system
    sanitize.py           foreign text made safe to print
    bounded_regex.py      regular expressions of recipes and foreign files, with a time limit
    harness_metrics.py    scores of tasks of lm-evaluation-harness, as rows
    contamination_flags.py what the data stage found of evaluation sets, beside scores
    http_server.py        a listening socket and security headers, for the HTTP servers

Deliberately absent: torch, and anything about what a stage computes.
"""

from groundup.artifacts.errors import UserError
from groundup.artifacts.fingerprint import canonical_json, fingerprint, hash_file
from groundup.artifacts.machine import Machine
from groundup.artifacts.manifest import Manifest, verify_folder
from groundup.artifacts.progress import Progress, auto_progress

__all__ = [
    "Machine",
    "Manifest",
    "Progress",
    "UserError",
    "auto_progress",
    "canonical_json",
    "fingerprint",
    "hash_file",
    "verify_folder",
]
