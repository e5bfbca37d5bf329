"""easyrlhf fit: hand-computed bytes, a measured stage, the cheapest changes, bad input."""

import importlib.util
import json
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from easyrlhf.cli.main import main as easyrlhf
from easyrlhf.config import DPOConfig, FitConfig, GRPOConfig, PPOConfig, SFTConfig
from easyrlhf.engine.engine import Engine
from easyrlhf.errors import InputError
from easyrlhf.stages.online import train_grpo
from easyrlhf.stages.sft import train_sft
from easyrlhf.tools.fitting import remedies
from easyrlhf.tools.fitting.fit import machine_of, print_fit
from easyrlhf.tools.fitting.memory import Held, Machine, MemoryPlan, Phase
from easyrlhf.tools.fitting.model_shape import FROZEN, SCORER, TRAINED, TRAINED_SCORER, ModelShape, count_held
from easyrlhf.tools.fitting.shape_pass import ShapeBatch, decoding_peak, scoring_peak, update_peak
from easyrlhf.tools.fitting.stage_memory import batch_of, batches_of, memory_plan, with_models

GIB = 2**30
ROOT = Path(__file__).parents[2]

# A Llama of two layers on paper: hidden 16, MLP 32, 4 heads of 4, 2 key-value heads, vocabulary 100, head untied.
SMALL = {
    "model_type": "llama",
    "architectures": ["LlamaForCausalLM"],
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 100,
    "max_position_embeddings": 4096,
    "tie_word_embeddings": False,
}
EMBEDDING = HEAD = 100 * 16
ATTENTION = 16 * 16 + 2 * 16 * 8 + 16 * 16  # q, k and v, o
MLP = 3 * 16 * 32
LAYER = ATTENTION + MLP + 2 * 16
ALL = EMBEDDING + 2 * LAYER + 16 + HEAD  # 7888
ADAPTERS = 2 * (2 * 4 * (16 + 16) + 2 * 4 * (16 + 8) + 3 * 4 * (16 + 32))  # rank 4: q o, k v, the MLP's three; 2048
BUFFERS = 2 * 2 * 4  # the rotary frequencies, kept twice

LLAMA_70B = SMALL | {
    "hidden_size": 8192,
    "intermediate_size": 28672,
    "num_hidden_layers": 80,
    "num_attention_heads": 64,
    "num_key_value_heads": 8,
    "vocab_size": 32000,
}


@pytest.fixture
def folder(tmp_path):
    """folder(**changed) -> a folder that holds nothing but a config.json, of SMALL with these entries changed."""

    def make(name="model", **changed) -> str:
        (tmp_path / name).mkdir(exist_ok=True)
        (tmp_path / name / "config.json").write_text(json.dumps(SMALL | changed))
        return str(tmp_path / name)

    return make


def run(*words: str):
    return CliRunner().invoke(easyrlhf, ["fit", *words], prog_name="easyrlhf")


# --- what is held


def test_weights_gradients_and_optimiser_are_those_on_paper(folder):
    held = count_held(ModelShape(folder(), torch.float32), TRAINED)
    assert ALL == 7888
    assert held.states() == {"weights": 4 * ALL + BUFFERS, "gradients": 4 * ALL, "optimiser": 8 * ALL}
    assert held.largest_part == 4 * LAYER and held.largest_trained == EMBEDDING


def test_bf16_halves_the_weights_and_adds_master_copies(folder):
    held = count_held(ModelShape(folder(), torch.bfloat16), TRAINED)
    assert held.states() == {"weights": 2 * ALL + BUFFERS, "gradients": 4 * ALL, "optimiser": 12 * ALL}


def test_lora_trains_its_adapters_alone_and_in_float32(folder):
    assert ADAPTERS == 2048
    held = count_held(ModelShape(folder(), torch.bfloat16, lora_r=4), TRAINED)
    weights = 2 * ALL + BUFFERS + 4 * ADAPTERS
    assert held.states() == {"weights": weights, "gradients": 4 * ADAPTERS, "optimiser": 8 * ADAPTERS}


