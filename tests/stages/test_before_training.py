"""What concerns other models than the policy and could fail late is found before the first step, and by --dry_run."""

import json
import re
import shutil
from pathlib import Path

import pytest
from transformers import AutoTokenizer

from easyrlhf.config import DPOConfig, PPOConfig, RMConfig
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import prove_folder
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.preference import train_dpo
from easyrlhf.stages.rm import train_rm

GEMMA = (
    "{% for m in messages %}{% if m['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)


@pytest.fixture
def changed(tmp_path):
    """changed(folder, template=…, positions=…) -> a copy of a folder, without stage.json, that is so."""

    def make(folder: str, template: str | None = "", positions: int | None = None) -> str:
        copy = tmp_path / "changed"
        shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("stage.json", "checkpoints"))
        if template != "":
            tokenizer = AutoTokenizer.from_pretrained(copy)
            tokenizer.chat_template = template
            (copy / "chat_template.jinja").unlink()
            tokenizer.save_pretrained(copy)
        if positions:
            config = json.loads((copy / "config.json").read_text()) | {"max_position_embeddings": positions}
            (copy / "config.json").write_text(json.dumps(config))
        return str(copy)

    return make


@pytest.fixture
def ppo(chain, data, small_ppo, tmp_path):
    """ppo(**settings) -> what a dry run says against them."""

    def run(**more) -> str:
        settings = small_ppo | {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts}
        with pytest.raises(InputError) as caught:
            train_ppo(PPOConfig(**settings | {"output_dir": str(tmp_path / "ppo"), "dry_run": True} | more))
        return str(caught.value)

    return run


def test_a_reward_model_without_a_template_is_named_with_what_helps(ppo, chain, changed):
    folder = changed(chain.rm, template=None)
    said = ppo(reward_model=folder)
    assert said.startswith(f"--reward_model {folder}: its tokenizer has no chat template")
    assert "chat_template.jinja (--chat_template is that of the policy)" in said


def test_a_reward_model_that_refuses_the_prompts_roles_is_named(ppo, chain, changed, tmp_path):
    """The one prompt with a system turn is not the first."""
    user, system = {"role": "user", "content": "Say red."}, {"role": "system", "content": "Be brief."}
    rows = [{"prompt": [user]}] * 9 + [{"prompt": [system, user]}]
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    folder = changed(chain.rm, template=GEMMA)
    said = ppo(reward_model=folder, train_data=str(tmp_path / "prompts.jsonl"))
    assert said.startswith(f"--reward_model {folder}: cannot read prompt 10 of the train data: ")
    assert "System role not supported" in said


@pytest.mark.parametrize("flag", ["reward_model", "value_model", "ref_model"])
def test_a_model_with_too_few_places_is_named(ppo, chain, changed, flag):
    folder = changed(chain.rm if flag != "ref_model" else chain.sft, positions=40)
    assert f"--max_length 64: --{flag} {folder} was made for 40 tokens at most" in ppo(**{flag: folder})


def test_a_reference_with_too_few_places_is_named(chain, data, small, changed, tmp_path):
    settings = small | {"model": chain.sft, "train_data": data.pairs, "output_dir": str(tmp_path / "dpo")}
    with pytest.raises(InputError, match=r"--max_length 64: --ref_model .* was made for 40 tokens"):
        train_dpo(DPOConfig(ref_model=changed(chain.sft, positions=40), dry_run=True, **settings))


def test_probe_texts_that_cannot_be_rendered_end_a_run_before_it_begins(ppo, chain, data, small, tmp_path, monkeypatch):
    def refuse(renderer):
        raise InputError("no")

    monkeypatch.setattr("easyrlhf.stages.checks.probe_ids", refuse)
    said = f"--model {chain.sft}: a question with its answer cannot be rendered"
    assert said in ppo()
    with pytest.raises(InputError, match=re.escape(said)):
        settings = small | {"model": chain.sft, "train_data": data.pairs, "output_dir": str(tmp_path / "rm")}
        train_rm(RMConfig(dry_run=True, **settings))


def test_a_folder_that_cannot_be_read_back_is_no_bad_input(chain, tmp_path):
    import torch

    from easyrlhf.data.tokenizer import load_tokenizer

    shutil.copytree(chain.rm, tmp_path / "rm")
    (tmp_path / "rm" / "model.safetensors").write_bytes(b"cut")
    with pytest.raises(RunError, match=r"the saved model is not the trained one\. .*the model cannot be loaded"):
        prove_folder(Path(tmp_path / "rm"), [], load_tokenizer(chain.rm), torch.device("cpu"), torch.float32)
