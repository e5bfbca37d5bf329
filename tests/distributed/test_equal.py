"""The same numbers on one process, on two, on two to a row, and under ZeRO-2 and ZeRO-3, whatever the micro-batches."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from easyrlhf.launch import free_port
from easyrlhf.userfile import load_module

ForkServer = load_module(Path(__file__).parents[1] / "forking" / "fork_server.py").ForkServer
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

CLOCK = ("time/", "tokens_per_second")
SMALL_PARTS = {  # so that ZeRO-3 really spreads the weights of a tiny model
    "zero_optimization": {
        "stage": 3,
        "overlap_comm": False,
        "reduce_bucket_size": 20000,
        "stage3_prefetch_bucket_size": 5000,
        "stage3_param_persistence_threshold": 10,
    }
}
COMMON = {
    "max_length": 64,
    "max_prompt_length": 40,
    "report_to": "none",
    "save_steps": 1,
    "save_total_limit": 50,
    "eval_steps": 3,
    "max_grad_norm": 0.7,
    "weight_decay": 0.1,
}
OFFLINE = COMMON | {"batch_size": 9, "epochs": 3, "learning_rate": 1e-3}  # 48 rows: the last batch of an epoch has 3
ONLINE = COMMON | {"total_episodes": 36, "num_sample_generations": 2, "learning_rate": 1e-3}


@pytest.fixture(scope="module")
def zero3(tmp_path_factory) -> str:
    """A DeepSpeed configuration of one's own."""
    file = tmp_path_factory.mktemp("deepspeed") / "zero3.json"
    file.write_text(json.dumps(SMALL_PARTS))
    return str(file)


@pytest.fixture(scope="module")
def stages(data, chain) -> dict[str, dict]:
    """Name of a case → its command and settings."""
    pairs = {"model": chain.sft, "train_data": data.pairs, "valid_data": data.pairs}
    prompts = {"model": chain.sft, "reward_model": chain.rm, "train_data": data.prompts, "valid_data": data.prompts}
    ppo = ONLINE | prompts | {"response_length": 6, "num_mini_batches": 1, "num_ppo_epochs": 1, "batch_size": 9}
    ppo |= {"ptx_coef": 0.1, "ptx_data": data.sft, "kl_target": 0.5}
    grpo = ONLINE | prompts | {"max_completion_length": 6, "num_generations": 3, "batch_size": 9, "beta": 0.1}
    sft = OFFLINE | {"model": chain.init, "train_data": data.sft, "valid_data": data.sft}
    return {
        "sft": {"stage": "sft"} | sft,
        "sft bf16": {"stage": "sft", "precision": "bf16"} | sft,
        "rm": {"stage": "rm"} | OFFLINE | pairs,
        "rm lora": {"stage": "rm", "lora_r": 4} | OFFLINE | pairs,
        "dpo": {"stage": "dpo"} | OFFLINE | pairs,
        "dpo aot": {"stage": "dpo", "loss_type": "aot"} | OFFLINE | pairs,
        "kto": {"stage": "kto"} | OFFLINE | pairs,
        "ppo": {"stage": "ppo"} | ppo,
        "ppo lora": {"stage": "ppo", "lora_r": 4} | ppo,
        "ppo minibatches": {"stage": "ppo"}
        | ppo
        | {"num_mini_batches": 3, "num_ppo_epochs": 2, "num_generations": 3, "whiten_rewards": True},
        "grpo": {"stage": "grpo"} | grpo,
    }


LAYOUTS = {
    "two": {"devices": "cpu:2", "deepspeed": "none", "micro_batch_tokens": 150},
    "zero2": {"devices": "cpu:2", "deepspeed": "zero2", "micro_batch_tokens": 300},
    "zero3": {"devices": "cpu:2", "micro_batch_tokens": 150},
    "zero2_offload": {"devices": "cpu:2", "deepspeed": "zero2_offload"},
    "zero3_offload": {"devices": "cpu:2", "deepspeed": "zero3_offload"},
    "fsdp2": {"devices": "cpu:2", "deepspeed": "auto", "sharding": "fsdp2", "micro_batch_tokens": 150},
    "one zero3": {"devices": "cpu", "micro_batch_tokens": 150},
    "shared": {"devices": "cpu:2", "context_parallel_size": 2, "deepspeed": "none", "micro_batch_tokens": 75},
    "two groups": {"devices": "cpu:4", "context_parallel_size": 2, "deepspeed": "none", "micro_batch_tokens": 75},
    "shared zero3": {"devices": "cpu:2", "context_parallel_size": 2, "gradient_checkpointing": True},
    "shared fsdp2": {
        "devices": "cpu:2",
        "context_parallel_size": 2,
        "sharding": "fsdp2",
        "deepspeed": "auto",
        "gradient_checkpointing": True,
    },
}


