"""Paths as people write them: with commas in their names, and links that lead nowhere."""

from pathlib import Path

import pytest

from easyrlhf.config import PPOConfig, SFTConfig
from easyrlhf.data.sources import open_sources
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError
from easyrlhf.files import make_folder
from easyrlhf.models.load import load_config
from easyrlhf.paths import broken_link, split_paths
from easyrlhf.run.claim import check_output_folder
from easyrlhf.userfile import find_function


@pytest.fixture
def place(tmp_path, monkeypatch) -> Path:
    monkeypatch.chdir(tmp_path)
    for name in ("a,b.jsonl", "c.jsonl"):
        (tmp_path / name).write_text('{"prompt": "a"}\n')
    (tmp_path / "f,g").mkdir()
    (tmp_path / "f,g" / "r,s.py").write_text("def score(completions, **_):\n    return [1.0]\n")
    (tmp_path / "dang").symlink_to("nowhere")
    return tmp_path


@pytest.mark.parametrize(
    ("value", "items"),
    [
        (None, ()),
        ("", ()),
        ("x, y ,", ("x", "y")),
        ("a,b.jsonl", ("a,b.jsonl",)),
        ("c.jsonl,a,b.jsonl=0.3, x", ("c.jsonl", "a,b.jsonl=0.3", "x")),
        ("f,g:default@train=2,c.jsonl", ("f,g:default@train=2", "c.jsonl")),
        ("f,g/r,s.py:score,c.py:fn", ("f,g/r,s.py:score", "c.py:fn")),
        ("a,c.jsonl", ("a", "c.jsonl")),
    ],
)
def test_a_comma_in_the_name_of_what_exists_separates_nothing(place, value, items):
    assert split_paths(value) == items


def test_such_files_are_read_wherever_paths_are_listed(place):
    assert [source.name for source in open_sources("c.jsonl,a,b.jsonl=2")] == ["c.jsonl", "a,b.jsonl"]
    assert SFTConfig(train_data=["c.jsonl", "a,b.jsonl"]).train_data == "c.jsonl,a,b.jsonl"
    config = PPOConfig(train_data="c.jsonl", reward_funcs="f,g/r,s.py:score", reward_weights="0.5")
    assert config.reward_weight_values == (0.5,)
    assert find_function("--reward_funcs", split_paths(config.reward_funcs)[0], {})([""]) == [1.0]


def test_a_link_that_leads_nowhere_is_called_one(place):
    assert broken_link("dang") == "is a link to nowhere, which is not there"
    assert broken_link("dang/x.jsonl") == "leads over dang, a link to nowhere, which is not there"
    assert broken_link("c.jsonl") == broken_link("missing") == ""
    says = "is a link to nowhere, which is not there"
    for act in (
        lambda: open_sources("dang"),
        lambda: load_config("dang"),
        lambda: load_tokenizer("dang"),
        lambda: make_folder(Path("dang")),
        lambda: check_output_folder(Path("dang")),
    ):
        with pytest.raises(InputError, match=f"dang: {says}"):
            act()
    (place / "r.py").symlink_to("nowhere")
    with pytest.raises(InputError, match=says):
        find_function("--reward_funcs", "r.py:score", {})


@pytest.mark.parametrize("path", ["c.jsonl", "c.jsonl/below", "new/folder"])
def test_a_folder_that_cannot_be_made_is_refused_in_the_same_words_without_trying(place, path):
    found = []
    for act in (check_output_folder, make_folder):
        try:
            act(Path(path))
            found.append(None)
        except InputError as error:
            found.append(str(error))
    assert found[0] == found[1] and (found[0] is None) == (path == "new/folder")
