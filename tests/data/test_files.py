"""Every kind of file: its rows by value, their places, and what is said of a file that is not what its name says."""

import csv
import gzip
import json
import random
import re

import pyarrow as pa
import pytest

from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError


def read(spec) -> list[tuple[str, object]]:
    return [(row.place, row.value) for source in open_sources(str(spec)) for row in source.read()]


def faults(spec) -> list[tuple[str, str | None]]:
    return [(row.place, row.fault) for source in open_sources(str(spec)) for row in source.read()]


@pytest.fixture
def file(tmp_path):
    """file(name, content) -> path."""

    def _file(name: str, content: str | bytes):
        path = tmp_path / name
        path.write_bytes(content.encode() if isinstance(content, str) else content)
        return path

    return _file


@pytest.mark.parametrize("name", ["x.csv", "X.CSV", "x.csv.gz"])
def test_a_csv_row_stands_at_its_first_line_whatever_its_cells_hold(file, name):
    text = '\ufeffprompt,completion\r\nHow?,So.\r\n\r\n"two\nlines, and ""quotes""", x \r\n,\r\n1,true'
    path = file(name, gzip.compress(text.encode()) if name.endswith("gz") else text)
    assert read(path) == [
        (f"{path}:2", {"prompt": "How?", "completion": "So."}),
        (f"{path}:4", {"prompt": 'two\nlines, and "quotes"', "completion": " x "}),
        (f"{path}:6", {"prompt": "", "completion": ""}),
        (f"{path}:7", {"prompt": "1", "completion": "true"}),
    ]


def test_a_tsv_cell_may_hold_commas_and_a_column_without_a_name_is_called_as_pandas_calls_it(file):
    path = file("x.tsv", "\tprompt\tanswer\n0\tHow, then?\t1,000\n")
    assert read(path) == [(f"{path}:2", {"Unnamed: 0": "0", "prompt": "How, then?", "answer": "1,000"})]


@pytest.mark.parametrize(
    "content, place, said",
    [
        (b"a,b\n1,2\n1,2,3\n", 3, "3 cells, but the header has 2; put quotes around a cell with commas"),
        (b"a,b\n1\n", 2, "1 cells, but the header has 2"),
        (b"a,b\n1,caf\xe9\n", 2, "not UTF-8 (byte 0xe9 at position 3)"),
    ],
)
def test_a_broken_csv_row_has_its_place_and_the_others_are_read(file, content, place, said):
    path = file("x.csv", content + b"3,4\n")
    *_, (broken, fault), (_, last) = faults(path)
    assert broken == f"{path}:{place}" and said in fault
    assert last is None


@pytest.mark.parametrize(
    "content, place, said",
    [
        ("a;b\n1;2\n", 1, "the columns seem to be separated by ';', expected ','; save the table with commas"),
        ("a\tb\n1\t2\n", 1, r"the columns seem to be separated by '\t'"),
        ("a,b,a\n1,2,3\n", 1, "two columns are called 'a'"),
        ('a,b\n1,2\n3,"never closed\n4,5\n', 3, "is no CSV (unexpected end of data); correct its quotes"),
        ('a,b\n1,"x"y\n', 2, "is no CSV"),
    ],
)
def test_a_table_that_cannot_be_read_is_refused_at_its_line(file, content, place, said):
    path = file("x.csv", content)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(f"{path}:{place}: ") and said in str(error.value)


def test_a_cell_of_a_million_characters_is_read(file):
    path = file("x.csv", "a\n" + "x" * 10**6 + "\n")
    assert read(path)[0][1] == {"a": "x" * 10**6}


@pytest.mark.parametrize("form", [pa.ipc.new_stream, pa.ipc.new_file])
def test_both_forms_of_arrow_are_read_row_by_row(tmp_path, form):
    table = pa.Table.from_pylist([{"prompt": f"{n}", "turns": [{"role": "user"}]} for n in range(600)])
    path = tmp_path / "x.arrow"
    with pa.OSFile(str(path), "wb") as out, form(out, table.schema) as writer:
        writer.write_table(table)
    rows = read(path)
    assert len(rows) == 600
    assert rows[599] == (f"{path}:row 600", {"prompt": "599", "turns": [{"role": "user"}]})


