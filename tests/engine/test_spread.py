"""A model that FSDP2 has spread, in a group of one process: its passes, its steps, its folder, what it refuses."""

import errno

import pytest
import torch
from safetensors.torch import load_file

from easyrlhf.engine import processes
from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.fsdp import spread, spread_of
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.rollout.vllm_weights import write_weights
from easyrlhf.stages import saved_parts

CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def group():
    """A group of this process alone."""
    with processes.join_group(CPU, 60, alone=True):
        yield


def engine_of(folder, tokenizer, dtype=torch.float32, rate=1e-2):
    lm = load_causal_lm(str(folder), tokenizer, dtype=dtype, spread_on=CPU).train()
    settings = OptimiserSettings(rate, "constant", 0.0, 0.0, 1e-8, 1.0, 10)
    return make_engine(spread(lm, CPU, dtype), settings, None, dtype)


def loss_of(lm):
    ids, mask = torch.arange(3, 12)[None], torch.tensor([[0] + [1] * 8])
    return lambda: (-row_token_logprobs(lm, ids, mask).sum(), {})


@pytest.mark.parametrize("tied", [True, False])
def test_a_pass_without_gradient_leaves_nothing_behind_that_the_next_one_takes_for_the_weights(
    model_folder, tokenizer, tied
):
    engine = engine_of(model_folder(tie_word_embeddings=tied), tokenizer)
    with torch.no_grad():
        loss_of(engine.model)()
        for name in engine.trained:
            engine.restore(name, {"master": torch.zeros(engine.shapes()[name])}, 0)
        loss = loss_of(engine.model)()[0].item()
    tokens = engine.model.config.vocab_size
    assert loss == pytest.approx(8 * torch.tensor(float(tokens)).log().item(), rel=1e-6)  # all are equally likely


def test_what_is_trained_in_bf16_moves_by_less_than_bf16_can_tell(model_folder, tokenizer):
    engine = engine_of(model_folder(), tokenizer, torch.bfloat16, rate=1e-6)
    before = {name: part.clone() for name, part in engine.held().items()}
    engine.step([(loss_of(engine.model), 1.0)], 8)
    moved = max((engine.held()[name] - part).abs().max().item() for name, part in before.items())
    assert moved == pytest.approx(1e-6, rel=0.2)
    assert {part.dtype for part in engine.held().values()} == {torch.float32}


def test_a_disk_that_is_full_is_told_and_leaves_no_model(model_folder, tokenizer, tmp_path, monkeypatch):
    def save_file(*_, **__):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(saved_parts, "save_file", save_file)
    model = engine_of(model_folder(), tokenizer).model
    with pytest.raises(RunError, match="out: could not be written: No space left on device; make room there"):
        saved_parts.save_parts(tmp_path / "out", model, tokenizer)
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".final-parts"]


def test_an_adapter_is_merged_into_the_folder_and_lies_beside_it(model_folder, tokenizer, tmp_path):
    folder = str(model_folder())
    how = {"dtype": torch.float32}
    lm = load_causal_lm(folder, tokenizer, **how, spread_on=CPU)
    settings = LoraSettings(r=4, alpha=8, dropout=0.0, target="q_proj,down_proj")
    lora = spread(add_lora(lm, settings), CPU, torch.float32)
    with torch.no_grad():
        for name, part in spread_of(lora).parameters.items():
            if ".lora_B" in name:
                part.to_local().fill_(0.25)
    spread_of(lora).root.reshard()
    whole = {name: spread_of(lora).whole(name) for name in spread_of(lora).parameters}
    saved_parts.save_parts(tmp_path / "out", lora, tokenizer)
    found, start = load_file(tmp_path / "out" / "model.safetensors"), load_file(f"{folder}/model.safetensors")
    assert found.keys() == start.keys()
    for key, tensor in start.items():
        layer = f"base_model.model.{key.removesuffix('.weight')}"
        added = 0.0
        if f"{layer}.lora_A.default.weight" in whole:  # alpha / r is 2
            added = 2 * whole[f"{layer}.lora_B.default.weight"] @ whole[f"{layer}.lora_A.default.weight"]
        torch.testing.assert_close(found[key], tensor + added)
    adapter = load_file(tmp_path / "out" / "adapter" / "adapter_model.safetensors")
    assert {f"{name[:-7]}.default.weight" for name in adapter} == {name for name in whole if ".lora_" in name}


def test_a_family_that_does_not_name_its_layers_is_refused(model_folder, tokenizer, monkeypatch):
    lm = load_causal_lm(str(model_folder()), tokenizer, dtype=torch.float32, spread_on=CPU)
    monkeypatch.setattr(type(lm.base_model), "_no_split_modules", None)
    lm.base_model._no_split_modules = None
    with pytest.raises(
        InputError, match="--sharding fsdp2: LlamaForCausalLM does not say which modules are its layers"
    ):
        spread(lm, CPU, torch.float32)


def test_vllm_gets_whole_weights_under_the_names_of_the_folder(model_folder, tokenizer, tmp_path):
    folder = model_folder(tie_word_embeddings=True)
    engine = engine_of(folder, tokenizer)
    with engine.full_weights() as lm:
        write_weights(lm, tmp_path / "vllm")
    found, start = load_file(tmp_path / "vllm" / "model.safetensors"), load_file(folder / "model.safetensors")
    assert found.keys() == start.keys() | {"lm_head.weight"}
    assert all(torch.equal(found[name], tensor) for name, tensor in start.items())
    assert torch.equal(found["lm_head.weight"], start["model.embed_tokens.weight"])
    with engine.full_weights() as lm, torch.no_grad():
        assert loss_of(lm)()[0].item() == pytest.approx(loss_of(engine.model)()[0].item(), rel=1e-6)


@pytest.mark.parametrize("family", ["qwen2", "gpt2", "gpt-neox", "bloom", "opt", "falcon"])
def test_families_say_and_learn_what_they_do_whole(model_folder, tokenizer, family):
    folder = str(model_folder(family=family))
    whole = load_causal_lm(folder, tokenizer, dtype=torch.float32)
    lm = spread(load_causal_lm(folder, tokenizer, dtype=torch.float32, spread_on=CPU), CPU, torch.float32)
    ours, theirs = (loss_of(model)()[0] for model in (lm, whole))
    assert ours.item() == pytest.approx(theirs.item(), rel=1e-6)
    ours.backward(), theirs.backward()
    grads = {name: part.grad for name, part in spread_of(lm).parameters.items() if part.grad is not None}
    wanted = {name: weight.grad for name, weight in whole.named_parameters() if weight.grad is not None}
    assert grads.keys() == wanted.keys()
    for name, grad in wanted.items():
        torch.testing.assert_close(grads[name].full_tensor(), grad, rtol=1e-5, atol=1e-7)