def test_a_base_in_four_bits_takes_half_a_byte_and_its_scales(folder):
    linear = 4 * 64 * 64 + 3 * 64 * 128  # of a layer; a scale of 1 byte for 64, of 4 for 64 * 256, and 4 for their mean
    wide = {"hidden_size": 64, "intermediate_size": 128, "num_key_value_heads": 4}
    apart = count_held(ModelShape(folder(**wide), torch.bfloat16), FROZEN).weights
    held = count_held(ModelShape(folder(**wide), torch.bfloat16, four_bit=True), FROZEN).weights
    assert apart - held == 2 * (2 * linear - linear // 2 - linear // 64 - 7 * (4 + 4))


def test_a_reward_model_leaves_its_language_model_head_alone(folder):
    shape = ModelShape(folder(), torch.float32)
    own = 16 + 1  # weights and bias of its own head
    assert count_held(shape, TRAINED_SCORER).trained == ALL - HEAD + own
    assert count_held(shape, SCORER).states() == {"weights": 4 * (ALL + own) + BUFFERS, "gradients": 0, "optimiser": 0}
    assert count_held(shape, FROZEN).weights == 4 * ALL + BUFFERS


@pytest.mark.parametrize(
    "deepspeed, weights, gradients, optimiser, host",
    [
        ("none", 1000, 400, 1200, 0),
        ("zero2", 1000, 50, 150, 0),
        ("zero3", 1000 / 8 + 2 * 30, 50, 150, 0),
        ("zero2_offload", 1000, 0, 0, 1600),
        ("zero3_offload", 2 * 30, 0, 0, 2600),
        ("fsdp2", (1000 - 200) / 8 + 4 * 30, 50, 150, 0),
    ],
)
def test_deepspeed_splits_what_it_says_among_the_devices(deepspeed, weights, gradients, optimiser, host):
    held = Held(weights=1000, trained=100, mastered=100, largest_part=30)
    machine = Machine("cuda", 8, 1, deepspeed)
    expected = {"weights": weights, "gradients": gradients, "optimiser": optimiser}
    assert held.on_device(machine) == pytest.approx(expected)
    assert held.on_host(machine) == host


def test_deepspeed_has_master_copies_of_float32_weights_too():
    held = Held(weights=400, trained=100)
    assert held.on_device(Machine("cuda", 1, 1))["optimiser"] == 800
    assert held.on_device(Machine("cuda", 1, 1, "zero2"))["optimiser"] == 1200
    assert held.on_device(Machine("cuda", 1, 1, "fsdp2"))["optimiser"] == 800


def test_a_gathered_model_is_whole_where_weights_are_spread():
    held, phase = {"policy": Held(weights=800)}, Phase("rollout", ("policy",), gathered=("policy",))
    assert phase.on_device(held, Machine("cuda", 8, 1, "zero3"))["weights"] == 800 / 8 + 800
    assert phase.on_device(held, Machine("cuda", 8, 1, "zero2"))["weights"] == 800


# --- passes


def test_the_cache_of_the_last_token_is_that_on_paper(folder):
    peak = decoding_peak(ModelShape(folder(), torch.float32), rows=3, prompt_tokens=2, completion_tokens=60)
    layers, keys_and_values, heads, size = 2, 2, 2, 4
    assert peak["KV cache"] == layers * keys_and_values * heads * size * 3 * (2 + 60 - 1) * 4


def test_logits_are_those_of_completion_tokens_in_chunks(folder):
    """Logits, their softmax and the gradient of one of them: three times n x V float32, or of a chunk of them."""
    shape = ModelShape(folder(vocab_size=50_000), torch.float32)
    few, many = ShapeBatch(1, 50, 50), ShapeBatch(2, 1, 4095)
    assert update_peak(shape, few, "logprobs", "cpu")["logits"] == 3 * 50 * 50_000 * 4
    chunk = 2**26 // (4 * 50_000) * 50_000 * 4
    assert 2 * chunk <= update_peak(shape, many, "logprobs", "cpu")["logits"] <= 4 * chunk
    larger = update_peak(shape, many, "logprobs", "cuda")["logits"]
    assert larger == pytest.approx(16 * update_peak(shape, many, "logprobs", "cpu")["logits"], rel=0.01)


def test_a_deep_model_is_told_from_shallow_ones(folder, monkeypatch):
    shape, batch = ModelShape(folder(num_hidden_layers=9), torch.float32), ShapeBatch(4, 1, 63)
    told = [update_peak.__wrapped__(shape, batch, reads, "cpu") for reads in ("logprobs", "values")]
    told.append(decoding_peak.__wrapped__(shape, 4, 30, 30))
    monkeypatch.setattr("easyrlhf.tools.fitting.shape_pass.SHALLOW", (9,))
    run_whole = [update_peak.__wrapped__(shape, batch, reads, "cpu") for reads in ("logprobs", "values")]
    run_whole.append(decoding_peak.__wrapped__(shape, 4, 30, 30))
    for ours, theirs in zip(told, run_whole, strict=True):
        assert ours == pytest.approx(theirs, rel=1e-3)


def test_checkpointing_keeps_the_input_of_each_layer(folder):
    """One layer more costs its input, of tokens x hidden float32, where it cost many times that."""
    batch, added = ShapeBatch(4, 1, 63), {}
    for checkpointing in (False, True):
        shapes = [
            ModelShape(folder(f"of_{n}", num_hidden_layers=n), torch.float32, gradient_checkpointing=checkpointing)
            for n in (5, 6)
        ]
        low, high = (sum(update_peak(shape, batch, "values", "cpu").values()) for shape in shapes)
        added[checkpointing] = high - low
    assert added[True] == pytest.approx(4 * 64 * 16 * 4, rel=0.02)
    assert added[False] > 10 * added[True]


@pytest.mark.parametrize("family", ["gpt2", "gpt-neox", "gemma2", "falcon"])
def test_other_families_can_be_told_too(model_folder, family):
    shape = ModelShape(str(model_folder(family=family)), torch.float32, lora_r=4)
    assert sum(update_peak(shape, ShapeBatch(2, 4, 4), "logprobs", "cpu").values()) > 0
    assert sum(scoring_peak(shape, ShapeBatch(2, 4, 4), "entropies", "cpu").values()) > 0
    assert decoding_peak(shape, 2, 4, 4)["KV cache"] > 0


# --- plans


def measured(train, config) -> int:
    """Peak bytes of live tensors over the optimiser steps, by the counter of the benchmarks."""
    spec = importlib.util.spec_from_file_location("shared_backbone", ROOT / "benchmarks" / "shared_backbone.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    counter, peaks, step = module.TensorBytes(), [], Engine.step

    def counted(engine, *args):
        counter.peak = counter.now
        done = step(engine, *args)
        peaks.append(counter.peak)
        return done

    with pytest.MonkeyPatch.context() as patch, counter:
        patch.setattr(Engine, "step", counted)
        train(config)
    return max(peaks)


FOUR = {"lora_r": 8, "load_in_4bit": True}
HOWS = [{}, {"lora_r": 8}, {"gradient_checkpointing": True}, {"precision": "bf16"}, FOUR]


@pytest.mark.parametrize("how", HOWS, ids=str)
def test_a_stage_takes_what_was_told_beforehand(model_folder, tmp_path, how):
    model = model_folder(hidden_size=64, intermediate_size=192, num_hidden_layers=3)
    (tmp_path / "rows.jsonl").write_text((json.dumps({"prompt": "Hi", "completion": " sky" * 61}) + "\n") * 64)
    config = SFTConfig(
        model=str(model),
        train_data=str(tmp_path / "rows.jsonl"),
        output_dir=str(tmp_path / "out"),
        max_length=64,
        max_prompt_length=8,
        micro_batch_tokens=512,
        batch_size=16,
        max_steps=2,
        devices="cpu",
        report_to="none",
        **how,
    )
    told = memory_plan(with_models(config), Machine("cpu", 1, GIB)).needed
    assert told == pytest.approx(measured(train_sft, config), rel=0.15)


def test_answers_that_share_their_prompt_take_what_was_told_beforehand(model_folder, tmp_path):
    model = model_folder(hidden_size=64, intermediate_size=128, num_hidden_layers=3, max_position_embeddings=256)
    rows = [{"prompt": " sky" * 79 + letter} for letter in "abcdefgh"]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "judge.py").write_text(
        "def length(completions, **columns):\n    return [float(len(c)) for c in completions]\n"
    )
    prompt = 80
    config = GRPOConfig(
        model=str(model),
        train_data=str(tmp_path / "rows.jsonl"),
        output_dir=str(tmp_path / "out"),
        reward_funcs=f"{tmp_path / 'judge.py'}:length",
        num_generations=8,
        batch_size=16,
        max_length=prompt + 16,
        max_prompt_length=prompt,
        max_completion_length=16,
        micro_batch_tokens=2 * (prompt + 8 * 16),
        max_steps=2,
        devices="cpu",
        report_to="none",
        num_sample_generations=0,
    )
    told = memory_plan(with_models(config), Machine("cpu", 1, GIB)).needed
    assert told == pytest.approx(measured(train_grpo, config), rel=0.06)  # with prompts apart it would be 17 % less


def config_of(kind, model, **more):
    return with_models(kind(model=model, train_data="none", **more))


def test_rows_fill_the_budget_of_a_forward_pass(folder):
    machine = Machine("cuda", 1, GIB)
    assert batch_of(config_of(SFTConfig, folder()), machine, 64) == ShapeBatch(8, 1, 1023)
    pairs = config_of(DPOConfig, folder(), max_length=1500, micro_batch_tokens=4096)
    assert batch_of(pairs, machine, 64) == ShapeBatch(2, 1, 1023, completions=2)
    assert batch_of(replace(pairs, micro_batch_tokens=100), machine, 64) == ShapeBatch(1, 1, 1499, completions=2)
    assert batch_of(config_of(SFTConfig, folder()), machine, 3) == ShapeBatch(3, 1, 1023)
    online = config_of(PPOConfig, folder(), max_prompt_length=300, response_length=100, micro_batch_tokens=1600)
    assert batch_of(online, machine, 64) == ShapeBatch(4, 300, 100)


def test_answers_to_a_prompt_are_counted_together_and_apart(folder):
    machine = Machine("cuda", 1, GIB)
    rows = {"max_prompt_length": 300, "response_length": 100, "micro_batch_tokens": 2400, "num_generations": 8}
    config, apart = config_of(PPOConfig, folder(), **rows), ShapeBatch(6, 300, 100)
    assert batches_of(config, machine, 64) == [apart, ShapeBatch(2, 300, 100, completions=8, share="on")]
    assert batches_of(config, machine, 3) == [
        ShapeBatch(3, 300, 100),
        ShapeBatch(1, 300, 100, completions=3, share="on"),
    ]
    tight = replace(config, micro_batch_tokens=650)  # a prompt and three of its answers
    assert batches_of(tight, machine, 64)[1] == ShapeBatch(1, 300, 100, completions=3, share="on")
    window = folder("window", model_type="mistral", architectures=["MistralForCausalLM"], sliding_window=64)
    for cannot in (
        {"num_generations": 1},
        {"share_prefix": "off"},
        {"model": window},
        {"attn_implementation": "eager"},
    ):
        assert batches_of(replace(config, **cannot), machine, 64) == [apart]


@pytest.mark.parametrize("mode, share", [("colocate", 0.4), ("server", 0)])
def test_a_vllm_in_the_run_takes_its_share_while_it_samples(folder, mode, share):
    machine = Machine("cuda", 1, 8 * GIB)
    config = config_of(PPOConfig, folder(), rollout="vllm", vllm_mode=mode, vllm_gpu_memory_utilization=0.4)
    plan = memory_plan(config, machine)
    found = {phase.name: phase.on_device(plan.models, machine)["vLLM"] for phase in plan.phases}
    assert found.pop("rollout") == pytest.approx(share * 8 * GIB)
    assert set(found.values()) == {0}


@pytest.mark.parametrize("kind", ["cpu", "cuda"])
def test_a_cpu_samples_with_copies_of_its_linear_layers(kind, folder, monkeypatch):
    monkeypatch.setattr(
        "easyrlhf.rollout.onednn_linear.SMALLEST", 16 * 32
    )  # the MLP's and the head's: the others are smaller
    machine = Machine(kind, 1, 8 * GIB)
    plan = memory_plan(config_of(PPOConfig, folder(), precision="float32"), machine)
    found = {phase.name: phase.on_device(plan.models, machine)["weights"] for phase in plan.phases}
    copies = 4 * (2 * MLP + HEAD)
    assert found.pop("rollout") - (copies if kind == "cpu" else 0) in found.values()
    assert len(set(found.values())) == 1


def test_less_vllm_is_advised_where_it_is_what_does_not_fit(folder):
    machine = Machine("cuda", 1, 8 * GIB)
    config = config_of(PPOConfig, folder(), rollout="vllm", vllm_gpu_memory_utilization=0.95)
    assert not memory_plan(config, machine).fits
    assert [step.settings for step in remedies.less_vllm(config, machine)] == [
        {"vllm_gpu_memory_utilization": 0.2},
        {"vllm_gpu_memory_utilization": 0.1},
    ]
    assert memory_plan(replace(config, vllm_gpu_memory_utilization=0.2), machine).fits


def test_ppo_holds_four_models_and_with_a_shared_backbone_one(folder):
    machine = Machine("cuda", 1, GIB)
    four = memory_plan(config_of(PPOConfig, folder()), machine)
    assert list(four.models) == ["policy", "reference", "value model", "reward model"]
    assert four.models["reference"].weights == 2 * ALL + BUFFERS
    update = next(phase for phase in four.phases if phase.name == "policy update")
    assert update.on_device(four.models, machine)["gradients"] == 4 * ALL  # the value model's are not there
    one = memory_plan(config_of(PPOConfig, folder(), lora_r=4, share_backbone=True), machine)
    assert list(one.models) == ["policy", "value model", "reward model"]
    assert sum(held.weights for held in one.models.values()) == 2 * ALL + BUFFERS + 3 * 4 * ADAPTERS + 2 * 4 * 17
    assert list(memory_plan(config_of(GRPOConfig, folder(), lora_r=4, reward_funcs="a.py:f"), machine).models) == [
        "policy"
    ]
    for settings in ({"beta": 0.1}, {"measure_kl": "eval"}):
        asked = memory_plan(config_of(GRPOConfig, folder(), reward_funcs="a.py:f", **settings), machine)
        assert list(asked.models) == ["policy", "reference"]
    assert list(memory_plan(config_of(GRPOConfig, folder(), reward_funcs="a.py:f"), machine).models) == ["policy"]


def test_of_ppo_in_four_bits_the_reward_model_alone_keeps_its_precision(folder):
    wide = folder(hidden_size=64, intermediate_size=128)
    machine = Machine("cuda", 1, GIB)
    plain = memory_plan(config_of(PPOConfig, wide, lora_r=4), machine).models
    four = memory_plan(config_of(PPOConfig, wide, lora_r=4, load_in_4bit=True), machine).models
    smaller = {name for name in four if four[name].weights < plain[name].weights}
    assert smaller == {"policy", "value model"} and four["reward model"] == plain["reward model"]


def test_four_bits_are_advised_where_adapters_are_trained_alone(folder):
    machine = Machine("cuda", 1, GIB)
    advised = {"load_in_4bit": True}
    assert [s.settings for s in remedies.use_four_bit(config_of(SFTConfig, folder(), lora_r=4), machine)] == [advised]
    for config, other in (
        (config_of(SFTConfig, folder()), machine),
        (config_of(SFTConfig, folder(), lora_r=4, load_in_4bit=True), machine),
        (config_of(SFTConfig, folder(), lora_r=4), replace(machine, deepspeed="zero3")),
        (config_of(PPOConfig, folder(), lora_r=4, rollout="vllm"), machine),
    ):
        assert list(remedies.use_four_bit(config, other)) == []
    spread = config_of(SFTConfig, folder(), lora_r=4, sharding="fsdp2")
    assert list(remedies.use_four_bit(spread, replace(machine, deepspeed="fsdp2"))) == []
    step = next(remedies.more_devices(spread, replace(machine, deepspeed="fsdp2")))
    assert (step.flags, step.machine["deepspeed"]) == ("--devices 2x1GB --sharding fsdp2", "fsdp2")
    four = config_of(SFTConfig, folder(), lora_r=4, load_in_4bit=True)
    flags = [step.flags for step in remedies.use_deepspeed(four, replace(machine, count=2))]
    assert flags == ["--deepspeed zero2"]
    assert next(remedies.more_devices(four, machine)).flags == "--devices 2x1GB --deepspeed zero2"


def test_the_reference_of_dpo_is_gone_when_training_begins(folder):
    other = folder("other", num_hidden_layers=1)
    plan = memory_plan(config_of(DPOConfig, folder(), ref_model=other), Machine("cpu", 1, GIB))
    held = {phase.name: phase.weights for phase in plan.phases}
    assert held == {"reference": ("model", "reference"), "update": ("model",), "optimiser step": ("model",)}
    assert plan.models["reference"].weights == 4 * (ALL - LAYER) + BUFFERS


# --- long rows


def updates(folder, machine, **settings) -> dict[str, float]:
    """What comes and goes in the update of sft on rows of 4096 tokens, one a pass."""
    config = SFTConfig(train_data="none", model=folder(), max_length=4096, batch_size=12, **settings)
    return next(phase for phase in memory_plan(with_models(config), machine).phases if phase.name == "update").working


def test_devices_that_share_a_row_share_its_activations(folder):
    machine = Machine("cuda", 4, 80 * GIB)
    alone = updates(folder, machine, micro_batch_tokens=4096)
    # a pass has twice the tokens on twice the devices, or the same row on four
    two = updates(folder, machine, micro_batch_tokens=4096, context_parallel_size=2)
    four = updates(folder, machine, micro_batch_tokens=1024, context_parallel_size=4)
    assert two["activations"] == pytest.approx(alone["activations"], rel=0.02)
    assert four["activations"] == alone["activations"] / 4
    assert four["logits"] == alone["logits"]


def test_offloaded_states_are_the_hosts(folder):
    machine = Machine("cuda", 2, 80 * GIB)
    kept = updates(folder, machine, micro_batch_tokens=4096, gradient_checkpointing=True)
    moved = updates(folder, machine, micro_batch_tokens=4096, gradient_checkpointing=True, offload_activations=True)
    host = 4096 * 2 * 16 * 2  # tokens, layers, hidden size, bytes in bf16
    assert kept["activations"] - moved["activations"] == host
    assert MemoryPlan({}, [Phase("update", (), working=moved)], machine).host == 2 * host
    on_cpu = updates(folder, Machine("cpu", 1, GIB), gradient_checkpointing=True, offload_activations=True)
    assert "in the host's memory" not in on_cpu


def test_rows_that_fill_a_pass_may_be_shared_and_states_offloaded(folder):
    long = SFTConfig(train_data="none", model=folder(), max_length=4096, micro_batch_tokens=4096)
    machine = Machine("cuda", 6, GIB)
    assert [*remedies.share_rows(long, machine), *remedies.offload(long, machine)] == []
    long = replace(long, gradient_checkpointing=True)
    flags = [one.flags for change in (remedies.offload, remedies.share_rows) for one in change(long, machine)]
    assert flags == ["--offload_activations", "--context_parallel_size 2"]
    assert [one.flags for one in remedies.share_rows(long, replace(machine, count=8))] == [
        "--context_parallel_size 2",
        "--context_parallel_size 4",  # the model has 4 heads
    ]
    assert [*remedies.share_rows(replace(long, max_length=4095), machine)] == []


# --- changes


def planner(bytes_of):
    """Plans whose one phase takes bytes_of(config, machine) GiB."""

    def plan(config, machine):
        return MemoryPlan({}, [Phase("update", (), working={"activations": bytes_of(config, machine) * GIB})], machine)

    return plan


def advice(bytes_of, machine=None, **settings) -> list[str]:
    config = SFTConfig(train_data="none", model="m", max_length=1024, **settings)
    return remedies.cheapest(config, machine or Machine("cuda", 1, 100 * GIB), planner(bytes_of))


def test_the_first_cheap_change_that_fits_is_recommended():
    lines = advice(lambda config, machine: (config.micro_batch_tokens or 8192) / 50)
    assert lines[1].split()[:2] == ["--micro_batch_tokens", "4096"] and lines[1].endswith("fits")
    assert lines[-1] == "recommended: add --micro_batch_tokens 4096"
    assert len(lines) == 3  # dearer ones are not looked at


def test_changes_that_do_not_fit_alone_are_joined_and_those_not_needed_left_out():
    def bytes_of(config, machine):
        activations = 20 if config.gradient_checkpointing else (config.micro_batch_tokens or 8192) / 8192 * 200
        return activations + (40 if config.lora_r else 400)

    lines = advice(bytes_of)
    assert [line.split()[0] for line in lines[1:-1]] == ["--micro_batch_tokens", "--gradient_checkpointing", "--lora_r"]
    assert lines[-1].startswith("recommended: none is enough alone; add ")
    assert lines[-1].endswith("peak 65.00 GiB") and "--lora_r 16" in lines[-1]
    assert "--micro_batch_tokens 1024" in lines[-1] and "checkpointing" not in lines[-1]


def test_more_devices_come_last():
    lines = advice(lambda config, machine: 1000 / machine.count + 1, Machine("cuda", 2, 100 * GIB))
    assert lines[-1].startswith("recommended: none is enough alone; add --devices 16x100GB --deepspeed zero3")


def test_what_cannot_fit_is_said():
    assert "take a smaller model" in advice(lambda config, machine: 1e6)[-1]


# --- the command


def test_it_says_that_it_fits(folder):
    done = run("sft", "--model", folder(), "--devices", "80GB", "--micro_batch_tokens", "1024")
    assert done.exit_code == 0, done.output
    assert "sft_train on 1 GPU of 80 GiB, in bfloat16" in done.stdout
    assert "fits in 80 GiB (10 % kept free) with 72.0 GiB to spare" in done.stdout
    assert "lower it" not in done.stdout and "one device" not in done.stdout
    assert "these are tensors" not in done.stdout


@pytest.mark.parametrize("stage", ["rm", "kto", "rrhf", "grpo_train"])
def test_every_stage_can_be_asked(folder, stage):
    done = run(stage, "--model", folder(), "--devices", "cpu:16GB", "--max_length", "1024", "--lora_r", "4")
    assert done.exit_code == 0, done.output
    assert "on 1 CPU of 16 GiB, in float32" in done.stdout and "<- peak" in done.stdout
    assert "\nthese are tensors; the process takes about 0.5 GiB more for Python and its libraries" in done.stdout


def test_seventy_billion_parameters_take_seconds_and_no_weights(folder):
    started = time.process_time()
    plan = print_fit(
        SFTConfig(train_data="none", model=folder(**LLAMA_70B), lora_r=16, gradient_checkpointing=True),
        FitConfig(devices="8x80GB", deepspeed="zero3"),
    )
    assert time.process_time() - started < 30
    held = count_held(ModelShape(folder(**LLAMA_70B), torch.bfloat16), FROZEN)
    assert held.weights == pytest.approx(2 * 68_976_648_192, rel=1e-6)
    assert plan.fits and plan.peak.name == "update"


def test_several_devices_are_named(folder):
    done = run("sft", "--model", folder(), "--devices", "8x80GB", "--deepspeed", "zero3")
    assert "sft_train on 8 GPUs of 80 GiB, zero3" in done.stdout
    done = run("sft", "--model", folder(), "--devices", "8x80GB", "--sharding", "fsdp2")
    assert "sft_train on 8 GPUs of 80 GiB, fsdp2" in done.stdout


@pytest.mark.parametrize(
    "words, message",
    [
        (["sfft"], "unknown command sfft: did you mean sft?"),
        (["sft", "--devices", "8 big ones"], "--devices 8 big ones: must look like 80GB"),
        (["sft", "--devices", "0x80GB"], "--devices 0x80GB: must look like"),
        (
            ["sft", "--devices", "8x80GB", "--context_parallel_size", "3"],
            "--context_parallel_size 3: the 8 processes of this run do not divide into groups of 3",
        ),
        (["sft", "--deepspeed", "zero9"], "--deepspeed zero9: must be one of"),
        (["sft", "--devices", "cpu", "--deepspeed", "zero3"], "--deepspeed zero3: needs GPUs"),
        (["sft", "--devices", "cpu", "--sharding", "fsdp2"], "--sharding fsdp2: needs GPUs"),
        (
            ["sft", "--devices", "8x80GB", "--sharding", "fsdp2", "--deepspeed", "zero3"],
            "--sharding fsdp2: --deepspeed zero3 spreads the models too; give one",
        ),
        (["sft", "--micro_batch_token", "4"], "unknown flag --micro_batch_token: did you mean"),
        (["sft", "--lora_r", "-1"], "--lora_r -1: must be 0 or more"),
        (
            ["sft", "--lora_r", "4", "--load_in_4bit", "--deepspeed", "zero3", "--devices", "2x8GB"],
            "--deepspeed zero3: loses the scales of --load_in_4bit; give zero2",
        ),
        (["sft", "--model", "MODEL", "--max_length", "5000"], "was made for 4096 tokens at most"),
        (["sft", "--model", "/nowhere/at/all"], "give a folder with a config.json"),
    ],
)
def test_bad_input_is_one_message(folder, words, message):
    done = run(*(folder() if word == "MODEL" else word for word in words))
    assert done.exit_code == 2, done.output
    assert message in done.stderr and done.stderr.removeprefix("working out the memory …\n").count("\n") == 1


def test_a_gpu_that_is_not_there_is_bad_input():
    with pytest.raises(InputError, match="--devices 99"):
        machine_of(FitConfig(devices="99"), SFTConfig(train_data="none"))


def test_settings_of_the_stage_may_come_from_a_file(folder, tmp_path):
    (tmp_path / "args.yaml").write_text(f"model: {folder()}\ntrain_data: pairs.jsonl\nlora_r: 4\ndevices: cpu\n")
    done = run("rm", "--config", str(tmp_path / "args.yaml"))
    assert done.exit_code == 0, done.output
    assert "rm_train on 1 CPU of" in done.stdout
    assert f"{4 * (ADAPTERS + 17) / 2**20:.2f}" in done.stdout  # MiB of gradients


def test_the_help_teaches_without_torch():
    assert "easyrlhf fit sft --model outputs/sft --devices 80GB" in run("sft", "--help").stdout
    page = run("--help").stdout
    assert "Memory of grpo_train." in page and "--devices 80GB" in page
