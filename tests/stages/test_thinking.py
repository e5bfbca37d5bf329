"""Templates whose generation prompt opens a thought: a reward model and a policy train to their end and are saved."""

import json
import shutil

import pytest

from easyrlhf.config import PPOConfig, RMConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.run.manifest import read_stage
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.rm import train_rm

# as DeepSeek-R1's distillates: answers are written without the thought that the prompt opens
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' }}"
    "{{ m['content'].split('</think>')[-1] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n<think>\n' }}{% endif %}"
)


@pytest.fixture
def model(chain, tmp_path) -> str:
    """A model with that template."""
    folder = tmp_path / "model"
    shutil.copytree(chain.init, folder)
    (folder / "chat_template.jinja").write_text(TEMPLATE)
    (folder / "stage.json").unlink(missing_ok=True)
    return str(folder)


def test_a_policy_and_a_reward_model_that_think_train_to_the_end(model, data, tmp_path):
    small = {"max_length": 64, "max_prompt_length": 40, "batch_size": 8, "devices": "cpu", "report_to": "none"}
    rm, ppo = str(tmp_path / "rm"), str(tmp_path / "ppo")
    train_rm(RMConfig(model=model, train_data=data.pairs, valid_data=data.pairs, output_dir=rm, max_steps=1, **small))
    stage = read_stage(rm)
    probe = load_tokenizer(model).decode(stage["probes"][0]["input_ids"])
    assert probe == "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>"
    assert stage["data"]["train"]["used"] == 48
    assert stage["rendering"] == {"chat_template_kwargs": {}, "fold_system": False}
    settings = {"reward_model": rm, "train_data": data.prompts, "output_dir": ppo, "response_length": 4}
    train_ppo(PPOConfig(model=model, total_episodes=8, **settings, **small))
    assert read_stage(ppo)["status"] == "complete"
    assert json.loads((tmp_path / "ppo" / "value_model" / "config.json").read_text())["vocab_size"]
