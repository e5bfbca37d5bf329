"""LoRA on a model that has never seen the template's control tokens: they are learned, and go with the adapter."""

import re
from pathlib import Path

import pytest
import torch

from easyrlhf.config import PPOConfig, RMConfig, SFTConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.templates import CONTROL_TOKENS
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError, SettingError
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.parents import base_of
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.run.manifest import read_stage
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

WORDS = ["red", "blue", "green", "cat", "dog", "owl", "one", "two"]
LORA = {"chat_template": "llama3", "lora_r": 8, "learning_rate": 5e-3}


@pytest.fixture(scope="session")
def llama3(chain, data, tmp_path_factory) -> Path:
    """chain.sft, which knows ChatML, after LoRA with llama3's template."""
    folder = str(tmp_path_factory.mktemp("llama3") / "sft")
    settings = {"max_length": 64, "max_prompt_length": 40, "batch_size": 8, "devices": "cpu", "report_to": "none"}
    return train_sft(SFTConfig(model=chain.sft, train_data=data.sft, output_dir=folder, epochs=20, **settings | LORA))


@torch.no_grad()
def load(folder: Path) -> torch.Tensor:
    """Log-probabilities of a few tokens by the model of a folder."""
    lm = load_causal_lm(str(folder), load_tokenizer(str(folder)), dtype=torch.float32).eval()
    return lm(input_ids=torch.arange(5, 25)[None], use_cache=False).logits.log_softmax(-1)


@pytest.mark.parametrize("place", [".", "adapter"])
def test_answers_end(llama3, place):
    folder = str(llama3 / place)
    renderer = Renderer(load_tokenizer(folder))
    lm = load_causal_lm(folder, renderer.tokenizer, dtype=torch.float32).eval()
    sampler = HFSampler(lm, renderer.pad_id, Ending((renderer.end_of_turn_id,)), 24, 0.0, 8)
    prompts = [renderer.prompt_ids([{"role": "user", "content": f"Say {word}."}]) for word in WORDS]
    samples = sampler.generate(prompts, [(0, number) for number in range(8)])
    said = [
        renderer.decode(ids[mask.bool()])
        for ids, mask in zip(samples.completion_ids, samples.completion_mask, strict=True)
    ]
    assert samples.finished.all() and said == [f"{word}." for word in WORDS]


@pytest.fixture(scope="session")
def untrained(chain, data, tmp_path_factory) -> Path:
    """A base model whose vocabulary holds llama3's tokens, as rows of 0 that were never trained."""
    tokenizer = load_tokenizer(chain.sft)
    lm = load_causal_lm(chain.sft, tokenizer, dtype=torch.float32)
    tokenizer.add_tokens(list(CONTROL_TOKENS["llama3"]), special_tokens=True)
    lm.resize_token_embeddings(len(tokenizer), mean_resizing=False)
    for layer in (lm.get_input_embeddings(), lm.get_output_embeddings()):
        layer.weight.data[-3:] = 0.0
    folder = tmp_path_factory.mktemp("untrained")
    lm.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def test_answers_end_where_the_vocabulary_holds_tokens_that_were_never_trained(untrained, data, tmp_path, capsys):
    settings = {"max_length": 64, "max_prompt_length": 40, "batch_size": 8, "devices": "cpu", "report_to": "none"}
    settings |= {"model": str(untrained), "train_data": data.sft, "output_dir": str(tmp_path / "sft"), "epochs": 20}
    folder = train_sft(SFTConfig(**settings | LORA))
    said = " ".join(capsys.readouterr().out.split())
    assert f"rows of their own for 3 tokens that {untrained} has never seen (<|start_header_id|>, " in said
    test_answers_end(folder, ".")


def test_a_reward_model_and_ppo_go_on_from_the_adapter_of_each(llama3, chain, data, small, small_ppo, tmp_path):
    """Every folder below is an adapter's, tokenizer, template and head with it."""
    policy, lora = str(llama3 / "adapter"), {"lora_r": 4, "train_data": data.pairs}
    trained = train_rm(RMConfig(model=policy, output_dir=str(tmp_path / "rm"), max_steps=2, **small | lora))
    reward = str(trained / "adapter")
    settings = small_ppo | {"model": policy, "reward_model": reward, "ref_model": policy, "total_episodes": 16}
    done = train_ppo(PPOConfig(train_data=data.prompts, output_dir=str(tmp_path / "ppo"), **settings | {"lora_r": 4}))
    assert read_stage(done)["status"] == "complete"
    for folder, base in ((trained, policy), (done, policy), (done / "value_model", reward)):
        assert base_of(str(folder / "adapter")) == base
    root, alone = (load(folder) for folder in (done, done / "adapter"))
    torch.testing.assert_close(root, alone, rtol=0, atol=1e-4)


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"share_backbone": True}, "--share_backbone: parts that share a backbone cannot have rows of their own for 3"),
        ({"rollout": "vllm", "vllm_mode": "server"}, "--rollout vllm: vLLM takes no adapter with rows of their own"),
        ({"deepspeed": "zero3"}, "--deepspeed: ZeRO stage 3 cannot train rows of their own for 3 tokens"),
        (
            {"share_backbone": True, "chat_template": None, "modules_to_save": "norm"},
            "cannot have --modules_to_save norm",
        ),
        ({"modules_to_save": "nrm"}, "--modules_to_save nrm: the model has no module of that name; it has"),
        (
            {"lora_target": "embed_tokens"},
            "add --modules_to_save embed_tokens and leave the layer out of --lora_target",
        ),
    ],
)
def test_what_cannot_be_is_refused_before_a_model_is_loaded(more, said, chain, data, small_ppo, tmp_path, monkeypatch):
    monkeypatch.setattr("easyrlhf.stages.models.load_causal_lm", None)
    settings = small_ppo | {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts}
    settings |= {"output_dir": str(tmp_path / "ppo"), "chat_template": "llama3", "lora_r": 4}
    with pytest.raises(InputError, match=re.escape(said)):
        train_ppo(PPOConfig(**settings | more))


def test_modules_to_save_belong_to_lora(data):
    with pytest.raises(SettingError, match="modules_to_save norm: belongs to LoRA"):
        SFTConfig(train_data=data.sft, modules_to_save="norm")
