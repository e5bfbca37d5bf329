"""Bad input: exit 2, one message that names the place and the way out, no traceback, no model loaded."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.cli.stages import ppo_train as ppo_main
from easyrlhf.cli.stages import rm_train as rm_main
from easyrlhf.cli.stages import sft_train as sft_main
from easyrlhf.models.value_head import HEAD_FILE, WEIGHT


@pytest.fixture
def refused(monkeypatch, capsys, chain, data, tmp_path):
    """Runs a command that must be refused before a model is loaded; returns its message."""

    def run(main, **flags) -> str:
        monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", lambda *_, **__: pytest.fail("a model was loaded"))
        common = {"devices": "cpu", "output_dir": tmp_path / "out", "max_length": 64, "max_prompt_length": 40}
        if main is ppo_main:
            common |= {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "response_length": 6}
        if main is rm_main:
            common |= {"model": chain.sft, "train_data": data.pairs}
        if main is sft_main:
            common |= {"model": chain.init, "train_data": data.sft}
        words = [word for name, value in (common | flags).items() for word in (f"--{name}", str(value))]
        capsys.readouterr()
        with pytest.raises(SystemExit) as end:
            main(words)
        printed = capsys.readouterr()
        assert end.value.code == 2, printed.err
        assert printed.err.startswith("error: ") and "Traceback" not in printed.err
        return printed.err

    return run


PAIR = {
    "prompt": [{"role": "user", "content": "Say red."}],
    "chosen": [{"role": "assistant", "content": "red."}],
    "rejected": [{"role": "assistant", "content": "blue."}],
}


def write(path: Path, rows: list) -> Path:
    """A .jsonl file; strings are written as they are."""
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows))
    return path


def test_missing_file(refused, tmp_path):
    message = refused(rm_main, train_data=tmp_path / "none.jsonl")
    assert "none.jsonl: no such file" in message


def test_empty_file(refused, tmp_path):
    assert "empty.jsonl" in refused(rm_main, train_data=write(tmp_path / "empty.jsonl", []))


def test_broken_json_at_line_7(refused, tmp_path):
    message = refused(rm_main, train_data=write(tmp_path / "rows.jsonl", [PAIR] * 6 + ['{"prompt": ']))
    assert "rows.jsonl:7: not JSON" in message


def test_row_without_rejected(refused, tmp_path):
    row = {key: value for key, value in PAIR.items() if key != "rejected"}
    message = refused(rm_main, train_data=write(tmp_path / "rows.jsonl", [PAIR, PAIR, row]))
    assert "rows.jsonl:3" in message and "rejected" in message


def test_chosen_equal_to_rejected(refused, tmp_path):
    row = PAIR | {"rejected": PAIR["chosen"]}
    message = refused(rm_main, train_data=write(tmp_path / "rows.jsonl", [PAIR, row]))
    assert "rows.jsonl:2" in message and "chosen" in message and "rejected" in message


def test_empty_completion(refused, tmp_path):
    row = PAIR | {"chosen": [{"role": "assistant", "content": ""}]}
    message = refused(rm_main, train_data=write(tmp_path / "rows.jsonl", [row]))
    assert "rows.jsonl:1" in message and "empty" in message


def test_unknown_flag(refused):
    assert "learning_rate" in refused(sft_main, learnin_rate=1)


def test_unknown_yaml_key(refused, tmp_path):
    (tmp_path / "run.yaml").write_text("learning_rate: 1e-4\nkl_coeff: 0.1\n")
    message = refused(ppo_main, config=tmp_path / "run.yaml")
    assert "run.yaml:2" in message and "kl_coef" in message


def test_sft_folder_as_reward_model(refused, chain):
    message = refused(ppo_main, reward_model=chain.sft)
    assert f"--reward_model {chain.sft}" in message and HEAD_FILE in message and "rm_train" in message


@pytest.mark.parametrize("broken", ["shape", "key", "extra key", "no safetensors"])
def test_value_head_with_a_fault(refused, chain, tmp_path, broken):
    folder = shutil.copytree(chain.rm, tmp_path / "rm")
    tensors = load_file(folder / HEAD_FILE)
    if broken == "shape":
        tensors[WEIGHT] = torch.zeros(1, 7)
    if broken == "key":
        tensors["summary.weight"] = tensors.pop(WEIGHT)
    if broken == "extra key":
        tensors["v_head.dense.weight"] = torch.zeros(2, 2)
    save_file(tensors, folder / HEAD_FILE)
    if broken == "no safetensors":
        (folder / HEAD_FILE).write_bytes(b"not a tensor file")
    message = refused(ppo_main, reward_model=folder)
    assert f"--reward_model {folder}" in message and HEAD_FILE in message


def meant(folder: Path) -> None:
    """Say that the folder's files were changed on purpose: its manifest lists them no longer."""
    stage = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(stage | {"files": {}}))


