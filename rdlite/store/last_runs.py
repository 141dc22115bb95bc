"""What `rdlite bench` measured last for each model and options: one small file of the store."""

import json
from typing import Any

from rdlite.store.home import home
from rdlite.utils.files import write_whole

FILE, KEPT = "bench.json", 100


def last_run(key: str) -> dict[str, Any] | None:
    """Return the report that was kept for a key; None where there is none, or it cannot be read."""
    return _runs().get(key)


def keep_run(key: str, report: dict[str, Any]) -> None:
    """Keep a report for a key in place of the last one; the oldest of more than KEPT goes.

    Raises OutputError if the file cannot be written.
    """
    runs = _runs()
    runs.pop(key, None)
    runs[key] = report
    home().mkdir(parents=True, exist_ok=True)
    newest = dict(list(runs.items())[-KEPT:])
    write_whole(home() / FILE, json.dumps(newest, indent=1).encode())


def _runs() -> dict[str, dict[str, Any]]:
    try:
        runs = json.loads((home() / FILE).read_bytes())
    except (OSError, ValueError, RecursionError):
        return {}  # a comparison is worth no error
    whole = isinstance(runs, dict) and all(isinstance(run, dict) for run in runs.values())
    return runs if whole else {}
