"""`rdlite.BatchPredictor`: a model as a function of tables, for Ray Data, Dask and Spark."""

from __future__ import annotations

import threading
from collections.abc import Mapping, Sequence
from typing import Any

from rdlite.api.model import Model
from rdlite.batch.answers import Answerer, Record
from rdlite.batch.local import open_model
from rdlite.batch.options import Load, Options
from rdlite.batch.request import IDS, OPTIONS
from rdlite.batch.rows import Row
from rdlite.batch.tables import columns_of, table_like, values_of
from rdlite.config.cache import Cache
from rdlite.config.depth import Depth
from rdlite.config.sampling import Sampling
from rdlite.errors import InputError

#: One model for each way to open one, in this process.
_models: dict[Load, Model] = {}
_lock = threading.Lock()


class BatchPredictor:
    """Answers the rows of a table, many together.

        ds.map_batches(
            rdlite.BatchPredictor,
            fn_constructor_kwargs={"model": "/models/huginn", "threads": 8},
            batch_format="pyarrow",
            num_cpus=8,
            concurrency=2,
        )

    It is called with a table and returns one of the same kind: a mapping of arrays by column, a
    pyarrow table (Ray Data gives either), or a pandas data frame (as Dask and Spark give). The
    columns of the answer are those given and `text`, `finish`, `steps`, `tokens`, `logprob` if
    asked for, and `error`: why a row has no text, or None. Each has its type whatever is in it.

    It can be pickled. The model is loaded when rows are to be answered first, once in a process.
    Calls in several threads take turns.
    """

    def __init__(
        self,
        model: str = "nano",
        *,
        column: str = "prompt",
        chat: bool | None = None,
        max_tokens: int = 1024,
        depth: Depth | None = None,
        sampling: Sampling | None = None,
        seed: int = 0,
        stop: Sequence[str] = (),
        logprob: bool = False,
        template_variables: Mapping[str, Any] | None = None,
        keep: Sequence[str] | None = None,
        at_once: int | None = None,
        device: str = "cpu",
        threads: int | None = None,
        context: int | None = None,
        cache: Cache | None = None,
    ) -> None:
        """Say what is to be done; nothing is loaded yet.

        Args:
            model: path of a bundle or a .gguf file where it is called, or "nano".
            column: that holds the prompts, text or token ids. If the table has a column `messages`
                instead, these are conversations. A column `id` tells rows apart whose tokens are
                drawn, else their prompts do. Columns named as options (`max_tokens`, `seed`,
                `temperature` ...) are of that row.
            chat: read prompts that are texts as messages of a user; None: if the model has a chat
                template.
            max_tokens: maximum new tokens of an answer.
            depth: how deep to think; None: the model's default.
            sampling: how tokens are chosen; None: the model's own default.
            seed: of initial states and draws.
            stop: texts that end an answer.
            logprob: tell the log-probability of each answer.
            template_variables: of the chat template's own.
            keep: columns to give back beside the answers; None: all.
            at_once: rows that are worked on together, 1 to 1024; None: as many as suit the model.
            device: as for `rdlite.load`, like the rest.
            threads: for one operator; None: as for `rdlite.load`.
            context: the longest text in tokens.
            cache: what to keep of past positions.

        Raises:
            InputError: a number is out of bounds.
        """
        self._options = Options(
            max_tokens=max_tokens,
            depth=depth,
            sampling=sampling,
            seed=seed,
            stop=(stop,) if isinstance(stop, str) else tuple(stop),
            chat=chat,
            logprob=logprob,
            column=column,
            template_variables=dict(template_variables or {}),
        )
        self._load = Load(str(model), device, threads, context, cache or Cache(), False, at_once)
        self._keep = None if keep is None else tuple(keep)

    def __call__(self, batch: Any) -> Any:
        """Return a table with the answers of the rows of `batch`, in order.

        Raises:
            InputError: it is no table, has no column of prompts, or has one of an answer's names.
            RdliteError: the model cannot be opened.
        """
        columns = columns_of(batch)
        names = [n for n in columns if n in (self._options.column, "messages", *IDS, *OPTIONS)]
        if self._options.column not in names and "messages" not in names:
            raise InputError(
                f"the table has no column {self._options.column!r:.60} or 'messages', it has "
                f"{', '.join(map(str, columns)) or 'none'}: name the one with the prompts (column=)"
            )
        kept = list(columns) if self._keep is None else list(self._keep)
        rows = [
            Row(number, dict(zip(names, values, strict=True)))
            for number, values in enumerate(
                zip(*(values_of(columns[name]) for name in names), strict=True)
            )
        ]
        answers = self._answers(rows)
        for name in kept:
            if name not in columns or name in answers:
                raise InputError(
                    f"the table has {'no' if name not in columns else 'already a'} column "
                    f"{name!r:.60}: keep= says which columns to give back beside the answers"
                )
        return table_like(batch, {name: columns[name] for name in kept}, answers)

    def _answers(self, rows: list[Row]) -> dict[str, list[Any]]:
        names = ["text", "finish", "steps", "tokens", "logprob", "error"]
        if not self._options.logprob:
            names.remove("logprob")
        records: list[Record] = []
        if rows:  # else somebody asks what a table of answers looks like
            with _lock:
                if self._load not in _models:
                    _models[self._load] = open_model(self._load)
                model = _models[self._load]
                answerer = Answerer(model, self._options, self._load.at_once)
                records = list(answerer.answer(rows, numbered=False))
        return {name: [getattr(record, name) for record in records] for name in names}
