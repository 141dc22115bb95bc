"""Tables in, tables of the same kind out, with the answers that rows have alone."""

import multiprocessing
import pickle
import subprocess
import sys

import numpy as np
import pyarrow as pa
import pytest

import rdlite
from rdlite import BatchPredictor, Depth, InputError, Sampling
from rdlite.batch import predictor as predictor_module

PROMPTS = ["hi", "", "What is 48 + 76?", "word"]


@pytest.fixture(scope="module")
def predictor():
    yield BatchPredictor(chat=False, max_tokens=5, depth=Depth(4), sampling=Sampling(), threads=1)
    for model in predictor_module._models.values():
        model.close()
    predictor_module._models.clear()


@pytest.fixture(scope="module")
def expected(nano):
    generations = [nano.generate(p, max_tokens=5, depth=Depth(4)) if p else None for p in PROMPTS]
    return [each and "".join(token.text for token in each) for each in generations]


def test_a_mapping_of_arrays(predictor, expected):
    given = {"prompt": np.array(PROMPTS), "label": np.arange(4)}
    result = predictor(given)
    assert list(result) == ["prompt", "label", "text", "finish", "steps", "tokens", "error"]
    assert result["text"].tolist() == expected
    assert result["label"] is given["label"]
    assert result["tokens"].dtype == np.int64
    assert result["tokens"].tolist()[:2] == [5, 0]
    assert result["error"].tolist()[0] is None
    assert "the prompt is empty" in result["error"].tolist()[1]


@pytest.mark.parametrize("kind", [pa.Table, pa.RecordBatch])
def test_a_pyarrow_table(predictor, expected, kind):
    result = predictor(kind.from_pydict({"prompt": PROMPTS, "label": [1, 2, 3, 4]}))
    assert isinstance(result, kind)
    assert result.schema.field("text").type == pa.string()
    assert result.schema.field("tokens").type == pa.int64()
    assert result.column(2).to_pylist() == expected
    empty = predictor(kind.from_pydict({"prompt": pa.array([], pa.string())}))
    assert empty.num_rows == 0
    assert empty.schema.field("error").type == pa.string()


def test_a_data_frame(predictor, expected):
    pandas = pytest.importorskip("pandas")
    frame = pandas.DataFrame({"prompt": PROMPTS}, index=[3, 4, 5, 6])
    result = predictor(frame)
    assert result["text"].astype(object).where(result["text"].notna(), None).tolist() == expected
    assert list(result.index) == [3, 4, 5, 6]
    assert list(frame.columns) == ["prompt"]
    for rows in (frame[:1], frame[1:2], frame[:0]):
        assert predictor(rows).dtypes.equals(result.dtypes)


@pytest.mark.parametrize("missing", [None, float("nan"), "NA"])
def test_pandas_has_many_things_for_what_is_missing(predictor, missing):
    pandas = pytest.importorskip("pandas")
    missing = pandas.NA if missing == "NA" else missing
    frame = pandas.DataFrame({"prompt": ["hi", missing], "max_tokens": [missing, 1]}, dtype=object)
    result = predictor(frame)
    assert result["tokens"].tolist() == [5, 0]
    assert "needs 'prompt'" in result["error"][1]


@pytest.mark.parametrize("scheduler", ["threads", "processes"])
def test_partitions_of_dask(predictor, expected, scheduler):
    pytest.importorskip("dask.dataframe")
    import pandas
    from dask import dataframe

    table = pandas.DataFrame({"prompt": PROMPTS, "label": range(4)})
    frame = dataframe.from_pandas(table, npartitions=2)
    answers = frame.map_partitions(predictor, meta=predictor(frame._meta))
    found = answers.compute(scheduler=scheduler, num_workers=1)
    assert found.dtypes.equals(answers.dtypes)
    pandas.testing.assert_frame_equal(
        found.drop(columns="prompt"), predictor(table).drop(columns="prompt")
    )
    assert found["text"].fillna("none").tolist() == [text or "none" for text in expected]


