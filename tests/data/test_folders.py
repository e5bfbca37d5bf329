"""Folders: splits, shards, subfolders, and the forms in which `datasets` and the hub leave their data sets."""

import gzip
import json

import datasets
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.sources import open_sources
from easyrlhf.errors import InputError

CARD = """---
configs:
- config_name: main
  data_files:
  - split: train
    path: main/a-*
  - split: test
    path: [main/b.jsonl]
- config_name: other
  default: true
  data_files: "other/*.jsonl"
---
# A data set
"""


def prompts(spec) -> list[str]:
    return [row.value["prompt"] for source in open_sources(str(spec)) for row in source.read()]


@pytest.fixture
def files(tmp_path):
    """files(name, …) -> tmp_path, in which each file holds one row, whose prompt is the file's name."""

    def _files(*names: str):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            if name.endswith(".parquet"):
                pq.write_table(pa.Table.from_pylist([{"prompt": name}]), path)
            else:
                line = json.dumps({"prompt": name}) + "\n"
                path.write_bytes(gzip.compress(line.encode()) if name.endswith(".gz") else line.encode())
        return tmp_path

    return _files


def refusal(spec) -> str:
    with pytest.raises(InputError) as error:
        open_sources(str(spec))
    return str(error.value)


@pytest.fixture
def rows():
    datasets.disable_progress_bars()
    yield datasets.Dataset.from_list([{"prompt": "a"}, {"prompt": "b"}, {"prompt": "c"}])
    datasets.enable_progress_bars()


