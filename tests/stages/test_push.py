"""--push_to_hub of a stage and of export: looked at before a model is loaded, uploaded when the run is complete."""

from pathlib import Path

import pytest

from easyrlhf.config import ExportConfig, SFTConfig
from easyrlhf.errors import InputError
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools.exporting.export import export_model
from easyrlhf.userfile import load_module

FAKE = Path(__file__).parents[1] / "hub" / "fake_hub.py"


@pytest.fixture
def hub(monkeypatch):
    """A fake hub in place of the real one."""
    with load_module(FAKE).hub_in_place(monkeypatch) as found:
        yield found


@pytest.fixture
def config(chain, data, small, tmp_path):
    """config(**settings) of a run of two steps."""
    more = small | {"model": chain.init, "train_data": data.sft, "output_dir": str(tmp_path / "run"), "max_steps": 2}
    return lambda **given: SFTConfig(**more | given)


def files(folder: Path) -> dict[str, bytes]:
    """Path → bytes of all but checkpoints and hidden files."""
    found = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in found.items()
        if not name.startswith("checkpoints/") and path.name[0] != "."
    }


def test_a_complete_run_is_uploaded_and_the_same_command_uploads_again(hub, config, tmp_path, capsys):
    hub.faults["POST", "/commit/"] = 500
    folder = train_sft(config(push_to_hub="toy", lora_r=2))  # the upload fails, the run does not
    said = capsys.readouterr().out
    assert "uploads" in said and "to toy on the hub (private) when it is complete" in said
    assert f"upload it later: easyrlhf push {folder} toy" in said
    hub.faults.clear()
    train_sft(config(push_to_hub="toy", lora_r=2))
    assert f"uploaded to {hub.url}/me/toy (private)" in capsys.readouterr().out
    found = hub.repositories["me/toy"]
    assert (found["private"], found["commits"]) == (True, ["sft, step 2, by easyrlhf 0.1.0"])
    assert found["files"] == files(folder)
    assert {"model.safetensors", "adapter/adapter_model.safetensors", "README.md", "report.html"} <= set(found["files"])


def test_an_upload_may_be_asked_for_when_the_run_is_complete(hub, config, capsys):
    folder = train_sft(config())
    assert hub.asked == []
    train_sft(config(push_to_hub="team/toy", hub_private=False))
    assert hub.repositories["team/toy"]["files"] == files(folder)
    assert hub.repositories["team/toy"]["private"] is False


def test_a_dry_run_says_what_it_would_upload(hub, config, capsys):
    train_sft(config(push_to_hub="toy", hub_private=False, dry_run=True))
    assert "to toy on the hub (public) when it is complete" in capsys.readouterr().out
    train_sft(config())
    train_sft(config(push_to_hub="toy", dry_run=True))
    assert "to toy on the hub (private) as it is" in capsys.readouterr().out
    assert hub.repositories == {}


def test_what_stands_in_the_way_is_said_before_a_model_is_loaded(hub, config, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.models.load_causal_lm", pytest.fail)
    hub.me["auth"]["accessToken"]["role"] = "read"
    with pytest.raises(InputError, match="--push_to_hub toy: the token may only read"):
        train_sft(config(push_to_hub="toy"))
    with pytest.raises(InputError, match="--push_to_hub toy: the token may only read"):
        train_sft(config(push_to_hub="toy", dry_run=True))


def test_export_uploads_what_it_has_written(hub, chain, tmp_path, capsys):
    out = str(tmp_path / "full")
    settings = {"model": chain.sft, "to": "full", "output_dir": out, "push_to_hub": "team/full"}
    folder = export_model(ExportConfig(**settings))
    found = hub.repositories["team/full"]
    assert (found["files"], found["commits"]) == (files(folder), ["export by easyrlhf 0.1.0"])
    assert f"uploaded to {hub.url}/team/full (private)" in capsys.readouterr().out
    hub.me["auth"]["accessToken"]["role"] = "read"
    with pytest.raises(InputError, match="--push_to_hub team/other: the token may only read"):
        export_model(ExportConfig(**settings | {"push_to_hub": "team/other", "output_dir": str(tmp_path / "other")}))
    assert not (tmp_path / "other").exists()