@pytest.mark.parametrize("lost", [8, 100])
def test_a_cut_arrow_stream_is_damaged_even_at_the_border_of_a_batch(tmp_path, lost):
    path = tmp_path / "x.arrow"
    table = pa.Table.from_pylist([{"prompt": "a"}])
    with pa.OSFile(str(path), "wb") as out, pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table)
    path.write_bytes(path.read_bytes()[:-lost])
    with pytest.raises(InputError, match=r"x\.arrow: not a readable Arrow file \(its end is missing"):
        read(path)


@pytest.mark.parametrize("name", ["x.ndjson", "x.JSONL", "x.Jsonl.GZ", "x.json.gz"])
def test_other_names_of_json_files(file, name):
    rows = [{"prompt": "a"}, {"prompt": "ü"}]
    text = json.dumps(rows) if ".json." in name else "".join(json.dumps(row) + "\n" for row in rows)
    path = file(name, gzip.compress(text.encode()) if name.lower().endswith("gz") else text)
    assert [row for _, row in read(path)] == rows


def test_a_key_that_stands_twice_is_a_fault_of_its_row(file):
    said = "key 'b' stands twice in one object, so that one of its values would be lost; keep one"
    path = file("x.jsonl", '{"a": 1, "b": {"a": 2}}\n{"a": [{"b": 1, "c": 2, "b": 1}]}\n{"a": 3}\n')
    assert faults(path) == [(f"{path}:1", None), (f"{path}:2", said), (f"{path}:3", None)]
    path = file("x.json", '[{"a": 1}, {"a": {"b": 1, "b": 2}}, {"a": 3}]')
    assert faults(path) == [(f"{path}:row 1", None), (f"{path}:row 2", said), (f"{path}:row 3", None)]


@pytest.mark.parametrize("content", ['[{"a": 1}]', '[\n{"a": 1},\n{"a": 2}\n]'])
def test_a_json_list_under_the_name_of_lines_is_told_the_name(file, content):
    (_, fault), *_ = faults(file("x.jsonl", content))
    assert "to be named .json" in fault


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("x.jsonl", '{"a": 1}'.encode("utf-16"), "is UTF-16 text; convert it with: iconv -f UTF-16 -t UTF-8 {path}"),
        ("x.json", '[{"a": 1}]'.encode("utf-16-le"), "iconv -f UTF-16LE -t UTF-8 {path} > NEW.json"),
        ("x.csv", "a,b".encode("utf-16-be"), "iconv -f UTF-16BE -t UTF-8 {path} > NEW.csv"),
        ("x.jsonl", gzip.compress(b'{"a": 1}', mtime=0), "is packed with gzip; rename it to {path}.gz"),
        ("x.jsonl", b"PAR1\0\0\0", "is a parquet file; rename it"),
        ("x.csv", b"PK\x03\x04\0\0", "is a zip archive; unpack it with: unzip {path}"),
        ("x.zip", b"PK\x03\x04\0\0", "is an archive; unpack it with: unzip {path}"),
        ("x.jsonl.zst", b"\0\0", "packed with zstd; unpack it with: unzstd {path}"),
        (
            "x.TXT",
            b"Hello",
            'plain text, which has no columns; write a .jsonl file with one object a line, such as {{"',
        ),
        ("x.xlsx", b"PK", "a spreadsheet; save it as .csv"),
        ("x.pkl", b"PK", "if you trust it, convert it with: python -c \"import pandas; pandas.read_pickle('{path}')"),
        ("x.parquet.gz", b"PK", "unknown kind of file"),
        ("x.json", b'{"info": 1, "data": [{"a": 1}]}', "rows seem to be under 'data'; write"[:27]),
    ],
)
def test_a_file_of_another_kind_is_told_what_to_do(file, name, content, said):
    path = file(name, content)
    with pytest.raises(InputError) as error:
        read(path)
    assert str(error.value).startswith(str(path)) and said.format(path=path) in str(error.value)