# Two processes, and of nine weights in two parts of five the second has four and what was in memory.
PADDED = """
import os

import torch
from torch import nn

from easyrlhf.engine import processes
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.zero import ZeroEngine
from easyrlhf.errors import NotFinite



class Model(nn.Linear):
    def get_output_embeddings(self):
        return None


torch.use_deterministic_algorithms(True)  # memory that nobody has written is then NaN
with processes.join_group(torch.device("cpu"), 60, alone=False):
    zero = {"zero_optimization": {"stage": 3, "stage3_param_persistence_threshold": 0}}
    settings = OptimiserSettings(1e-3, "constant", 0.0, 0.0, 1e-8, 1.0, 10)
    engine = ZeroEngine(Model(3, 3, bias=False), settings, zero, torch.float32)
    assert engine.flats[0].isnan().tolist() == [False] * 4 + [processes.rank() == 1]
    engine.check_finite()
    engine.flats[0].data[3] = torch.inf if processes.rank() == 1 else 0.0
    try:
        engine.check_finite()
    except NotFinite as error:
        os.write(1, f"{processes.rank()} {error}\\n".encode())  # at once: two processes write
"""


def meeting(count: int) -> list[dict[str, str]]:
    """What each of so many processes has to know of the others, in the variables of torchrun."""
    if count == 1:
        return [{}]
    shared = {"WORLD_SIZE": count, "LOCAL_WORLD_SIZE": count, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": free_port()}
    ranks = [shared | {"RANK": rank, "LOCAL_RANK": rank} for rank in range(count)]
    return [{name: str(value) for name, value in rank.items()} for rank in ranks]


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """What runs commands and files in processes that have imported DeepSpeed."""
    server = ForkServer("deepspeed", DS_ACCELERATOR="cpu")
    yield server
    server.close()


@pytest.fixture(scope="module")
def train(forks) -> Callable[..., None]:
    """train(folder, stage, devices=, **settings) runs a stage's command in as many processes as the devices say.

    They are started as torchrun starts them: the other files of this room are about our own launcher.
    """

    def run(folder: Path, stage: str, devices: str, **settings) -> None:
        flags = [f"--{name}" if value is True else f"--{name}={value}" for name, value in settings.items()]
        words = [f"{stage}_train", *flags, f"--devices={devices}", f"--output_dir={folder}"]
        said, ranks = folder.with_name(f"{folder.name}.log"), meeting(int(devices.partition(":")[2] or 1))
        codes = forks.run(words, folder.parent, ranks, output=str(said))
        assert not any(codes), f"exit codes {codes}\n{said.read_text()}"

    return run


def numbers(folder: Path) -> list[dict[str, float]]:
    """The rows of metrics.jsonl without what depends on the clock."""
    rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{name: value for name, value in row.items() if not name.startswith(CLOCK)} for row in rows]


@pytest.fixture(scope="module")
def alone(train, stages, tmp_path_factory):
    """Case → folder of its run on one process, made when it is first asked for."""
    made: dict[str, Path] = {}

    def folder_of(case: str) -> Path:
        if case not in made:
            made[case] = tmp_path_factory.mktemp("alone") / "run"
            train(made[case], devices="cpu", **stages[case])
        return made[case]

    return folder_of


def first_gradients(folder: Path, engine: str) -> dict:
    """Adam's first moment in the first checkpoint, by parameter."""
    first = min((folder / "checkpoints").glob("step-*"), key=lambda path: int(path.name[5:]))
    found = {}
    for file in (first / engine).glob("part-*.safetensors"):
        found |= {name: tensor for name, tensor in load_file(file).items() if name.startswith("exp_avg/")}
    return found


def assert_close_rows(found: list[dict], expected: list[dict], names: tuple[str, ...], relative: float) -> None:
    assert len(found) == len(expected)
    for row, other in zip(found, expected, strict=True):
        assert row.keys() == other.keys()
        for name in names:
            if name in row:
                assert row[name] == pytest.approx(other[name], rel=relative, abs=1e-7), f"step {row['step']}, {name}"


