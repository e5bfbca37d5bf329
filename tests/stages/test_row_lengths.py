"""Lengths that are not given follow from the model and from one another; what is dropped or cut is said."""

import json
import shutil

import pytest
import yaml

from easyrlhf.config import SFTConfig
from easyrlhf.errors import InputError, SettingError
from easyrlhf.stages.lifecycle import settled
from easyrlhf.stages.sft import train_sft
from tests.stages.conftest import answer, question, write_rows


@pytest.fixture
def short_model(chain, tmp_path) -> str:
    """A copy of the new model that says it was made for 96 tokens."""
    folder = shutil.copytree(chain.init, tmp_path / "short")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"max_position_embeddings": 96}))
    (folder / "stage.json").unlink()  # it has the checksum of the file that was changed
    return str(folder)


def dry(model: str, data: str, tmp_path, **given) -> None:
    train_sft(
        SFTConfig(model=model, train_data=data, output_dir=str(tmp_path / "out"), devices="cpu", dry_run=True, **given)
    )


def test_a_length_that_is_not_given_is_what_the_model_was_made_for(short_model, data, tmp_path, capsys):
    dry(short_model, data.sft, tmp_path)
    said = capsys.readouterr().out
    assert f"rows of up to 96 tokens, for which {short_model} was made" in said
    assert "max_length: 96" in said and "max_prompt_length: 48" in said
    with pytest.raises(InputError, match=r"--max_length 97: .* was made for 96 tokens at most"):
        dry(short_model, data.sft, tmp_path, max_length=97)


def test_many_long_rows_stop_a_run_unless_it_was_told_to_drop_them(chain, tmp_path, capsys):
    long = [{"messages": [question("cat " * 40 * (n % 2)), answer("cat.")]} for n in range(20)]
    rows = write_rows(tmp_path / "rows.jsonl", long)
    with pytest.raises(
        InputError, match=r"10 of 20 rows \(50%\) are too long .* or drop them all with --overlength drop"
    ):
        dry(chain.init, rows, tmp_path, max_length=100)
    dry(chain.init, rows, tmp_path, max_length=100, overlength="drop")
    said = capsys.readouterr().out
    assert "train: 20 rows read = 10 used + 10 dropped (10 over length)" in said
    assert "train: 10 rows dropped as too long, which are 50% of all" in said
    dry(chain.init, rows, tmp_path, max_length=100, overlength="truncate")
    assert "train: 10 rows cut from the left by --overlength truncate, one to" in capsys.readouterr().out


def begun(tmp_path, **then) -> None:
    """The settings of a run that began earlier."""
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "args.yaml").write_text(yaml.safe_dump(then))


def lengths(tmp_path, **given) -> tuple:
    config = settled(SFTConfig(model="m", train_data="a", output_dir=str(tmp_path / "out"), **given))
    return config.max_length, config.max_prompt_length, config.overlength


def test_a_run_goes_on_with_the_lengths_it_began_with(tmp_path):
    begun(tmp_path, max_length=2048, max_prompt_length=512, overlength="drop", seed=42)
    assert lengths(tmp_path) == (2048, 512, "drop")
    assert lengths(tmp_path, max_length=2048) == (2048, 512, "drop")
    assert lengths(tmp_path, max_length=2048, overlength="drop") == (2048, 512, "drop")
    assert lengths(tmp_path, max_length=400) == (400, 200, None)  # another run: the folder will refuse it
    assert lengths(tmp_path, overlength="truncate") == (1024, 512, "truncate")
    assert lengths(tmp_path, max_length=2048, overwrite=True) == (2048, 1024, None)


@pytest.mark.parametrize("content", ["{", "- a", "a: 1"])
def test_a_file_of_settings_that_says_nothing_of_lengths_changes_nothing(tmp_path, content):
    begun(tmp_path)
    (tmp_path / "out" / "args.yaml").write_text(content)
    assert lengths(tmp_path) == (1024, 512, None)
    with pytest.raises(SettingError, match="max_prompt_length 1024: must be less than max_length 1024"):
        lengths(tmp_path, max_prompt_length=1024)
