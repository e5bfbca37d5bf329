"""Model folders: what is written is what was in memory, and a changed folder is found out."""

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import nn
from torch import tensor as T
from transformers import AutoModelForCausalLM, AutoTokenizer

from easyrlhf.errors import InputError, RunError
from easyrlhf.models.folder import check_probes, load_scalar_model, probe, probe_ids, prove_folder, save_lm
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.value_head import HEAD_FILE, ScalarModel

IDS = T([[5, 6, 7, 8, 9, 10]])
CPU = torch.device("cpu")


@torch.no_grad()
def logits(lm) -> torch.Tensor:
    return lm(input_ids=IDS, attention_mask=torch.ones_like(IDS), use_cache=False).logits


def ramp_head() -> nn.Linear:
    head = nn.Linear(32, 1)
    head.weight.data, head.bias.data = torch.linspace(-1, 1, 32)[None], T([0.25])
    return head


@pytest.mark.parametrize("family", ["llama", "llama-tied", "gpt2"])
def test_a_saved_model_opens_in_plain_transformers_with_the_same_logits(tmp_path, tiny_lm, tokenizer, family):
    lm = tiny_lm(family, vocab=len(tokenizer))
    save_lm(tmp_path / "out", lm, tokenizer)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    assert torch.equal(logits(again), logits(lm))
    told = AutoTokenizer.from_pretrained(tmp_path / "out")
    turns = [{"role": "user", "content": "Hello"}]
    expected = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert told.apply_chat_template(turns, tokenize=False, add_generation_prompt=True) == expected
    assert not list((tmp_path / "out").glob(".*"))


def test_a_lora_model_is_saved_merged_with_its_adapter_beside(tmp_path, tiny_lm, tokenizer):
    lm = tiny_lm(vocab=len(tokenizer))
    lm.save_pretrained(tmp_path / "base")
    lm.name_or_path = str(tmp_path / "base")
    base = logits(lm)
    lora = add_lora(lm, LoraSettings(r=4, alpha=8, dropout=0.0, target="all-linear")).eval()
    torch.manual_seed(1)
    for name, parameter in lora.named_parameters():
        if "lora_B" in name:
            parameter.data.normal_(std=0.2)
    expected = logits(lora)
    merged = save_lm(tmp_path / "out", lora, tokenizer)

    torch.testing.assert_close(logits(merged), expected, rtol=0, atol=5e-5)
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out").eval()
    torch.testing.assert_close(logits(again), expected, rtol=0, atol=5e-5)
    assert (expected - base).abs().max() > 0.1
    weights = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert all("lora_" in name for name in weights)
    assert not (tmp_path / "out" / "adapter" / "README.md").exists()  # peft's empty form


def test_saving_again_replaces_files_and_adapter_and_leaves_others_alone(tmp_path, tiny_lm, tokenizer):
    lm = tiny_lm(vocab=len(tokenizer))
    folder = tmp_path / "out"
    for seed in (1, 2):
        lora = add_lora(
            tiny_lm(seed=seed, vocab=len(tokenizer)), LoraSettings(r=4, alpha=8, dropout=0.0, target="q_proj")
        )
        save_lm(folder, lora, tokenizer)
        (folder / "notes.txt").write_text("mine")
    again = AutoModelForCausalLM.from_pretrained(folder).eval()
    torch.testing.assert_close(logits(again), logits(tiny_lm(seed=2, vocab=len(tokenizer))), rtol=0, atol=1e-6)
    assert (logits(again) - logits(lm)).abs().max() > 0.1
    assert (folder / "notes.txt").read_text() == "mine"


@pytest.fixture
def reward_folder(tmp_path, tiny_lm, tokenizer, chatml_renderer):
    """(folder, probes) of a saved reward model."""
    model = ScalarModel(tiny_lm(vocab=len(tokenizer)), ramp_head())
    save_lm(tmp_path / "rm", model.lm, tokenizer, model.head)
    return tmp_path / "rm", probe(model, probe_ids(chatml_renderer))