def test_what_save_to_disk_wrote_is_read_in_the_order_of_its_shards(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved", num_shards=2)
    (tmp_path / "saved" / "cache-12.arrow").write_bytes(b"what map left")
    places = [(row.place, row.value) for one in open_sources(f"{tmp_path}/saved") for row in one.read()]
    shard = f"{tmp_path}/saved/data-0000{{}}-of-00002.arrow:row {{}}"
    assert places == [
        (shard.format(0, 1), {"prompt": "a"}),
        (shard.format(0, 2), {"prompt": "b"}),
        (shard.format(1, 1), {"prompt": "c"}),
    ]
    (tmp_path / "saved" / "data-00001-of-00002.arrow").unlink()
    assert "data-00001-of-00002.arrow: is missing, but state.json beside it names it" in refusal(tmp_path / "saved")


def test_a_split_of_a_saved_dict_is_chosen_by_its_name(rows, tmp_path):
    saved = {"train_prefs": rows, "other": rows.select([1])}
    datasets.DatasetDict(saved).save_to_disk(tmp_path / "dict")
    assert f"holds several splits (other, train_prefs); choose one as {tmp_path}/dict@other" in refusal(
        tmp_path / "dict"
    )
    assert prompts(f"{tmp_path}/dict@train_prefs") == ["a", "b", "c"]
    assert prompts(f"{tmp_path}/dict@other=0.5") == ["b"]
    assert "no such split; the folder holds other, train_prefs" in refusal(f"{tmp_path}/dict@test")
    datasets.DatasetDict(only=rows).save_to_disk(tmp_path / "one")
    assert prompts(tmp_path / "one") == ["a", "b", "c"]


def test_a_folder_of_the_hub_as_it_is_downloaded(files):
    train = [f"data/train-0000{n}-of-00002.parquet" for n in range(2)]
    folder = files(*train, ".cache/huggingface/x.jsonl", ".gitattributes")
    (folder / "README.md").write_text("---\nlicense: mit\n---\n")
    (folder / "dataset_infos.json").write_text("{}")
    assert prompts(folder) == train
    test = files("data/test-00000-of-00001-0a1b2c.parquet")
    assert f"several splits (test, train); choose one as {folder}@train" in refusal(test)
    assert prompts(f"{folder}@train") == train
    assert prompts(f"{folder}/data@test") == ["data/test-00000-of-00001-0a1b2c.parquet"]
    (folder / train[0]).unlink()
    assert "1 of 2 shards of train are missing: train-00000-of-00002.parquet; fetch them" in refusal(f"{folder}@train")


@pytest.mark.parametrize(
    "names, splits",
    [
        (["train_sft-00000-of-00001.parquet", "train_gen-00000-of-00001.parquet"], "train_gen, train_sft"),
        (["train/a.jsonl", "test/a.jsonl"], "test, train"),
        (["one/train.jsonl", "two/Train.jsonl", "one/heldout.jsonl"], "heldout, train"),
        (["x-train-00000-of-00001.arrow", "x-test-00000-of-00001.arrow"], "x-test, x-train"),
    ],
)
def test_splits_are_told_by_files_and_folders(files, names, splits):
    assert f"holds several splits ({splits})" in refusal(files(*names))


def test_a_split_may_be_the_name_of_a_file(files):
    folder = files("train_prefs.jsonl", "train_sft.jsonl", "test_prefs.jsonl.gz")
    assert prompts(f"{folder}@train_prefs") == ["train_prefs.jsonl"]
    assert prompts(f"{folder}@test") == ["test_prefs.jsonl.gz"]
    assert prompts(f"{folder}@train") == ["train_prefs.jsonl", "train_sft.jsonl"]


def test_subfolders_are_read_and_what_is_left_out_is_said(files, tmp_path):
    files("a.jsonl", "sub/rows.jsonl", "sub/deep/x.csv.zip", "notes.txt", "LICENSE")
    sources = open_sources(str(tmp_path))
    assert prompts(tmp_path) == ["a.jsonl", "sub/rows.jsonl"]
    ledger = Ledger("train", tmp_path / "bad_rows.jsonl")
    for source in sources:
        assert len(list(read_records(source, "prompt", ledger, format=None, on_bad_row="stop"))) == 1
    assert ledger.summary("").lines()[1:] == [
        f"train: 2 of the files in {tmp_path} left out, being of another kind: notes.txt, sub/deep/x.csv.zip",
        f"train: 1 of the files in {tmp_path} read from its subfolders: sub",
    ]
    (tmp_path / "empty").mkdir()
    assert "holds no data file (.jsonl" in refusal(tmp_path / "empty")


def test_the_cache_of_datasets_is_read_without_what_map_left_there(rows, tmp_path):
    rows.save_to_disk(tmp_path / "saved")
    (tmp_path / "saved" / "data-00000-of-00001.arrow").rename(tmp_path / "some-train.arrow")
    for name in ("cache-0123456789abcdef.arrow", "cache-0123456789abcdef_00000_of_00002.arrow"):
        (tmp_path / name).write_bytes(b"")
    (tmp_path / "dataset_info.json").write_text("{}")
    for file in (tmp_path / "saved").iterdir():
        file.unlink()
    assert prompts(tmp_path) == ["a", "b", "c"]


def test_a_shard_without_rows_is_passed_over(files):
    names = [f"train-0000{n}-of-00003.parquet" for n in range(3)]
    folder = files(*names)
    pq.write_table(pq.read_table(folder / names[1]).slice(0, 0), folder / names[1])
    assert prompts(folder) == [names[0], names[2]]
    assert len(open_sources(str(folder))) == 2
    (source,) = open_sources(str(folder / names[1]))
    assert list(source.read()) == []


def test_a_folder_that_holds_archives_alone_names_them(files, tmp_path):
    files("x.zip", "y.tar.gz")
    assert refusal(tmp_path).endswith("; it holds x.zip, y.tar.gz")


def test_links_to_folders_are_followed_once(files, tmp_path):
    folder = files("real/a.jsonl", "top/b.jsonl") / "top"
    (folder / "linked").symlink_to(tmp_path / "real")
    (folder / "round").symlink_to(folder)
    assert prompts(folder) == ["top/b.jsonl", "real/a.jsonl"]


def test_configurations_that_the_readme_declares_are_chosen_by_name(files):
    folder = files("main/a-1.jsonl", "main/b.jsonl", "other/c.jsonl", "extra.jsonl")
    (folder / "README.md").write_text(CARD)
    assert f"holds several configurations (main, other); choose one as {folder}:main" in refusal(folder)
    assert prompts(f"{folder}:main@train") == ["main/a-1.jsonl"]
    assert prompts(f"{folder}:main@test=2") == ["main/b.jsonl"]
    assert prompts(f"{folder}:other") == ["other/c.jsonl"]
    assert "several splits (test, train)" in refusal(f"{folder}:main")
    assert "no such configuration; the folder's README.md declares main, other" in refusal(f"{folder}:third")
    (source,) = open_sources(f"{folder}:other")
    assert source.notes[f"of the files in {folder} left out, as its README.md does not name them: extra.jsonl"] == 1


@pytest.mark.parametrize("name", ["a@b", "a:b", "a@b:c"])
def test_signs_in_the_name_of_a_folder_belong_to_it(files, name):
    folder = files(f"{name}/train.jsonl", f"{name}/test.jsonl")
    assert prompts(f"{folder}/{name}@test") == [f"{name}/test.jsonl"]
    assert prompts(f"{folder}/{name}/train.jsonl") == [f"{name}/train.jsonl"]


def test_a_split_of_a_file_is_refused(files):
    folder = files("a.jsonl")
    assert "a split (@) can be chosen of a folder or a hub data set, not of a file" in refusal(folder / "a.jsonl@train")


def test_a_cut_shard_is_named(files):
    folder = files("train-00000-of-00002.parquet", "train-00001-of-00002.parquet")
    cut = folder / "train-00001-of-00002.parquet"
    cut.write_bytes(cut.read_bytes()[:100])
    with pytest.raises(InputError, match=r"train-00001-of-00002\.parquet: not a readable parquet file"):
        prompts(folder)
