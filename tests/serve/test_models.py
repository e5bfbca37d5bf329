"""The models that are served: what they are called, and adapters of one base over its weights."""

import copy
import json
import shutil
import threading
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from easyrlhf.config import PolicyConfig, ServeConfig
from easyrlhf.errors import SettingError
from easyrlhf.serve.models import families, load_served, model_ids, over_the_same, read_models
from easyrlhf.serve.protocol import chat_request
from easyrlhf.tools.policy import load_sampler, read_renderer
from easyrlhf.web.refusals import Refusal


@pytest.mark.parametrize(
    "paths, ids",
    [
        (["outputs/sft", "outputs/ppo/"], ["sft", "ppo"]),
        (
            ["a/sft/adapter", "a/dpo/adapter", "b/dpo/adapter", "x"],
            ["sft/adapter", "a/dpo/adapter", "b/dpo/adapter", "x"],
        ),
        (["Qwen/Qwen3-0.6B", "./sft", "sft/sft"], ["Qwen3-0.6B", "sft", "sft/sft"]),
    ],
)
def test_a_model_is_called_by_the_end_of_its_path(paths, ids):
    assert model_ids(paths) == ids and len(set(ids)) == len(ids)


def test_a_model_that_is_given_twice_is_refused():
    with pytest.raises(SettingError, match="model a,b,a: a is there twice"):
        ServeConfig(model="a,b,a")


@pytest.fixture(scope="module")
def adapters(folders):
    """Adapters of the first model, of linear layers alone and of a whole module; one of another model."""
    made = {}
    for seed, (name, base, more) in enumerate(
        [("sky", "one", {}), ("sea", "one", {}), ("whole", "one", {"modules_to_save": ["lm_head"]}), ("far", "two", {})]
    ):
        torch.manual_seed(seed)
        lm = AutoModelForCausalLM.from_pretrained(getattr(folders, base))
        lm = get_peft_model(lm, LoraConfig(r=2, target_modules=["q_proj", "up_proj"], task_type="CAUSAL_LM", **more))
        for parameter in lm.parameters():
            if parameter.requires_grad:
                torch.nn.init.normal_(parameter, std=0.3)
        made[name] = folders.root / name
        lm.save_pretrained(made[name])
    return SimpleNamespace(**made)


def test_adapters_of_one_base_share_its_weights_and_each_answers_as_if_it_was_alone(serving, folders, adapters):
    from openai import OpenAI

    names = ["one", "sky", "sea", "whole", "far"]
    asked = [{"role": "user", "content": "Hello"}]
    with serving(folders.one, *(getattr(adapters, name) for name in names[1:]), max_new_tokens=16) as server:
        models = server.service.models
        assert len({id(models[name].lm) for name in ("one", "sky", "sea")}) == 1
        assert len({id(models[name].lm) for name in names}) == 3
        client = OpenAI(base_url=f"{server.url}/v1", api_key=server.key, max_retries=0)
        said: dict[str, str] = {}

        def ask(name: str) -> None:
            made = client.chat.completions.create(model=name, messages=asked, temperature=0)
            said[name] = made.choices[0].message.content

        threads = [threading.Thread(target=ask, args=(name,)) for name in names]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert said == {name: alone(str(getattr(adapters, name, folders.one)), asked) for name in names}
    assert len(set(said.values())) == 5


def alone(path: str, asked: list[dict]) -> str:
    """What easyrlhf generate draws, which merges adapters."""
    config = PolicyConfig(model=path, devices="cpu", max_new_tokens=16, temperature=0)
    renderer = read_renderer(config)
    found = load_sampler(config, renderer, 1).generate([renderer.prompt_ids(asked)], [(0,)])
    return renderer.decode(found.completion_ids[0, : int(found.completion_mask.sum())].tolist()).strip()


def test_adapters_share_a_base_that_is_not_served_itself(folders, adapters):
    config = ServeConfig(model=f"{adapters.sky},{adapters.far},{adapters.sea}", devices="cpu")
    sky, far, sea = load_served(read_models(config))
    assert sky.lm is sea.lm is not far.lm and far.adapter is None and sky.adapter != sea.adapter
    assert list(families([str(adapters.sky), str(folders.one), str(folders.two)])) == [[0, 1], [2]]


def test_an_adapter_with_tokens_of_its_own_shares_nothing(folders, adapters, tmp_path, tokenizer):
    shutil.copytree(adapters.sky, tmp_path / "sky")
    own = copy.deepcopy(tokenizer)
    own.add_tokens(["<sky>"])
    own.save_pretrained(tmp_path / "sky")
    first, sky, other = read_models(
        ServeConfig(model=f"{folders.one},{adapters.sky},{tmp_path / 'sky'}", devices="cpu")
    )
    assert over_the_same(sky, first) and not over_the_same(other, first) and not over_the_same(first, first)


def test_an_adapter_of_an_adapter_has_another_base(adapters, tmp_path):
    settings = {"base_model_name_or_path": str(adapters.sky), "peft_type": "LORA"}
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    assert list(families([str(adapters.sky), str(tmp_path), str(adapters.sea)])) == [[0, 2], [1]]


def test_tools_and_variables_reach_a_template_that_reads_them(folders):
    config = ServeConfig(model=str(folders.one), chat_template="chatml", devices="cpu")
    [model] = load_served(read_models(config))
    model = replace(model, positions=None)  # what tools take is more than it has
    turns = [{"role": "user", "content": "What time is it?"}]
    tools = [{"type": "function", "function": {"name": "clock", "parameters": {"type": "object", "properties": {}}}}]
    body = {"model": "one", "messages": turns, "max_tokens": 1}

    def prompt(**more) -> str:
        return model.decoder.tokenizer.decode(chat_request(body | more, {"one": model}, config).prompts[0])

    assert '"name": "clock"' in prompt(tools=tools) and "<tools>" in prompt(tools=tools)
    assert prompt(tools=tools, tool_choice="none") == prompt() and "clock" not in prompt()
    with pytest.raises(Refusal, match="no variable 'colour'"):
        prompt(chat_template_kwargs={"colour": 1})
    model.renderer.tokenizer.chat_template = "{{ colour }}" + model.renderer.tokenizer.chat_template
    assert prompt(chat_template_kwargs={"colour": "green"}).startswith("green")
