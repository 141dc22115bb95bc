"""Tables of several kinds as columns, and back: mappings of arrays, pyarrow's, pandas' frames."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from typing import Any

import numpy as np

from rdlite.batch.output import schema_of
from rdlite.errors import InputError

#: Columns of an answer that are no texts. All keep their type whatever is in them, because tables
#: of which each part has its own do not go together.
NUMBERS = {"steps": np.int64, "tokens": np.int64, "logprob": np.float64}


def columns_of(table: Any) -> dict[str, Any]:
    """Return the columns of a table by name; raises InputError for what is none."""
    if isinstance(table, Mapping):
        return dict(table)
    if _is_arrow(table):
        return dict(zip(table.column_names, table.columns, strict=True))
    if _is_frame(table):
        return {name: table[name] for name in table.columns}
    raise InputError(
        "a batch must be a mapping of arrays, a pyarrow table or a pandas data frame, got "
        f"{type(table).__name__}"
    )


def values_of(column: Any) -> list[Any]:
    """Return a column's values as Python has them; what is missing is None."""
    if hasattr(column, "to_pylist"):
        values = column.to_pylist()
    elif hasattr(column, "notna"):  # pandas has several things for what is missing
        values = column.astype(object).where(column.notna(), None).tolist()
    else:
        values = column.tolist() if hasattr(column, "tolist") else list(column)
    return [_plain(value) for value in values]


def table_like(table: Any, kept: Mapping[str, Any], answers: Mapping[str, list[Any]]) -> Any:
    """Return a table of the same kind with columns of it and lists of new ones."""
    if _is_arrow(table):
        import pyarrow

        schema = schema_of(False, "logprob" in answers)
        made = {
            name: pyarrow.array(values, schema.field(name).type) for name, values in answers.items()
        }
        return type(table).from_pydict({**kept, **made})
    arrays = {name: np.array(answers[name], NUMBERS.get(name, object)) for name in answers}
    if _is_frame(table):
        import pandas

        texts = {name: pandas.array(arrays[name], "string") for name in answers.keys() - NUMBERS}
        return table[list(kept)].assign(**arrays | texts)
    return {**kept, **arrays}


def _plain(value: Any) -> Any:
    if isinstance(value, np.ndarray | np.generic):
        value = value.tolist()
    if isinstance(value, tuple):
        value = list(value)
    return None if isinstance(value, float) and value != value else value


def _is_arrow(table: Any) -> bool:
    arrow = sys.modules.get("pyarrow")
    return arrow is not None and isinstance(table, arrow.Table | arrow.RecordBatch)


def _is_frame(table: Any) -> bool:
    pandas = sys.modules.get("pandas")
    return pandas is not None and isinstance(table, pandas.DataFrame)
