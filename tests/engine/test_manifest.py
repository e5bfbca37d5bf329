"""stage.json: what is written down of a folder, and what is refused when the folder has changed since."""

import json
import zlib

import pytest

from easyrlhf.errors import InputError
from easyrlhf.run.manifest import read_stage, require_whole, write_stage


@pytest.fixture
def folder(tmp_path):
    """A complete stage's folder with four small files, three of which make the model."""
    for name, content in {
        "config.json": b'{"hidden_size": 8}',
        "tokenizer.json": b"123456789",
        "model.safetensors": b"\x00" * 5000,
        "metrics.jsonl": b"{}\n",
    }.items():
        (tmp_path / name).write_bytes(content)
    write_stage(tmp_path, {"stage": "sft", "status": "complete"})
    return tmp_path


def test_the_files_that_make_the_model_are_listed_with_their_crc(folder):
    files = read_stage(folder)["files"]
    assert files == {name: f"{zlib.crc32((folder / name).read_bytes()):08x}" for name in files}
    assert set(files) == {"config.json", "tokenizer.json", "model.safetensors"}
    assert files["tokenizer.json"] == "cbf43926"  # the check value of CRC-32


def test_a_whole_folder_is_taken_and_one_without_a_manifest_too(folder, tmp_path):
    (folder / "metrics.jsonl").write_text("changed")
    require_whole("--model", str(folder))
    require_whole("--model", str(tmp_path / "none"))
    require_whole("--model", "Qwen/Qwen2.5-0.5B")


def test_a_single_flipped_bit_is_noticed(folder):
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[4321] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    with pytest.raises(InputError, match=r"model.safetensors: is not the file that the stage wrote .*'files'"):
        require_whole("--model", str(folder))


def test_the_way_out_that_the_message_names_works(folder):
    (folder / "config.json").write_text('{"hidden_size": 16}')
    info = json.loads((folder / "stage.json").read_text())
    del info["files"]["config.json"]
    (folder / "stage.json").write_text(json.dumps(info))
    require_whole("--model", str(folder))


def test_a_missing_file_is_named(folder):
    (folder / "tokenizer.json").unlink()
    with pytest.raises(InputError, match=r"--ref_model .*tokenizer.json: is missing"):
        require_whole("--ref_model", str(folder))


def test_an_unfinished_stage_is_refused_unless_allowed(folder):
    write_stage(folder, {"stage": "sft", "status": "stopped"})
    assert "files" not in read_stage(folder)
    begins = (
        rf"its sft run is not complete \(status stopped\)\. {{}}sft_train --config {folder}/args.yaml goes on with it"
    )
    with pytest.raises(
        InputError, match=begins.format("It has saved no step; ") + "; --allow_incomplete takes the model"
    ):
        require_whole("--model", str(folder))
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=begins.format("It has saved no step; ") + "$"):
        require_whole("--model", str(folder))
    (folder / "checkpoints" / "step-3").mkdir(parents=True)
    finish = f"easyrlhf finish {folder} ends it where it is; "
    with pytest.raises(InputError, match=begins.format(finish) + "; --allow_incomplete takes its newest checkpoint$"):
        require_whole("--model", str(folder))
    require_whole("--model", str(folder), allow_incomplete=True)


@pytest.mark.parametrize("text", ["{", "[]", "3", '{"stage": "sft"}', "null"])
def test_a_manifest_that_no_stage_wrote_is_refused(folder, text):
    (folder / "stage.json").write_text(text)
    with pytest.raises(InputError, match=r"stage.json: .*restore the file"):
        read_stage(folder)
