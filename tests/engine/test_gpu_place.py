"""Which GPU a process computes on, as torch, DeepSpeed and vLLM would each see it: one number everywhere.

There is none here; what is looked at are the environment and the calls that these libraries go by.
"""

import os
import sys

import pytest
import torch
import torch.distributed as dist
from click.testing import CliRunner

from easyrlhf import launch
from easyrlhf.cli import stages
from easyrlhf.config import GRPOConfig, SFTConfig
from easyrlhf.engine import device, processes
from easyrlhf.engine.sharding import wants_group
from easyrlhf.errors import InputError
from easyrlhf.run import checkpoint

VISIBLE = "CUDA_VISIBLE_DEVICES"


@pytest.fixture
def gpus(monkeypatch, tmp_path):
    """gpus(count, visible) -> a list of the devices that torch is told to take, on a machine with so many GPUs."""
    taken: list[torch.device] = []
    (tmp_path / "driver").touch()
    monkeypatch.setattr(launch, "DRIVERS", (str(tmp_path / "driver"),))
    monkeypatch.setattr(launch, "_only_gpu", None)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "OMP_NUM_THREADS"):
        monkeypatch.delenv(name, raising=False)

    def seen() -> int:
        named = os.environ.get(VISIBLE)
        return seen.count if named is None else len(named.split(","))

    def make(count: int, visible: str | None = None) -> list[torch.device]:
        seen.count = count
        monkeypatch.setenv(VISIBLE, visible or "")  # so that what a test leaves there is gone after it
        if visible is None:
            monkeypatch.delenv(VISIBLE)
        return taken

    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", seen)
    monkeypatch.setattr(torch.cuda, "set_device", taken.append)
    return make


def as_libraries_see_it(config, taken: list[torch.device]) -> tuple[str, str, str]:
    """The card's name by each library's way of counting: our own tensors', DeepSpeed's and vLLM's."""
    visible = os.environ.get(VISIBLE, "0,1,2,3,4,5,6,7").split(",")
    ours = device.take_device(config.devices)
    assert taken[-1] == ours
    # the group is joined with gloo in place of nccl, which needs a card
    with pytest.MonkeyPatch.context() as patch:
        real = dist.init_process_group
        patch.setattr(dist, "init_process_group", lambda backend, **how: real("gloo", **how))
        with processes.join_group(ours, 60, alone=wants_group(config)):
            assert dist.is_initialized()
            local = int(os.environ["LOCAL_RANK"])  # what deepspeed.initialize and vLLM's external launcher go by
    assert "LOCAL_RANK" not in os.environ
    return visible[ours.index], visible[local], visible[taken[-1].index]


CONFIGS = {
    "zero": lambda devices: SFTConfig(train_data="a", devices=devices, deepspeed="zero2"),
    "colocated vllm": lambda devices: GRPOConfig(
        train_data="a", devices=devices, rollout="vllm", reward_funcs="r.py:r"
    ),
}


@pytest.mark.parametrize("made", CONFIGS.values(), ids=CONFIGS)
@pytest.mark.parametrize(
    ("visible", "devices", "card"), [(None, "3", "3"), ("4,5", "1", "5"), ("GPU-a,GPU-b", "1", "GPU-b")]
)
def test_a_command_on_one_gpu_has_it_as_number_0(gpus, made, visible, devices, card):
    taken = gpus(8, visible)
    config = made(devices)
    launch.take_one_gpu(devices)
    assert os.environ[VISIBLE] == card
    assert as_libraries_see_it(config, taken) == (card, card, card)
    assert taken == [torch.device("cuda", 0)]
    assert launch.launch_plan(config) == launch.LaunchPlan(1, card)  # whoever looks again sees the same card


@pytest.mark.parametrize("made", CONFIGS.values(), ids=CONFIGS)
def test_in_a_program_that_goes_on_it_has_its_own_number(gpus, made):
    taken = gpus(8)
    assert as_libraries_see_it(made("3"), taken) == ("3", "3", "3")
    assert as_libraries_see_it(made("1"), taken) == ("1", "1", "1")  # a notebook's next run may take another
    assert taken == [torch.device("cuda", 3), torch.device("cuda", 1)]


def test_torch_is_not_imported_before_the_gpu_is_taken(gpus, monkeypatch):
    gpus(8)
    monkeypatch.delitem(sys.modules, "torch")
    launch.take_one_gpu("3")
    assert "torch" not in sys.modules


