"""Reading rows from files: places, encodings, and what is said about broken ones."""

import gzip
import json
from itertools import islice

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError

ROWS = [{"prompt": "a"}, {"prompt": "ü"}]


def read(spec: str) -> list[tuple[str, object]]:
    return [(row.place, row.value) for source in open_sources(str(spec)) for row in source.read()]


def test_lines_keep_their_numbers_over_blank_lines_and_a_byte_order_mark(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'\xef\xbb\xbf{"prompt": "a"}\r\n\n  \n{"prompt": "\xc3\xbc"}')
    assert read(file) == [(f"{file}:1", ROWS[0]), (f"{file}:4", ROWS[1])]


def test_every_kind_of_file_gives_the_same_rows(tmp_path):
    lines = "".join(json.dumps(row) + "\n" for row in ROWS)
    (tmp_path / "a.jsonl").write_text(lines)
    (tmp_path / "b.jsonl.gz").write_bytes(gzip.compress(lines.encode()))
    (tmp_path / "c.json").write_text(json.dumps(ROWS))
    pq.write_table(pa.Table.from_pylist(ROWS), tmp_path / "d.parquet")
    for name, place in [
        ("a.jsonl", "2"),
        ("b.jsonl.gz", "2"),
        ("c.json", "row 2"),
        ("d.parquet", "row 2"),
    ]:
        assert [value for _, value in read(tmp_path / name)] == ROWS
        assert read(tmp_path / name)[1][0] == f"{tmp_path / name}:{place}"


def test_a_folder_is_read_in_order_and_a_packed_file_beside_its_unpacked_form_only_once(tmp_path):
    (tmp_path / "b.jsonl").write_text('{"prompt": "b"}\n')
    (tmp_path / "a.jsonl").write_text('{"prompt": "a"}\n')
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(b'{"prompt": "a"}\n'))
    (tmp_path / "LICENSE").write_text("MIT")
    assert [value["prompt"] for _, value in read(tmp_path)] == ["a", "b"]


def test_a_comma_list_is_read_one_after_the_other(tmp_path, write):
    first, second = write("1.jsonl", [{"prompt": "1"}]), write("2.jsonl", [{"prompt": "2"}])
    assert [value["prompt"] for _, value in read(f"{second}, {first}")] == ["2", "1"]


def test_reading_is_lazy(tmp_path, write):
    path = write("x.jsonl", [{"prompt": "a"}, "broken"])
    rows = open_sources(path)[0].read()
    assert next(rows).value == {"prompt": "a"}
    assert next(rows).fault.startswith("not JSON")


@pytest.mark.parametrize(
    "line, said",
    [
        (b'{"prompt": "a"', "not JSON"),
        (b"hello", "not JSON"),
        (b'{"prompt": "\xff"}', "not UTF-8 (byte 0xff at position 12)"),
        (b'{"prompt": "\\ud83d"}', "half a surrogate pair"),
        (b"[" * 100_000, "not JSON"),
    ],
)
def test_a_broken_line_is_a_row_with_its_place_and_fault(tmp_path, line, said):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b'{"prompt": "a"}\n' + line + b"\n")
    _, row = open_sources(str(file))[0].read()
    assert row.place == f"{file}:2"
    assert said in row.fault