def test_the_command_that_takes_a_list_out_of_an_object_works(file, tmp_path, monkeypatch):
    import subprocess

    path = file("x.json", '{"data": [{"a": "ü"}, {"a": 2}]}')
    with pytest.raises(InputError) as error:
        read(path)
    command = str(error.value).split("with: ")[1]
    subprocess.run(command, shell=True, cwd=tmp_path, check=True)
    assert [row for _, row in read(tmp_path / "NEW.json")] == [{"a": "ü"}, {"a": 2}]


@pytest.mark.parametrize("name", ["x.jsonl", "x.json", "x.csv", "x.tsv", "x.parquet", "x.arrow", "x.jsonl.gz"])
def test_whatever_bytes_a_file_holds_it_is_read_or_refused_with_its_name(file, name, tmp_path):
    dice = random.Random(name)
    good = b'{"a": "x, \\"y\\""}\n{"a": "z"}\n' if "json" in name else b'a,b\n"x\ny",2\n3,4\n'
    for _ in range(150):
        content = bytearray(good if dice.random() < 0.7 else dice.randbytes(dice.randrange(1, 60)))
        for _ in range(dice.randrange(4)):
            content[dice.randrange(len(content))] = dice.randrange(256)
        path = file(name, gzip.compress(content) if name.endswith("gz") and dice.random() < 0.7 else bytes(content))
        try:
            assert all(row.place.startswith(str(path)) for source in open_sources(str(path)) for row in source.read())
        except InputError as error:
            assert str(error).startswith(str(path))


def records(path, kind: str, **changes) -> list[tuple]:
    [source] = open_sources(str(path), **changes)
    return list(read_records(source, kind, Ledger("rows", None), format=None, on_bad_row="stop"))


COLUMNS = "prompt,chosen,rejected,margin\nSay red.,red,blue,{}\n"


@pytest.mark.parametrize("cell, margin", [("0.5", 0.5), (" 2 ", 2.0), ("-1e-1", -0.1), ("", None), (" ", None)])
@pytest.mark.parametrize("suffix", ["csv", "tsv"])
def test_the_cell_of_a_number_is_one(tmp_path, cell, margin, suffix):
    table = COLUMNS.format(cell)
    file = tmp_path / f"a.{suffix}"
    file.write_text(table if suffix == "csv" else table.replace(",", "\t"))
    [(record, _)] = records(file, "comparison")
    assert record.margin == margin and (record.chosen, record.rejected) == ("red", "blue")


@pytest.mark.parametrize(
    "cell, fault", [("much", "a number, found a string ('much')"), ("nan", "a finite number, found nan")]
)
def test_the_cell_of_a_number_that_is_none_is_named_by_its_line(tmp_path, cell, fault):
    (tmp_path / "a.csv").write_text(COLUMNS.format("1") + f"Say one.,one,two,{cell}\n")
    with pytest.raises(InputError, match=re.escape(f"a.csv:3: key 'margin': expected {fault}")):
        records(tmp_path / "a.csv", "comparison")


def test_a_number_under_another_name_and_a_number_in_json_text(tmp_path):
    (tmp_path / "a.csv").write_text(COLUMNS.format("0.5").replace("margin", "gap"))
    [(record, _)] = records(tmp_path / "a.csv", "comparison", field="margin=gap")
    assert record.margin == 0.5
    (tmp_path / "a.jsonl").write_text(json.dumps({"prompt": "a", "chosen": "b", "rejected": "c", "margin": "0.5"}))
    with pytest.raises(InputError, match=r"a.jsonl:1: key 'margin': expected a number, found a string \('0.5'\)"):
        records(tmp_path / "a.jsonl", "comparison")


def test_cells_hold_labels_and_the_lists_of_rankings(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion,label\na,b,1.0\na,c,0\na,d,False\n")
    assert [record.label for record, _ in records(tmp_path / "a.csv", "feedback")] == [True, False, False]
    with (tmp_path / "b.csv").open("w", newline="") as file:
        rows = csv.writer(file)
        rows.writerow(["prompt", "completions", "scores", "reason"])
        rows.writerow(["a", json.dumps(["b", "c"]), "[1, 0.5]", "7"])
    [(record, _)] = records(tmp_path / "b.csv", "ranking")
    assert (record.completions, record.scores, record.columns) == (["b", "c"], [1.0, 0.5], {"reason": "7"})