def test_rows_say_what_they_want(predictor):
    ids = np.empty(3, object)
    ids[:] = [np.array([5, 6]), np.array([5, 6]), np.array([5, 6])]
    lengths = np.array([1, 2, 3])
    given = {"prompt": ids, "max_tokens": lengths, "min_tokens": lengths}
    given["temperature"] = [0.0, None, np.nan]
    assert predictor(given)["tokens"].tolist() == [1, 2, 3]


def test_rows_draw_by_their_id_or_their_prompt(predictor):
    drawing = BatchPredictor(
        chat=False, sampling=Sampling(temperature=3), depth=Depth(2), max_tokens=8
    )
    drawing._load = predictor._load  # the same model
    same = drawing({"prompt": ["a", "b", "a"]})["text"].tolist()
    assert same[0] == same[2] != same[1]
    assert drawing({"prompt": ["a"]})["text"].tolist() == same[:1]
    named = drawing({"prompt": ["a", "a"], "id": ["x", "y"]})["text"].tolist()
    assert named[0] != named[1]
    assert drawing({"prompt": ["a"], "id": ["y"]})["text"].tolist() == named[1:]


def test_it_is_pickled_and_loads_once_in_a_process(predictor):
    predictor({"prompt": ["a"]})
    other = pickle.loads(pickle.dumps(predictor))
    other({"prompt": ["a"]})
    assert list(predictor_module._models) == [predictor._load]
    code = (
        "import pickle, sys; p = pickle.load(sys.stdin.buffer); "
        "assert 'onnxruntime' not in sys.modules; print(p({'prompt': ['hi']})['text'][0])"
    )
    run = subprocess.run(
        [sys.executable, "-c", code], input=pickle.dumps(predictor), capture_output=True, check=True
    )
    assert run.stdout.decode().rstrip("\n") == predictor({"prompt": ["hi"]})["text"][0]


def test_processes_that_are_spawned_answer_the_same(predictor, expected):
    batches = [{"prompt": [prompt]} for prompt in PROMPTS]
    with multiprocessing.get_context("spawn").Pool(1) as pool:
        assert [each["text"][0] for each in pool.map(predictor, batches)] == expected


def test_a_table_without_rows_loads_nothing():
    nowhere = BatchPredictor("nowhere", logprob=True)
    empty = nowhere({"prompt": []})
    assert [str(column.dtype) for name, column in empty.items() if name != "prompt"] == [
        *("object", "object", "int64", "int64", "float64", "object")
    ]
    with pytest.raises(rdlite.BundleError):
        nowhere({"prompt": ["hi"]})


@pytest.mark.parametrize(
    ("batch", "message"),
    [
        ([1], "must be a mapping of arrays, a pyarrow table or a pandas data frame, got list"),
        ({"q": ["x"]}, "has no column 'prompt' or 'messages', it has q"),
        ({"prompt": ["x"], "text": ["y"]}, "has already a column 'text'"),
    ],
)
def test_what_is_no_table_of_prompts_is_refused(predictor, batch, message):
    with pytest.raises(InputError, match=message):
        predictor(batch)


def test_keep_says_which_columns_come_back(predictor):
    keeping = BatchPredictor(column="text", keep=["id"], max_tokens=1, depth=Depth(1))
    keeping._load = predictor._load
    assert list(keeping({"text": ["x"], "id": [1], "more": [2]}))[:2] == ["id", "text"]
    with pytest.raises(InputError, match="has no column 'id'"):
        keeping({"text": ["x"]})


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_tokens": 0}, "max_tokens must be"),
        ({"at_once": 0}, "at_once must be"),
        ({"seed": -1}, "seed must be"),
    ],
)
def test_numbers_are_checked_at_once(options, message):
    with pytest.raises(InputError, match=message):
        rdlite.BatchPredictor(**options)