@pytest.mark.parametrize("devices", [None, "cpu", "cpu:2", "mps", "0,1"])
def test_nothing_is_taken_where_no_single_gpu_is_named(gpus, devices):
    gpus(8)
    launch.take_one_gpu(devices)
    assert VISIBLE not in os.environ
    assert launch._only_gpu is None


def test_a_process_of_another_launcher_keeps_what_it_was_given(gpus, monkeypatch):
    gpus(8, "4,5")
    monkeypatch.setenv("RANK", "1")
    launch.take_one_gpu("1")
    assert os.environ[VISIBLE] == "4,5"


def test_a_command_takes_its_gpu_before_it_starts(gpus, monkeypatch):
    gpus(8)
    seen = []
    monkeypatch.setattr(launch, "start", lambda target, config: seen.append((os.environ[VISIBLE], config.devices)))
    done = CliRunner().invoke(stages.sft_train, ["--train_data", "data/toy/sft_heldout.jsonl", "--devices", "2"])
    assert done.exit_code == 0, done.output
    assert seen == [("2", "2")]


@pytest.mark.parametrize(
    ("visible", "devices", "plan"),
    [
        (None, "0,2", (2, "0,2")),
        ("4,5", "0,1", (2, "4,5")),
        ("4,5", "1,0", (2, "5,4")),
        ("4,5", None, (2, "4,5")),
        ("4, 5,-1,6", None, (2, "4,5")),
        ("4,5", "1", (1, "5")),
        ("5", None, (1, "5")),
        ("4,5", "cpu:2", (2, "")),
    ],
)
def test_devices_count_what_is_visible_from_0(gpus, visible, devices, plan):
    gpus(4, visible)
    config = SFTConfig(train_data="a", devices=devices)
    assert launch.launch_plan(config) == launch.LaunchPlan(*plan)
    assert launch.placement(launch.launch_plan(config))[VISIBLE] == plan[1]


@pytest.mark.parametrize(
    ("visible", "devices", "said"),
    [
        ("4,5", "4,5", "CUDA_VISIBLE_DEVICES=4,5 leaves 2 GPUs that can be used, and --devices counts these from 0"),
        ("4,5", "2", "there is no 2. Leave one of the two out"),
        (None, "0,7", "this machine has no GPU 7 that can be used; give indices that nvidia-smi lists"),
    ],
)
def test_a_gpu_that_is_not_there_is_refused(gpus, visible, devices, said):
    gpus(4, visible)
    with pytest.raises(InputError, match=f"^--devices {devices}: .*{said}"):
        launch.launch_plan(SFTConfig(train_data="a", devices=devices))


def test_drivers_are_looked_for_under_wsl_too(monkeypatch):
    looked = []
    monkeypatch.setattr(launch.Path, "exists", lambda path: looked.append(str(path)))
    assert launch.visible_gpus() == []
    assert looked == ["/dev/nvidiactl", "/dev/dxg", "/dev/kfd"]


@pytest.mark.parametrize("plan", [launch.LaunchPlan(4, ""), launch.LaunchPlan(4, "0,1,2,3")], ids=["cpu", "gpu"])
def test_processes_share_the_cores_unless_the_user_chose(monkeypatch, plan):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: range(18), raising=False)
    monkeypatch.delenv("OMP_NUM_THREADS", raising=False)
    assert launch.placement(plan)["OMP_NUM_THREADS"] == "4"
    monkeypatch.setenv("OMP_NUM_THREADS", "7")
    assert launch.placement(plan)["OMP_NUM_THREADS"] == "7"


@pytest.mark.parametrize("in_use", [False, True], ids=["a run on the cpu", "a run on a gpu"])
def test_random_states_are_those_of_the_devices_in_use(monkeypatch, in_use):
    set_states = []
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "is_initialized", lambda: in_use)
    monkeypatch.setattr(torch.cuda, "get_rng_state", lambda: torch.tensor([7]))
    monkeypatch.setattr(torch.cuda, "set_rng_state", set_states.append)
    assert ("cuda" in checkpoint.rng_state()) is in_use
    checkpoint.restore_rng({"cpu": torch.get_rng_state(), "cuda": torch.tensor([7])})  # as a run on a GPU saved it
    assert set_states == [torch.tensor([7])] * in_use