def test_a_model_that_was_changed_since_it_was_saved(refused, chain, tmp_path):
    folder = shutil.copytree(chain.sft, tmp_path / "other")
    content = bytearray((folder / "model.safetensors").read_bytes())
    content[-1] ^= 1
    (folder / "model.safetensors").write_bytes(content)
    message = refused(ppo_main, model=folder)
    assert f"--model {folder / 'model.safetensors'}: is not the file that the stage wrote" in message


@pytest.mark.parametrize("flag", ["value_model", "ref_model"])
def test_model_with_another_tokenizer_than_the_policy(refused, chain, tmp_path, flag):
    folder = shutil.copytree(chain.rm, tmp_path / "other")
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.add_tokens(["<|new|>"])
    tokenizer.save_pretrained(folder)
    meant(folder)
    message = refused(ppo_main, **{flag: folder})
    assert f"--{flag} {folder}: its tokenizer differs from that of --model {chain.sft}" in message


def test_reference_with_another_chat_template_than_the_policy(refused, chain, tmp_path):
    folder = shutil.copytree(chain.sft, tmp_path / "other")
    template = (folder / "chat_template.jinja").read_text()
    (folder / "chat_template.jinja").write_text(template.replace("assistant\\n", "assistant:\\n"))
    meant(folder)
    assert "its chat template differs" in refused(ppo_main, ref_model=folder)


@pytest.mark.parametrize("flag", ["model", "reward_model", "value_model", "ref_model"])
def test_parent_that_did_not_finish(refused, chain, tmp_path, flag):
    folder = shutil.copytree(chain.rm if flag in ("reward_model", "value_model") else chain.sft, tmp_path / "parent")
    stage = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps(stage | {"status": "stopped"}))
    message = refused(ppo_main, **{flag: folder})
    assert f"--{flag} {folder}" in message and "not complete" in message and "--allow_incomplete" in message
    assert str(tmp_path / "out") in message


def test_output_folder_with_foreign_files(refused, tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("")
    message = refused(sft_main)
    assert "thesis.txt" in message and "--overwrite" in message


def test_batch_size_0(refused):
    assert "--batch_size 0: must be 1 or more" in refused(sft_main, batch_size=0)


def test_max_length_shorter_than_the_prompts(refused):
    message = refused(rm_main, max_length=8, max_prompt_length=7)
    assert "max_length" in message and "48" in message


@pytest.mark.parametrize("main", [sft_main, rm_main, ppo_main])
def test_hub_id_that_cannot_be_reached(refused, main, monkeypatch):
    monkeypatch.setenv("HF_ENDPOINT", "http://127.0.0.1:9")
    message = refused(main, model="nobody/no-such-model")
    assert "nobody/no-such-model" in message


def test_gpus_that_are_not_there(refused):
    message = refused(sft_main, devices="0,63")
    assert "--devices 0,63: this machine has no GPU" in message
    assert "63 that can be used" in message


def test_gpu_that_is_not_there(refused):
    assert "--devices 63" in refused(sft_main, devices="63")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("def other(**_): ...", "has no function score; it has other"),
        ("import no_such_module", "raised ModuleNotFoundError"),
        (None, "there is no file"),
    ],
)
def test_reward_function_that_cannot_be_loaded(refused, tmp_path, source, expected):
    path = tmp_path / "rewards.py"
    if source:
        path.write_text(source)
    assert expected in refused(ppo_main, reward_funcs=f"{path}:score")


def test_checkpoint_that_is_none(refused, tmp_path):
    assert f"--resume {tmp_path}: not a checkpoint" in refused(sft_main, resume=tmp_path)


def test_model_folder_without_a_model(refused, tmp_path):
    (tmp_path / "empty").mkdir()
    assert str(tmp_path / "empty") in refused(sft_main, model=tmp_path / "empty")


@pytest.mark.parametrize("flag", ["model", "reward_model"])
def test_output_folder_that_is_an_input_folder(refused, chain, flag):
    folder = {"model": chain.sft, "reward_model": chain.rm}[flag]
    assert f"is also --{flag}" in refused(ppo_main, output_dir=folder + "/")
    assert (Path(folder) / "model.safetensors").exists()


def test_a_value_warmup_as_long_as_the_run(refused):
    assert "its policy would never be trained" in refused(ppo_main, value_warmup_steps=50)


def test_a_kl_target_without_a_coefficient_to_move(refused):
    assert "kl_target 6" in refused(ppo_main, kl_target=6, kl_coef=0)
