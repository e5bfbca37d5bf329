"""easyrlhf data split: rows as they were, by prompt, the same files again; and what is refused."""

import json
from collections import Counter
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from click.testing import CliRunner

from easyrlhf.cli.main import main
from easyrlhf.config import CheckConfig
from easyrlhf.errors import InputError
from easyrlhf.tools.checking.check import print_check
from easyrlhf.tools.split import split_data


@pytest.fixture
def rows(tmp_path) -> str:
    """Alpaca rows: 30 questions, two answers each, one row without an answer."""
    rows = [{"instruction": f"Say {n}.", "output": f"{n}{mark}", "id": n} for n in range(30) for mark in "!?"]
    path = tmp_path / "rows.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in [*rows, {"instruction": "Hm", "output": ""}]))
    return str(path)


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_rows_are_written_as_they_were_and_no_prompt_twice(rows, tmp_path, capsys):
    summary = split_data(rows, tmp_path / "out", valid=0.1, on_bad_row="skip")
    train, valid = lines(tmp_path / "out" / "train.jsonl"), lines(tmp_path / "out" / "valid.jsonl")
    assert (len(train), len(valid)) == (54, 6)
    assert Counter(map(json.dumps, train + valid)) == Counter(map(json.dumps, lines(Path(rows))[:60]))
    assert {row["id"] for row in train} & {row["id"] for row in valid} == set()
    assert [row["id"] for row in train] == sorted(row["id"] for row in train)
    assert (summary.read, summary.used, summary.dropped) == (61, 60, {"empty completion": 1})
    assert lines(tmp_path / "out" / "bad_rows.jsonl")[0]["row"] == {"instruction": "Hm", "output": ""}
    assert capsys.readouterr().out.splitlines()[1:] == [
        f"{tmp_path}/out/train.jsonl: 54 rows",
        f"{tmp_path}/out/valid.jsonl: 6 rows",
        "held out: 10.0% of the rows, all of 3 prompts (seed 42)",
    ]
    files = {"train_data": f"{tmp_path}/out/train.jsonl", "valid_data": f"{tmp_path}/out/valid.jsonl"}
    assert "leaked_prompts" not in {one.check for one in print_check(CheckConfig(stage="sft", **files))}


def test_the_same_command_writes_the_same_files(rows, tmp_path):
    for name, seed in (("a", 7), ("b", 7), ("c", 8)):
        split_data(rows, tmp_path / name, valid=0.1, seed=seed, on_bad_row="skip")
    a, b, c = ((tmp_path / name / "valid.jsonl").read_bytes() for name in "abc")
    assert a == b != c


def test_a_prompt_of_several_files_and_formats_is_on_one_side(rows, tmp_path):
    pairs = [{"prompt": f"Say {n}.", "chosen": "a", "rejected": "b"} for n in range(30)]
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "pairs.parquet")
    split_data(f"{rows},{tmp_path}/pairs.parquet", tmp_path / "out", valid=0.2, on_bad_row="skip")
    found = {path.relative_to(tmp_path / "out"): lines(path) for path in (tmp_path / "out").glob("*/*.jsonl")}
    assert {str(path): len(rows) for path, rows in found.items()} == {
        "train/alpaca.jsonl": 48,
        "train/preference_standard.jsonl": 24,
        "valid/alpaca.jsonl": 12,
        "valid/preference_standard.jsonl": 6,
    }
    asked = {side: set() for side in ("train", "valid")}
    for path, content in found.items():
        asked[path.parts[0]] |= {row.get("instruction") or row["prompt"] for row in content}
    assert asked["train"] & asked["valid"] == set()


def test_what_the_output_would_cost_is_refused(rows, tmp_path):
    how = {"valid": 0.1, "on_bad_row": "skip"}
    split_data(rows, tmp_path / "out", **how)
    with pytest.raises(InputError, match=r"train\.jsonl is there already; give another folder, or --overwrite"):
        split_data(rows, tmp_path / "out", **how)
    split_data(rows, tmp_path / "out", overwrite=True, **how)
    with pytest.raises(InputError, match=r"rows\.jsonl lies there; give another folder"):
        split_data(rows, tmp_path, **how)
    with pytest.raises(InputError, match=r"rows\.jsonl=0\.5: every row is written once"):
        split_data(f"{rows}=0.5", tmp_path / "new", **how)
    with pytest.raises(InputError, match=r"1 of 61 rows .* have such faults|rows\.jsonl:61"):
        split_data(rows, tmp_path / "new", valid=0.1)
    assert not (tmp_path / "new").exists()


@pytest.mark.parametrize("share", ["0", "1", "-0.1", "nan", "5"])
def test_a_share_outside_of_0_and_1_is_refused(rows, tmp_path, share):
    done = CliRunner().invoke(main, ["data", "split", rows, "--valid", share, "--output_dir", str(tmp_path / "out")])
    assert done.exit_code == 2
    assert "must be a share of the rows between 0 and 1, such as 0.05" in done.output
