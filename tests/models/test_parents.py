"""Where what a folder was made from lies now, and whether it is still that."""

import json
import os
import shutil
import zlib
from pathlib import Path

import pytest

from easyrlhf.errors import InputError
from easyrlhf.models.parents import base_of, changed_files, contents_of, possible_places, same_contents
from easyrlhf.run.manifest import write_stage


def model(folder: Path, weights: str = "w") -> Path:
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_text(weights)
    return folder


def adapter(folder: Path, base: str) -> Path:
    folder.mkdir(parents=True)
    (folder / "adapter_config.json").write_text(json.dumps({"base_model_name_or_path": base, "r": 4}))
    (folder / "adapter_model.safetensors").write_text("a")
    return folder


def run_of(folder: Path, sft: Path) -> Path:
    """The folder of a LoRA run that was trained on a model, with the account that it keeps; returns its adapter."""
    made = adapter(folder / "adapter", str(sft))
    write_stage(folder, {"stage": "dpo", "status": "stopped", "inputs": {"model": contents_of(sft)}})
    return made


@pytest.fixture
def outputs(tmp_path, monkeypatch) -> Path:
    """A folder outputs/ with a model, in a working directory."""
    (tmp_path / "then").mkdir()
    monkeypatch.chdir(tmp_path / "then")
    model(Path("outputs/sft"))
    return tmp_path / "then" / "outputs"


def test_contents_are_the_bytes_of_the_files_that_make_a_model(outputs):
    (outputs / "sft" / "README.md").write_text("not of it")
    assert contents_of(outputs / "sft") == {
        "config.json": f"{zlib.crc32(b'{}'):08x}",
        "model.safetensors": f"{zlib.crc32(b'w'):08x}",
    }
    assert contents_of("nothing/here") is None


def test_checksums_that_a_stage_has_listed_hold_until_a_file_is_written(outputs):
    write_stage(outputs / "sft", {"stage": "sft", "status": "complete"})
    stage = json.loads((outputs / "sft" / "stage.json").read_text())
    stage["files"]["model.safetensors"] = "as listed"
    (outputs / "sft" / "stage.json").write_text(json.dumps(stage))
    assert contents_of(outputs / "sft")["model.safetensors"] == "as listed"
    (outputs / "sft" / "model.safetensors").write_text("v")
    later = (outputs / "sft" / "stage.json").stat().st_mtime_ns + 10**9
    os.utime(outputs / "sft" / "model.safetensors", ns=(later, later))
    assert contents_of(outputs / "sft")["model.safetensors"] == f"{zlib.crc32(b'v'):08x}"


def test_an_adapter_is_known_with_its_base_and_not_by_where_that_lies(outputs):
    one = contents_of(adapter(outputs / "one", str(outputs / "sft")))
    shutil.copytree("outputs/sft", "outputs/copy")
    assert contents_of(adapter(outputs / "two", "../copy")) == one
    (outputs / "copy" / "model.safetensors").write_text("other")
    assert changed_files(one, contents_of(outputs / "two")) == "base/model.safetensors is not the same"


def test_files_that_were_not_asked_for_make_no_other_model(outputs):
    one = {"config.json": "1", "model.safetensors": "2", "merges.txt": "3"}
    assert same_contents(one, {"config.json": "1", "model.safetensors": "2"})
    assert not same_contents(one, one | {"merges.txt": "4"})
    assert not same_contents(one, {"config.json": "1", "merges.txt": "3"})
    assert same_contents(one | {"base/model.safetensors": "5"}, one)  # a base that is not in the cache yet
    assert not same_contents(one | {"base/model.safetensors": "5"}, one | {"base/model.safetensors": "6"})
    assert not same_contents(None, None)
    (outputs / "cache").mkdir()
    (outputs / "cache" / "config.json").write_text("{}")
    assert contents_of(outputs / "cache") is None


