"""Records: in order, whatever their rows are, and those of `generate`."""

import pytest

from rdlite import Depth, RuntimeFailure, Sampling
from rdlite.batch import answers as answers_module
from rdlite.batch.answers import Answerer, Record
from rdlite.batch.options import Options
from rdlite.batch.request import request_of
from rdlite.batch.rows import Row

OPTIONS = Options(6, Depth(4), Sampling(temperature=1.0), chat=False, logprob=True)


def rows_of(count):
    """Rows of several lengths and depths, some of which cannot be answered."""
    rows = []
    for number in range(count):
        value = {"prompt": f"word {number % 5}", "max_tokens": 1 + number * 7 % 11}
        if number % 4 == 1:
            value["depth"] = {"max_steps": 1 + number % 3}
        if number % 6 == 2:
            value = {"prompt": 5}
        rows.append(Row(number, value, "it is broken" if number % 10 == 9 else None))
    return rows


def alone(model, row, options=OPTIONS):
    request = request_of(row.value, row.number, model, options)
    generation = model.generate(request.pop("prompt"), **request)
    tokens = list(generation)
    stats = generation.stats
    return Record(
        row.number,
        generation.text,
        stats.finish,
        stats.core_steps,
        stats.new_tokens,
        sum(token.logprob for token in tokens),
    )


@pytest.mark.parametrize("at_once", [1, 5, 16])
def test_records_are_in_order_and_those_of_generate(nano, at_once):
    rows = rows_of(40)
    records = list(Answerer(nano, OPTIONS, at_once).answer(iter(rows)))
    assert [record.id for record in records] == list(range(40))
    for row, record in zip(rows, records, strict=True):
        if row.problem is not None:
            assert record == Record(row.number, error="it is broken")
        elif row.value["prompt"] == 5:
            assert record.error == "'prompt' must be text or token ids, got int"
        else:
            assert record == alone(nano, row)


def test_a_slow_row_bounds_what_is_read_ahead(nano, monkeypatch):
    monkeypatch.setattr(answers_module, "WINDOW", 8)
    read = []

    def rows():
        for number in range(30):
            read.append(number)
            yield Row(number, {"prompt": "a", "max_tokens": 40 if number == 0 else 1})

    options = Options(chat=False, depth=Depth(2))
    records = Answerer(nano, options, 4).answer(rows())
    assert next(records).tokens > 8
    assert max(read) < 8
    assert [record.id for record in records] == list(range(1, 30))


def test_rows_that_all_fail_need_no_window(nano, monkeypatch):
    monkeypatch.setattr(answers_module, "WINDOW", 2)
    records = list(Answerer(nano, OPTIONS, 2).answer(Row(n, {}) for n in range(9)))
    assert [record.id for record in records] == list(range(9))
    assert all("one of them" in record.error for record in records)


def test_what_the_machine_cannot_do_is_no_fault_of_a_row(nano, monkeypatch):
    def fail(*_):
        raise RuntimeFailure("no memory")

    monkeypatch.setattr("rdlite.engine.sequence.Sequence.begin", fail)
    with pytest.raises(RuntimeFailure, match="no memory"):
        list(Answerer(nano, OPTIONS, 2).answer(rows_of(3)))


def test_reasons_are_one_short_line(nano):
    (record,) = Answerer(nano, OPTIONS, 1).answer([Row(0, {"a\nb" * 900: 1}, "x\x1b\n" * 900)])
    assert len(record.error) == 400
    assert record.error.isprintable()


def test_a_record_is_a_line_of_its_own_keys():
    assert Record(1, "\n", "stop", 3, 1, -0.5).as_line(False) == (
        b'{"id": 1, "text": "\\n", "finish": "stop", "steps": 3, "tokens": 1}\n'
    )
    assert Record("a", "", "stop", 3, 1, -0.5).as_dict(True)["logprob"] == -0.5
    assert Record("a", error="why").as_dict(True) == {"id": "a", "error": "why"}