def test_what_zero3_fills_its_parts_up_with_is_no_broken_weight_and_a_broken_weight_is_named(forks, tmp_path):
    (tmp_path / "padded.py").write_text(PADDED)
    codes = forks.run([tmp_path / "padded.py"], tmp_path, meeting(2), output=str(tmp_path / "said"))
    said = (tmp_path / "said").read_text()
    assert codes == [0, 0], said
    lines = [line for line in said.splitlines() if "have become NaN" in line]
    assert sorted(lines) == [
        "0 trained weights have become NaN or infinite. Lower --learning_rate",
        "1 trained weights have become NaN or infinite: weight. Lower --learning_rate",
    ]


@pytest.mark.parametrize(
    "case, layout",
    [
        *((case, layout) for case in ("sft", "rm", "dpo") for layout in ("two", "zero2", "zero3")),
        ("sft", "one zero3"),
        ("sft", "zero2_offload"),
        ("rm", "zero3_offload"),
        ("rm lora", "zero3"),
        ("dpo aot", "two"),
        ("kto", "zero3"),
        ("sft", "shared"),
        ("dpo", "two groups"),
        ("rm", "shared fsdp2"),
        *((case, "fsdp2") for case in ("sft", "rm", "rm lora", "dpo")),
    ],
)
def test_offline_losses_are_those_of_one_process(train, case, layout, stages, alone, zero3, tmp_path):
    settings = {"deepspeed": zero3} | LAYOUTS[layout]
    train(tmp_path / "run", **stages[case], **settings)
    names = (
        "loss",
        "grad_norm",
        "learning_rate",
        "eval/loss",
        "rewards/margins",
        "logps/chosen",
        "eval/rewards/margins",
    )
    assert_close_rows(numbers(tmp_path / "run"), numbers(alone(case)), names, relative=1e-4)
    assert len(numbers(alone(case))) >= 18
    gradients, expected = (first_gradients(folder, "model") for folder in (tmp_path / "run", alone(case)))
    assert gradients.keys() == expected.keys()
    for name, tensor in expected.items():
        assert (gradients[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max() + 1e-9, name
    trained = load_file(tmp_path / "run" / "model.safetensors")
    for name, tensor in load_file(alone(case) / "model.safetensors").items():
        assert trained[name].numel() == tensor.numel() > 0
        assert (trained[name] - tensor).abs().max() <= 1e-4, name


def test_bf16_under_zero3_is_near_bf16_on_one_process(train, stages, alone, zero3, tmp_path):
    train(tmp_path / "run", **stages["sft bf16"], devices="cpu:2", deepspeed=zero3)
    found, expected = numbers(tmp_path / "run"), numbers(alone("sft bf16"))
    assert found[0]["loss"] == pytest.approx(expected[0]["loss"], rel=5e-3)  # bf16 keeps 8 bits
    assert found[-1]["loss"] == pytest.approx(expected[-1]["loss"], rel=0.03)


@pytest.mark.parametrize(
    "case, layout",
    [
        *((case, layout) for case in ("ppo", "grpo") for layout in ("two", "zero2", "zero3")),
        ("ppo lora", "zero3"),
        *((case, "fsdp2") for case in ("ppo", "grpo")),
        ("ppo", "shared"),
        ("grpo", "shared"),
        ("ppo lora", "shared zero3"),
    ],
)
def test_online_updates_are_those_of_one_process(train, case, layout, stages, alone, zero3, tmp_path):
    settings = {"deepspeed": zero3} | LAYOUTS[layout]
    train(tmp_path / "run", **stages[case], **settings)
    found, expected = numbers(tmp_path / "run"), numbers(alone(case))
    first = (
        "objective/scores",
        "objective/kl",
        "policy/grad_norm",
        "value/grad_norm",
        "loss/value_avg",
        "loss/policy_avg",
    )
    assert_close_rows(found[:1], expected[:1], first, relative=1e-5)
    later = ("objective/scores", "objective/kl", "length/completion_mean", "eval/scores")
    assert_close_rows(found, expected, later, relative=1e-2)  # a draw near a boundary may fall on its other side
    for engine in ("policy", "value") if case.startswith("ppo") else ("policy",):
        gradients, wanted = (first_gradients(folder, engine) for folder in (tmp_path / "run", alone(case)))
        assert gradients.keys() == wanted.keys()
        for name, tensor in wanted.items():
            assert (gradients[name] - tensor).abs().max() <= 1e-5 * tensor.abs().max() + 1e-9, name


def test_many_updates_of_a_rollout_end_where_one_process_ends(train, stages, alone, zero3, tmp_path):
    train(tmp_path / "run", **stages["ppo minibatches"], devices="cpu:2", deepspeed=zero3)
    found, expected = numbers(tmp_path / "run"), numbers(alone("ppo minibatches"))
    names = ("objective/scores", "objective/kl", "policy/approxkl_avg", "val/clipfrac_avg", "value/explained_variance")
    assert_close_rows(found[:2], expected[:2], names, relative=1e-3)
    assert found[-1]["eval/scores"] == pytest.approx(expected[-1]["eval/scores"], abs=0.02)


# --- going on with other processes


def stopped_at(whole: Path, step: int, folder: Path) -> None:
    """A copy of a finished run as it was after a step."""
    shutil.copytree(whole, folder)
    for checkpoint in (folder / "checkpoints").iterdir():
        if int(checkpoint.name[5:]) > step:
            shutil.rmtree(checkpoint)
    info = json.loads((folder / "stage.json").read_text())
    (folder / "stage.json").write_text(json.dumps({"stage": info["stage"], "data": info["data"], "status": "stopped"}))


@pytest.fixture(scope="module")
def sharded(train, stages, zero3, tmp_path_factory) -> Path:
    """A finished rm under ZeRO-3 on two processes."""
    folder = tmp_path_factory.mktemp("sharded") / "run"
    train(folder, **stages["rm"], devices="cpu:2", deepspeed=zero3)
    return folder


def test_the_same_processes_go_on_bit_for_bit(train, sharded, stages, zero3, tmp_path):
    stopped_at(sharded, 10, tmp_path / "run")
    train(tmp_path / "run", **stages["rm"], devices="cpu:2", deepspeed=zero3)
    assert numbers(tmp_path / "run") == numbers(sharded)


@pytest.mark.parametrize(
    "settings",
    [
        {"devices": "cpu"},
        {"devices": "cpu:2", "deepspeed": "zero2"},
        {"devices": "cpu:3", "deepspeed": "none"},
        {"devices": "cpu:3", "deepspeed": None},
        {"devices": "cpu:2", "deepspeed": None, "context_parallel_size": 2},
    ],
    ids=["one process", "zero2", "three processes", "zero3 on three", "two to a row"],
)
def test_other_processes_and_engines_go_on(train, settings, sharded, stages, zero3, tmp_path):
    stopped_at(sharded, 10, tmp_path / "run")
    train(tmp_path / "run", **stages["rm"], **{name: value or zero3 for name, value in settings.items()})
    names = ("loss", "grad_norm", "learning_rate", "eval/loss", "rewards/margins")
    assert_close_rows(numbers(tmp_path / "run"), numbers(sharded), names, relative=1e-4)


def test_a_run_of_one_process_goes_on_under_zero3(train, alone, stages, zero3, tmp_path):
    stopped_at(alone("rm"), 10, tmp_path / "run")
    train(tmp_path / "run", **stages["rm"], devices="cpu:2", deepspeed=zero3)
    names = ("loss", "grad_norm", "learning_rate", "eval/loss", "rewards/margins")
    assert_close_rows(numbers(tmp_path / "run"), numbers(alone("rm")), names, relative=1e-4)


@pytest.fixture(scope="module")
def spread(train, stages, tmp_path_factory) -> Path:
    """A finished sft under FSDP2 on two processes."""
    folder = tmp_path_factory.mktemp("spread") / "run"
    train(folder, **stages["sft"], **LAYOUTS["fsdp2"])
    return folder


def test_the_same_processes_go_on_bit_for_bit_under_fsdp2(train, spread, stages, tmp_path):
    stopped_at(spread, 14, tmp_path / "run")
    train(tmp_path / "run", **stages["sft"], **LAYOUTS["fsdp2"])
    assert numbers(tmp_path / "run") == numbers(spread)


@pytest.mark.parametrize(
    "settings",
    [{"devices": "cpu"}, LAYOUTS["fsdp2"] | {"devices": "cpu:4"}],
    ids=["one process", "four processes"],
)
def test_other_processes_and_engines_go_on_after_fsdp2(train, settings, spread, stages, tmp_path):
    stopped_at(spread, 14, tmp_path / "run")
    train(tmp_path / "run", **stages["sft"], **settings)
    assert_close_rows(numbers(tmp_path / "run"), numbers(spread), ("loss", "grad_norm", "eval/loss"), relative=1e-4)