def test_a_model_of_the_hub_is_known_by_what_the_cache_has(outputs, tmp_path, monkeypatch):
    found = tmp_path / "hub" / "models--o--n" / "snapshots" / "abc" / "config.json"
    shutil.copytree(outputs / "sft", found.parent)
    monkeypatch.setattr(
        "huggingface_hub.try_to_load_from_cache", lambda path, name: str(found) if path == "o/n" else None
    )
    assert contents_of("o/n") == contents_of(outputs / "sft")
    assert contents_of("o/m") is None


def test_a_relative_base_is_found_from_every_working_directory(outputs, tmp_path, monkeypatch):
    made = adapter(outputs / "dpo" / "adapter", "outputs/sft")
    assert base_of(str(made)) == "outputs/sft"
    monkeypatch.chdir(tmp_path)
    assert base_of(str(made)) == str(outputs / "sft")
    (tmp_path / "link").symlink_to(made)
    assert base_of("link") == str(outputs / "sft")


def test_everything_may_have_moved_together(outputs, tmp_path, monkeypatch):
    made = run_of(outputs / "dpo", outputs / "sft")
    assert base_of(str(made)) == str(outputs / "sft")
    outputs.rename(tmp_path / "now")
    monkeypatch.chdir("/")
    assert base_of(str(tmp_path / "now" / "dpo" / "adapter")) == str(tmp_path / "now" / "sft")


def test_of_several_places_the_one_of_the_same_bytes_is_taken(outputs, tmp_path, monkeypatch):
    run_of(outputs / "dpo", Path("outputs/sft"))
    (tmp_path / "else").mkdir()
    monkeypatch.chdir(tmp_path / "else")
    model(Path("outputs/sft"), "another")  # as it is written, from here
    assert base_of(str(outputs / "dpo" / "adapter")) == str(outputs / "sft")


def test_a_base_that_was_trained_again_is_another_model(outputs):
    made = run_of(outputs / "dpo", outputs / "sft")
    (outputs / "sft" / "model.safetensors").write_text("again")
    with pytest.raises(InputError) as caught:
        base_of(str(made))
    assert f"{outputs / 'sft'}: another model: model.safetensors is not the same" in str(caught.value)


def test_an_absolute_base_may_end_with_a_slash_or_begin_at_home(outputs, tmp_path, monkeypatch):
    assert Path(base_of(str(adapter(outputs / "one", f"{outputs}/sft/")))) == outputs / "sft"
    monkeypatch.setenv("HOME", str(outputs))
    assert base_of(str(adapter(outputs / "two", "~/sft"))) == str(outputs / "sft")


def test_without_an_account_nothing_is_guessed_and_every_place_is_named(outputs, tmp_path):
    made = adapter(outputs / "dpo" / "adapter", "/gone/outputs/sft")
    with pytest.raises(InputError) as caught:
        base_of(str(made))
    text = str(caught.value)
    for place in ("/gone/outputs/sft: no model", f"{outputs / 'sft'}: a model, which may be another one"):
        assert f"\n  {place}\n" in text
    assert text.endswith(f"write its folder at base_model_name_or_path in {made / 'adapter_config.json'}")
    assert "again" not in text


def test_a_hub_id_stays_one(outputs):
    assert base_of(str(adapter(outputs / "of_hub", "Qwen/Qwen2.5-0.5B"))) == "Qwen/Qwen2.5-0.5B"
    with pytest.raises(InputError, match="cannot be found"):
        base_of(str(adapter(outputs / "of_typo", "outputs/sfx")))


def test_places_are_as_written_then_from_each_folder_above(tmp_path):
    home = tmp_path / "a" / "b"
    home.mkdir(parents=True)
    found = possible_places("x/y", home)
    assert found[:4] == [Path("x/y"), home / "x/y", tmp_path / "a" / "x/y", tmp_path / "x/y"]
    assert possible_places("/o/x/y", home)[:3] == [Path("/o/x/y"), home / "x/y", home / "y"]
    assert os.sep not in str(possible_places("x", home)[0])
