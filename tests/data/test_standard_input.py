"""Rows from standard input: read as those of a file, and refused where a run would need them again."""

import gzip
import json
import os
from pathlib import Path

import pytest
from click.testing import CliRunner

from easyrlhf.cli.main import main
from easyrlhf.config import PPOConfig, SFTConfig
from easyrlhf.errors import SettingError

ROWS = [{"prompt": "Say red.", "completion": "red"}, {"prompt": "Say blue.", "completion": "blue"}]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()


def run(*words: str, stdin: bytes, code: int = 0):
    done = CliRunner().invoke(main, list(words), input=stdin)
    assert done.exit_code == code, done.output
    return done


@pytest.mark.parametrize(
    "content",
    [LINES, gzip.compress(LINES), json.dumps(ROWS).encode(), b"\xef\xbb\xbf" + LINES],
    ids=["lines", "packed", "list", "marked"],  # of their own: packed bytes hold the time
)
@pytest.mark.parametrize("name", ["-", "/dev/stdin"])
def test_rows_are_converted_as_those_of_a_file(tmp_path, content, name):
    run("data", "convert", name, "--output", str(tmp_path / "out.jsonl"), stdin=content)
    assert [json.loads(line) for line in (tmp_path / "out.jsonl").read_text().splitlines()] == ROWS


def test_they_are_checked_and_split_and_join_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("more.jsonl").write_bytes(LINES)
    done = run("data", "check", "-", "more.jsonl", "--stage", "sft", stdin=LINES)
    assert "train: 4 rows read = 4 usable + 0 dropped" in done.stdout
    assert "standard input:1" in done.output and "more.jsonl:1" in done.output
    run("data", "split", "-", "--output_dir", ".", "--valid", "0.5", stdin=LINES)
    assert sorted(Path("train.jsonl").read_text() + Path("valid.jsonl").read_text()) == sorted(LINES.decode())


@pytest.mark.parametrize(
    "stdin, message",
    [
        (b'{"prompt": "a", "completion": "b"}\n\xff{}\n', "standard input:2: not UTF-8 (byte 0xff at position 0)"),
        (
            b"prompt,completion\na,b\n",
            "standard input: begins with 'prompt,completion'; expected one JSON object a line",
        ),
        (b" \n", "standard input: is empty; pipe rows into the command"),
    ],
)
def test_faults_have_their_places(tmp_path, stdin, message):
    done = run("data", "convert", "-", "--output", str(tmp_path / "out.jsonl"), stdin=stdin, code=2)
    assert done.stderr.removeprefix("reading - …\n").startswith(f"error: {message}")


def test_a_stage_asks_for_a_file():
    for given in ({"train_data": "-"}, {"train_data": "a.jsonl,/dev/stdin"}, {"train_data": "a", "valid_data": "-"}):
        with pytest.raises(SettingError, match=r"(-|stdin): a run reads its rows again when it continues"):
            SFTConfig(**given)
    with pytest.raises(SettingError, match=r"^ptx_data -: a run reads"):
        PPOConfig(train_data="a", reward_model="b", ptx_data="-", ptx_coef=1)


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="this system has no named pipes")
def test_a_named_pipe_is_told_from_a_missing_file(tmp_path):
    os.mkfifo(tmp_path / "pipe.jsonl")
    done = run("data", "check", str(tmp_path / "pipe.jsonl"), "--stage", "sft", stdin=b"", code=2)
    assert "pipe.jsonl: is a pipe or a device, and rows are read more than once; pipe them in and name -" in done.stderr