def test_probes_hold_the_scores_of_two_different_texts(reward_folder, tiny_lm, tokenizer):
    _, probes = reward_folder
    lm, head = tiny_lm(vocab=len(tokenizer)), ramp_head()
    for entry in probes:
        hidden = lm(input_ids=T([entry["input_ids"]]), output_hidden_states=True).hidden_states[-1][0, -1]
        assert entry["score"] == pytest.approx((hidden @ head.weight[0] + 0.25).item(), abs=1e-5)
    assert len({len(entry["input_ids"]) for entry in probes}) == 2
    text = tokenizer.decode(probes[0]["input_ids"])
    assert text == "<|im_start|>user\nName a colour.<|im_end|>\n<|im_start|>assistant\nBlue.<|im_end|>"


def test_a_reward_model_read_back_passes_its_probes(reward_folder, tokenizer):
    folder, probes = reward_folder
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32)
    check_probes(model, probes, folder, torch.float32)
    prove_folder(folder, probes, tokenizer, CPU, torch.float32)


def test_a_bf16_reading_passes_the_probes_of_float32(reward_folder, tokenizer):
    folder, probes = reward_folder
    small = [entry | {"score": entry["score"] * 1.01} for entry in probes]  # 1 %: what bf16 may cost
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32)
    check_probes(model, small, folder, torch.bfloat16)
    with pytest.raises(InputError):
        check_probes(model, small, folder, torch.float32)


@pytest.mark.parametrize(
    "edit",
    [
        {"input_ids": [5, 10**6]},
        {"input_ids": [-1]},
        {"input_ids": []},
        {"input_ids": [True]},
        {"score": float("inf")},
        {"score": float("nan")},
        {"score": None},
    ],
    ids=str,
)
def test_probes_that_no_stage_writes_are_refused(edit, reward_folder, tokenizer):
    folder, probes = reward_folder
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32)
    with pytest.raises(InputError, match=r"the key 'probes' of its stage.json is not what a stage writes"):
        check_probes(model, [probes[0], probes[1] | edit], folder, torch.float32)


def change_head(folder, change) -> None:
    tensors = load_file(folder / HEAD_FILE)
    save_file({name: change(tensor) for name, tensor in tensors.items()}, folder / HEAD_FILE)


@pytest.mark.parametrize(
    "change",
    [lambda t: t + 0.01, lambda t: -t, torch.zeros_like, lambda t: t * float("nan")],
    ids=["a little", "sign", "zero", "nan"],
)
def test_a_changed_head_is_found_out(reward_folder, tokenizer, change):
    folder, probes = reward_folder
    change_head(folder, change)
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32)
    with pytest.raises(InputError, match=r"its weights or value_head.safetensors were changed since"):
        check_probes(model, probes, folder, torch.float32)
    with pytest.raises(RunError, match="the saved model is not the trained one"):
        prove_folder(folder, probes, tokenizer, CPU, torch.float32)


def test_a_changed_backbone_is_found_out(reward_folder, tokenizer):
    folder, probes = reward_folder
    weights = load_file(folder / "model.safetensors")
    weights["model.norm.weight"] *= 1.05
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model = load_scalar_model(str(folder), tokenizer, dtype=torch.float32)
    with pytest.raises(InputError, match="changed since"):
        check_probes(model, probes, folder, torch.float32)


def test_a_disk_that_refuses_is_a_run_error_and_leaves_no_draft(tmp_path, tiny_lm, tokenizer, monkeypatch):
    lm = tiny_lm(vocab=len(tokenizer))

    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(lm, "save_pretrained", full)
    with pytest.raises(RunError, match="No space left on device"):
        save_lm(tmp_path / "out", lm, tokenizer)
    assert list((tmp_path / "out").iterdir()) == []
