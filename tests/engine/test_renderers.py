"""How a folder and the settings decide together what the chat template is told; texts by hand."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
from datasets import Dataset
from transformers import AutoTokenizer

from easyrlhf.config import ChatConfig, CompareConfig, GenerateConfig, PPOConfig, PreviewConfig, ScoreConfig, SFTConfig
from easyrlhf.errors import InputError, SettingError
from easyrlhf.rewards.model import rendered
from easyrlhf.run.renderers import open_renderer, own_renderer, rendering_of
from easyrlhf.stages.reward_sources import RewardPlan, check_readable, check_rewards

SYSTEM, HI = {"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}"
    "{% if effort %}{{ effort }}{% endif %}{% endif %}"
)
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('no system turns') }}{% endif %}"
USER = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"


@pytest.fixture
def folder(model_folder) -> Path:
    """A model whose template has two variables."""
    path = model_folder()
    (path / "chat_template.jinja").write_text(TEMPLATE)
    return path


def stage(folder: Path, **rendering) -> None:
    """Let a folder say how its stage rendered."""
    folder.mkdir(exist_ok=True)
    (folder / "stage.json").write_text(json.dumps({"stage": "sft", "status": "complete", "rendering": rendering}))


def opening(renderer, *turns, arguments=None) -> str:
    return renderer.tokenizer.decode(renderer.prompt_ids([*turns], arguments))


def test_a_stage_goes_by_its_parents_folder_and_its_own_settings_win(folder):
    stage(folder, chat_template_kwargs={"enable_thinking": False, "effort": "low"}, fold_system=True)
    own = open_renderer(str(folder), SFTConfig(train_data="x"))
    assert opening(own, SYSTEM, HI) == USER.format("Be brief.\n\nHi") + "<think></think>low"
    settings = {"chat_template_kwargs": '{"effort": "high"}', "enable_thinking": True, "fold_system": False}
    other = open_renderer(str(folder), SFTConfig(train_data="x", **settings))
    assert opening(other, HI) == USER.format("Hi") + "high"
    assert opening(other, HI, arguments={"effort": "none"}) == USER.format("Hi") + "none"
    assert opening(other, SYSTEM, HI) == "<|im_start|>system\nBe brief.<|im_end|>\n" + USER.format("Hi") + "high"
    assert other.rendering.as_dict() == {
        "chat_template_kwargs": {"enable_thinking": True, "effort": "high"},
        "fold_system": False,
    }


@pytest.mark.parametrize("config", [ChatConfig, GenerateConfig, ScoreConfig, PreviewConfig, PPOConfig])
def test_every_command_that_renders_takes_the_settings(folder, config):
    needed = {ChatConfig: {"model": "x"}, GenerateConfig: {"model": "x", "prompts": "x", "output": "x.jsonl"}}
    needed |= {ScoreConfig: {"reward_model": "x", "text": "x"}, PPOConfig: {"train_data": "x", "reward_model": "x"}}
    needed |= {PreviewConfig: {"model": "x", "train_data": "x", "stage": "sft"}}
    settings = {"enable_thinking": "false", "fold_system": True, "chat_template_kwargs": {"effort": "low"}}
    renderer = open_renderer(str(folder), config(**needed[config], **settings))
    assert opening(renderer, SYSTEM, HI) == USER.format("Be brief.\n\nHi") + "<think></think>low"


def test_a_reward_model_goes_by_its_own_folder_whatever_the_policy_is_told(folder, tmp_path):
    stage(folder, chat_template_kwargs={}, fold_system=True)
    renderer = own_renderer(str(folder))
    row = {"prompt": json.dumps([SYSTEM, HI]), "columns": json.dumps({"chat_template_kwargs": {"effort": "low"}})}
    ids = rendered(renderer, row, " Hello. ", True)
    assert renderer.tokenizer.decode(ids) == USER.format("Be brief.\n\nHi") + "Hello.<|im_end|>"
    begun = [HI, {"role": "assistant", "content": "It is"}]
    ids = rendered(renderer, {"prompt": json.dumps(begun), "columns": "{}"}, " blue.\n", False)
    assert renderer.tokenizer.decode(ids) == USER.format("Hi") + "It is blue."


def test_folders_inside_a_stages_folder_go_by_it(folder, tmp_path):
    stage(folder, chat_template_kwargs={"effort": "low"}, fold_system=True)
    (folder / "adapter").mkdir()
    assert rendering_of(str(folder / "adapter")) == rendering_of(str(folder))
    (tmp_path / "lora").mkdir()
    base = {"peft_type": "LORA", "base_model_name_or_path": str(folder)}
    (tmp_path / "lora" / "adapter_config.json").write_text(json.dumps(base))
    assert rendering_of(str(tmp_path / "lora")).as_dict() == {
        "chat_template_kwargs": {"effort": "low"},
        "fold_system": True,
    }
    assert rendering_of("some/hub-id").as_dict() == {"chat_template_kwargs": {}, "fold_system": False}


def test_a_stage_file_that_says_something_else_is_refused(folder):
    stage(folder, chat_template_kwargs=[], fold_system=True)
    with pytest.raises(InputError, match=r"stage\.json: key 'rendering' is not what a stage writes"):
        rendering_of(str(folder))


def test_a_variable_that_the_template_does_not_have_is_refused_by_its_flag(folder):
    with pytest.raises(InputError, match=r"--chat_template_kwargs: the chat template of .* has no variable 'enable'"):
        open_renderer(str(folder), SFTConfig(train_data="x", chat_template_kwargs='{"enable": true}'))
    (folder / "chat_template.jinja").write_text(TEMPLATE.replace("enable_thinking", "thinks"))
    with pytest.raises(InputError, match=r"--enable_thinking: the chat template of .* has no variable"):
        open_renderer(str(folder), SFTConfig(train_data="x", enable_thinking="true"))
    config = ChatConfig(model="x", enable_thinking="true")
    assert open_renderer(str(folder), config, strict=False).rendering.template_kwargs == {"enable_thinking": True}


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"chat_template_kwargs": "{"}, "chat_template_kwargs {: is not JSON"),
        ({"chat_template_kwargs": "[1]"}, "chat_template_kwargs \\[1\\]: must be a JSON object"),
        ({"chat_template_kwargs": {"tokenize": True}}, "'tokenize' is not a variable of a template"),
        ({"chat_template_kwargs": '{"enable_thinking": true}', "enable_thinking": False}, "says otherwise"),
        ({"enable_thinking": "maybe"}, "must be one of true, false"),
    ],
)
def test_settings_that_cannot_be_used_are_refused(settings, message):
    for config, needed in (
        (SFTConfig, {"train_data": "x"}),
        (ChatConfig, {"model": "x"}),
        (ScoreConfig, {"reward_model": "x", "text": "x"}),
        (CompareConfig, {"models": "x,y", "prompts": "x", "judge": "x.py:f"}),
        (PreviewConfig, {"model": "x", "train_data": "x", "stage": "sft"}),
    ):
        with pytest.raises(SettingError, match=message):
            config(**needed, **settings)


def test_the_reward_model_reads_the_policys_tokens_only_where_both_render_alike(folder, tmp_path, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.reward_sources.check_reward_model", lambda *_: None)
    settings = {"model": str(folder), "train_data": "x", "reward_model": str(folder)}
    settings |= {"max_length": 64, "response_length": 16}
    config = PPOConfig(**settings)
    assert check_rewards(config, open_renderer(str(folder), config)).same_tokens
    folding = PPOConfig(**settings, fold_system=True)
    cast = check_rewards(folding, open_renderer(str(folder), folding))
    assert not cast.same_tokens
    assert cast.value_model == str(folder)  # a value model reads token ids alone
    assert AutoTokenizer.from_pretrained(folder).chat_template == cast.renderer.tokenizer.chat_template


def test_a_reward_model_whose_template_refuses_prompts_is_refused_before_anything_is_sampled(folder):
    (folder / "chat_template.jinja").write_text(REFUSES + TEMPLATE)
    config = PPOConfig(train_data="x", reward_model=str(folder))
    prompts = [[HI], [HI], [SYSTEM, HI]]
    rows = Dataset.from_list([{"prompt": json.dumps(prompt), "columns": "{}"} for prompt in prompts])
    data = {"train": SimpleNamespace(rows=rows), "valid": None}
    own = own_renderer(str(folder))
    check_readable(config, RewardPlan([], own, same_tokens=True), data)
    with pytest.raises(
        InputError, match=r"--reward_model .*: cannot read prompt 3 of the train data: .*no system turns"
    ):
        check_readable(config, RewardPlan([], own), data)
    stage(folder, chat_template_kwargs={}, fold_system=True)
    check_readable(config, RewardPlan([], own_renderer(str(folder))), data)