def test_a_whole_surrogate_pair_is_text(tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_text('{"prompt": "\\ud83d\\ude00"}\n')
    (row,) = open_sources(str(file))[0].read()
    assert row.fault is None and row.value == {"prompt": "😀"}


@pytest.mark.parametrize(
    "name, content, said",
    [
        ("x.jsonl", b"", "the file is empty"),
        ("x.json", b'{"prompt": "a"}', "expected one JSON list of rows, found one object with keys prompt"),
        ("x.json", b'{"prompt": "a"}\n{"prompt": "b"}', "to be named .jsonl"),
        ("x.jsonl.gz", b"not packed", "damaged or not gzip"),
        ("x.jsonl.gz", gzip.compress(b'{"prompt": "a"}\n' * 999, mtime=0)[:-20], "damaged or not gzip"),
        ("x.parquet", b"PAR1 broken", "not a readable parquet file"),
        ("x.rows", b"a,b", "unknown kind of file; use one of .jsonl, .ndjson, .json, .csv, .tsv (also packed, as"),
    ],
)
def test_a_file_that_cannot_be_read_is_named_with_the_reason(tmp_path, name, content, said):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(InputError) as error:
        read(tmp_path / name)
    assert str(tmp_path / name) in str(error.value)
    assert said in str(error.value)


@pytest.mark.parametrize("whole, damaged", [(b"prompt", b"prom\xb3t"), (b"caf_", b"caf\xe9")], ids=["name", "value"])
def test_a_parquet_file_whose_texts_are_not_utf8_is_named(tmp_path, whole, damaged):
    pq.write_table(
        pa.Table.from_pylist([{"prompt": "caf_"}]), tmp_path / "x.parquet", compression="none", use_dictionary=False
    )
    content = (tmp_path / "x.parquet").read_bytes()
    (tmp_path / "x.parquet").write_bytes(content.replace(whole, damaged))
    with pytest.raises(InputError, match=r"x\.parquet: not a readable parquet file"):
        read(tmp_path / "x.parquet")


def test_a_missing_file_is_answered_with_the_nearest_name(tmp_path, write):
    write("comparisons.jsonl", ROWS)
    with pytest.raises(InputError, match=r"comparison\.jsonl: no such file.*did you mean .*comparisons\.jsonl"):
        open_sources(str(tmp_path / "comparison.jsonl"))
    with pytest.raises(InputError, match="there is no folder"):
        open_sources(str(tmp_path / "nowhere" / "x.jsonl"))


def test_a_folder_without_data_and_a_folder_with_train_and_test_are_refused(tmp_path):
    with pytest.raises(InputError, match="holds no data file"):
        open_sources(str(tmp_path))
    for split in ("train", "test"):
        (tmp_path / f"{split}.jsonl").write_text('{"prompt": "a"}\n')
    with pytest.raises(InputError, match=r"several splits \(test, train\); choose one as .*@train, or name"):
        open_sources(str(tmp_path))


def test_shards_of_one_split_are_read_together(tmp_path):
    for shard in (1, 2):
        (tmp_path / f"train-0000{shard}.jsonl").write_text(json.dumps({"prompt": str(shard)}))
    assert [value["prompt"] for _, value in read(tmp_path)] == ["1", "2"]


def test_a_hub_id_that_cannot_be_reached_is_answered_at_once(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"someone/something@train: .*cannot be reached.*path of a file"):
        open_sources("someone/something@train")


def test_a_misspelled_folder_that_could_be_a_hub_id_is_answered_with_the_nearest_name(monkeypatch, tmp_path):
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data" / "toy").mkdir(parents=True)
    with pytest.raises(InputError, match=r"data/toi: .*did you mean data/toy\?"):
        open_sources("data/toi")


def test_a_hub_id_is_split_into_name_config_and_split(monkeypatch):
    asked = {}

    def load_dataset(name, config, split, **_):
        asked.update(name=name, config=config, split=split)
        return ROWS

    monkeypatch.setattr("easyrlhf.data.hub.require_hub", lambda *_: None)
    monkeypatch.setattr("datasets.load_dataset", load_dataset)
    assert read("a/b:c@test[:5]") == [
        ("a/b:c@test[:5]:row 1", ROWS[0]),
        ("a/b:c@test[:5]:row 2", ROWS[1]),
    ]
    assert asked == {"name": "a/b", "config": "c", "split": "test[:5]"}
    read("a/b")
    assert asked == {"name": "a/b", "config": None, "split": "train"}


def test_nothing_at_all_is_not_a_source():
    with pytest.raises(InputError, match="names no file"):
        open_sources(" , ")


@pytest.mark.parametrize(
    "weight, first_20, of_1000",
    [
        ("0.3", 6, 300),
        ("0.29", 5, 290),  # 5.8 of 20: what is left over goes to the next 20
        ("0.01", 0, 10),
        ("1", 20, 1000),
        ("2", 40, 2000),
        ("2.5", 50, 2500),
        (".5", 10, 500),
    ],
)
def test_a_weight_takes_its_share_of_every_twenty_rows(write, weight, first_20, of_1000):
    path = write("x.jsonl", ROWS)
    (source,) = open_sources(f"{path}={weight}")
    assert source.name == path
    copies = list(islice(source.copies(seed=1), 1000))
    assert (sum(copies[:20]), sum(copies)) == (first_20, of_1000)
    assert set(copies) <= {int(float(weight)), int(float(weight)) + 1}


def test_the_rows_that_a_weight_takes_are_decided_by_the_seed(write):
    (source,) = open_sources(write("x.jsonl", ROWS) + "=0.5")
    one, again, other = (list(islice(source.copies(seed), 200)) for seed in (1, 1, 2))
    assert one == again != other
    assert one[:20] != one[20:40]  # not every second row


def test_an_equals_sign_belongs_to_a_path_that_exists_and_to_what_no_number_follows(tmp_path, write, monkeypatch):
    monkeypatch.setattr("easyrlhf.data.hub.require_hub", lambda *_: None)
    monkeypatch.setattr("datasets.load_dataset", lambda *_, **__: ROWS)
    path = write("lr=0.1", [])
    (tmp_path / "lr=0.1").unlink()
    (tmp_path / "lr=0.1").mkdir()
    (tmp_path / "lr=0.1" / "rows=2.jsonl").write_text('{"prompt": "a"}\n')
    file = f"{path}/rows=2.jsonl"
    spec = f"{path},{path}=0.5,{file},{file}=3,a/b=0.25,a/b@train[:5%]=4"
    assert [(one.name, one.weight) for one in open_sources(spec)] == [
        (file, 1),
        (file, 0.5),
        (file, 1),
        (file, 3),
        ("a/b", 0.25),
        ("a/b@train[:5%]", 4),
    ]
    with pytest.raises(InputError, match=r"rows=3\.jsonl: no such file"):
        open_sources(f"{path}/rows=3.jsonl")


@pytest.mark.parametrize("weight", ["0", "-1", "nan", "inf", "half", ""])
def test_a_weight_that_is_no_number_above_0_is_refused(write, weight):
    path = write("x.jsonl", ROWS)
    with pytest.raises(InputError, match=rf"=.*: the weight '{weight}' is no number above 0; write .*x\.jsonl=0\.3"):
        open_sources(f"{path}={weight}")
