"""Reading files: every line is a row or a reason, and every row is found again from its place."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from rdlite.batch import rows as rows_module
from rdlite.batch.rows import read_file
from rdlite.batch.scan import Scan, find_files
from rdlite.errors import InputError


def scan_of(tmp_path, *files, column="prompt"):
    return Scan(list(files), column, tmp_path / "notes")


def test_every_line_is_a_row_or_a_reason(tmp_path):
    path = tmp_path / "in.jsonl"
    lines = [b'\xef\xbb\xbf{"a": 1}\r\n', b"\n", b"   \n", b"no\n", b"[1]\n", b'"\xff"\n', b"{}"]
    path.write_bytes(b"".join(lines))
    found = [(value, problem) for _, value, problem in read_file(path, "prompt")]
    assert [value for value, _ in found] == [{"a": 1}, None, None, None, {}]
    assert "no JSON" in found[1][1]
    assert found[2][1] == "a row must be an object, got list"
    assert "utf-8" in found[3][1]


def test_a_line_past_the_limit_is_passed_over(tmp_path, monkeypatch):
    monkeypatch.setattr(rows_module, "MAX_LINE", 50)
    path = tmp_path / "in.jsonl"
    path.write_bytes(b'{"a": 1}\n' + b"x" * 3_000_000 + b'\n{"a": 2}\n' + b"y" * 51)
    found = list(read_file(path, "prompt"))
    assert [value for _, value, _ in found] == [{"a": 1}, None, {"a": 2}, None]
    assert found[1][2] == found[3][2] == "the row has more than 50 bytes"
    for place, value, problem in found:
        assert next(read_file(path, "prompt", place)) == (place, value, problem)


def test_parquet_rows_come_with_the_columns_that_mean_something(tmp_path):
    path = tmp_path / "in.parquet"
    table = pa.table(
        {"text": [f"t{i}" for i in range(500)], "label": [0] * 500, "max_tokens": [3] * 500}
    )
    pq.write_table(table, path, row_group_size=70)
    found = list(read_file(path, "text"))
    assert [value for _, value, _ in found] == [
        {"text": f"t{i}", "max_tokens": 3} for i in range(500)
    ]
    for place in (0, 69, 70, 311, 499):
        assert next(read_file(path, "text", place)) == found[place]


@pytest.mark.parametrize(
    ("columns", "message"),
    [
        ({"question": ["a"]}, "has no column 'prompt' or 'messages', it has question"),
        ({"prompt": [1.5]}, "column 'prompt' of .* holds double, neither text nor token ids"),
    ],
)
def test_parquet_of_other_columns_is_refused(tmp_path, columns, message):
    path = tmp_path / "in.parquet"
    pq.write_table(pa.table(columns), path)
    with pytest.raises(InputError, match=message):
        list(read_file(path, "prompt"))


def test_what_is_no_parquet_is_refused_in_a_line(tmp_path):
    path = tmp_path / "in.parquet"
    path.write_bytes(b"PAR1 and no more")
    with pytest.raises(InputError, match="cannot be read as Parquet"):
        list(read_file(path, "prompt"))


@pytest.mark.parametrize("size", [None, 32, 64])
def test_pieces_are_all_rows_from_any_row_on(tmp_path, size):
    folder = tmp_path / "in"
    folder.mkdir()
    (folder / "a.jsonl").write_text("".join(f'{{"prompt": "a{i}"}}\n\n' for i in range(75)))
    (folder / "b.jsonl").write_text("")
    pq.write_table(pa.table({"prompt": [f"c{i}" for i in range(130)]}), folder / "c.parquet")
    (folder / "notes.txt").write_text("no rows")
    scan = scan_of(tmp_path, *find_files(folder))
    assert (scan.rows, scan.counts) == (205, [75, 0, 130])
    prompts = [f"a{i}" for i in range(75)] + [f"c{i}" for i in range(130)]
    for start in (0, 1, 31, 32, 70, 74, 75, 76, 108, 204, 205):
        rows = [
            row
            for piece in scan.pieces(start, size)
            for row in rows_module.read_piece(piece, "prompt")
        ]
        assert [row.number for row in rows] == list(range(start, 205))
        assert [row.value["prompt"] for row in rows] == prompts[start:]
        assert [row.number for row in scan.read(start)] == list(range(start, 205))
    if size:
        assert max(piece.count for piece in scan.pieces(0, size)) == size
    scan.close()


def test_repeated_ids_are_told_wherever_a_row_is_read(tmp_path):
    path = tmp_path / "in.jsonl"
    ids = ["a", "b", "a", 5, 7, None, "5"]  # the sixth row has the id 5 as its number
    path.write_text("".join(json.dumps({"id": i, "prompt": "x"}) + "\n" for i in ids))
    scan = scan_of(tmp_path, path)
    problems = {row.number: row.problem for row in scan.read(0)}
    assert [number for number, problem in problems.items() if problem] == [2, 5]
    assert problems[2] == "the id is that of row 0 too; give each its own"
    assert problems[5] == "the id is that of row 3 too; give each its own"
    assert {row.number: row.problem for row in scan.read(4)} == dict(list(problems.items())[4:])
    assert not scan.whole_ids
    scan.close()


def test_a_file_that_changes_meanwhile_is_noticed(tmp_path):
    path = tmp_path / "in.jsonl"
    path.write_text('{"prompt": "x"}\n')
    scan = scan_of(tmp_path, path)
    scan.check_unchanged()
    path.write_text("")
    with pytest.raises(InputError, match="was changed while it was worked on"):
        scan.check_unchanged()
    with pytest.raises(InputError, match="has fewer rows"):
        list(scan.read(0))
    scan.close()


def test_hashes_tell_content_and_for_folders_names(tmp_path):
    paths = [tmp_path / name for name in ("a.jsonl", "b.jsonl", "c.jsonl")]
    for path, text in zip(paths, ("{}", "{}", '{"x": 1}'), strict=True):
        path.write_text(text)

    def hash_of(*files):
        scan = scan_of(tmp_path, *files)
        scan.close()
        return scan.hash

    assert hash_of(paths[0]) == hash_of(paths[1]) != hash_of(paths[2])
    assert hash_of(paths[0], paths[2]) != hash_of(paths[1], paths[2])


def test_a_folder_without_rows_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"has no file that ends in \.jsonl or .parquet"):
        find_files(tmp_path)
    with pytest.raises(InputError, match="there is no file or folder"):
        find_files(tmp_path / "missing.jsonl")
