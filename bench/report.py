"""What every benchmark prints and keeps: the machine, the versions, the date, a table, JSON."""

import datetime
import importlib.metadata
import json
import platform
import statistics
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rdlite.cli.inspect.doctor import processor_name
from rdlite.ort.session import load_onnxruntime
from rdlite.utils.cpu import usable_cores


def environment() -> dict[str, Any]:
    """Describe the machine and the versions that count, without naming the host."""
    packages = ("rdlite", "onnx-ir", "numpy")
    return {
        "date": datetime.datetime.now(datetime.UTC).date().isoformat(),
        "processor": processor_name(),
        "cores": usable_cores(),
        "system": platform.system(),
        "python": platform.python_version(),
        "onnxruntime": load_onnxruntime().__version__,  # of either package
        **{name: importlib.metadata.version(name) for name in packages},
    }


def spread(values: Sequence[float], digits: int) -> str:
    """The median of some measurements, with the smallest and the largest."""
    middle, low, high = statistics.median(values), min(values), max(values)
    return f"{middle:.{digits}f} ({low:.{digits}f} to {high:.{digits}f})"


def finish(name: str, rows: Sequence[Mapping[str, Any]], out: Path | None) -> None:
    """Print the rows as a Markdown table under the machine's line; write JSON to `out`."""
    where = environment()
    print(", ".join(f"{key} {value}" for key, value in where.items()))
    print()
    columns = list(dict.fromkeys(column for row in rows for column in row))
    print("| " + " | ".join(columns) + " |")
    print("|" + "---|" * len(columns))
    for row in rows:
        print("| " + " | ".join(str(row.get(column, "")) for column in columns) + " |")
    if out is not None:
        out.parent.mkdir(parents=True, exist_ok=True)
        result = {"benchmark": name, "environment": where, "rows": list(rows)}
        out.write_text(json.dumps(result, indent=1) + "\n")
