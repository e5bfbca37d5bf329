"""The speed benchmarks with --device cuda, as far as a machine without a GPU can tell: what is asked of whom."""

import json
from dataclasses import asdict
from subprocess import CompletedProcess
from types import SimpleNamespace

import pytest
import run
import torch
from click.testing import CliRunner
from speed import measure, measures, memory, offline, online, results, roofline, settings, world
from speed.turns import Clock, by_turns

from easyrlhf.config import GRPOConfig

GPU, CPU = measure.Options(device="cuda"), measure.Options()
GIB = 2**30


class FakeGPU:
    """A GPU that works on after a call has returned, and a clock on the wall. It holds 3 GiB."""

    def __init__(self, monkeypatch):
        self.now, self.unfinished, self.peak, self.waits = 0.0, 0.0, 9 * GIB, 0
        monkeypatch.setattr("speed.turns.time.perf_counter", lambda: self.now)
        fakes = {"is_initialized": lambda: True, "memory_allocated": lambda: 3 * GIB, "synchronize": self.synchronize}
        fakes |= {"max_memory_allocated": lambda: self.peak, "reset_peak_memory_stats": self.reset}
        for name, fake in fakes.items():
            monkeypatch.setattr(torch.cuda, name, fake)

    def synchronize(self) -> None:
        """The time that passes until the work is done."""
        self.now, self.unfinished, self.waits = self.now + self.unfinished, 0.0, self.waits + 1

    def reset(self) -> None:
        """What is held is the highest so far."""
        self.peak = 3 * GIB

    def work(self, seconds: float, gib: float) -> int:
        """Be told to work, and return at once."""
        self.unfinished += seconds
        self.peak = max(self.peak, int((3 + gib) * GIB))
        return 10


@pytest.fixture
def gpu(monkeypatch) -> FakeGPU:
    return FakeGPU(monkeypatch)


def test_a_step_is_timed_until_the_gpu_is_done_and_from_when_it_was(gpu):
    gpu.unfinished = 50.0  # of something before, which is nobody's
    paired = by_turns(lambda: gpu.work(2, 1.5), lambda: gpu.work(6, 0.5), pairs=2)
    assert [lap.seconds for lap in paired.ours] == [2, 2, 2]
    assert [lap.seconds for lap in paired.theirs] == [6, 6, 6]
    assert gpu.waits == 2 * 6  # before either clock is read


def test_on_a_gpu_the_memory_of_a_step_takes_the_place_of_cpu_time(gpu):
    found = by_turns(lambda: gpu.work(2, 1.5), lambda: gpu.work(6, 0.5), pairs=2).as_result()
    assert found["ratio"] == pytest.approx(3)
    assert found["memory"] == (1.5, 0.5)
    assert "cpu_ratio" not in found
    cells = results.cells("X1", results.Result("x", "tokens/s", target=1, **found, **GPU.how("bf16")))
    row = dict(zip(results.HEADER.strip("| ").split(" | "), cells, strict=True))
    assert row["what"] == "x; a step takes 1.50 and 0.50 GiB"
    assert (row["ratio of CPU time"], row["threads"], row["dtype"]) == ("", "", "bfloat16")


def test_the_peak_of_m1_is_that_of_the_allocator_since_the_step_was_begun(gpu):
    assert memory.peak(lambda: lambda: gpu.work(1, 2), on_gpu=True) == 2 * GIB


def test_without_a_gpu_nothing_is_asked_of_it():
    lap = Clock().lap(1)
    assert lap.memory is None
    assert CPU.how("float32") == {"dtype": "float32", "threads": torch.get_num_threads()}


def test_a_gpu_changes_device_and_precision_of_both_sides(monkeypatch, tmp_path):
    monkeypatch.setattr(offline.ours, "OfflineSide", lambda config, rows: SimpleNamespace(config=config))
    monkeypatch.setattr(offline.world, "make_model", lambda folder, *_: str(folder))
    for options, devices, precision, optimiser in (
        (GPU, "0", "bf16", "adamw_torch_fused"),
        (CPU, "cpu", "float32", "adamw_torch"),
    ):
        case = offline.Case(options, "rm", [], 16)
        assert (case.side.config.devices, case.side.config.precision) == (devices, precision)
        flags = case.flags(4)
        assert (flags["use_cpu"], flags["bf16"], flags["optim"]) == (devices == "cpu", precision == "bf16", optimiser)
        assert (flags["per_device_train_batch_size"], flags["gradient_accumulation_steps"]) == (4, 4)
        folders, more = SimpleNamespace(policy=str(tmp_path)), {"reward_funcs": "rewards.py:reward"}
        config = online.config_of(GRPOConfig, options, folders, options.precision, **more)
        assert (config.devices, config.precision) == (devices, precision)


def test_a_measure_of_bf16_is_one_everywhere(monkeypatch):
    monkeypatch.setattr(offline.ours, "OfflineSide", lambda config, rows: SimpleNamespace(config=config))
    monkeypatch.setattr(offline.world, "make_model", lambda folder, *_: str(folder))
    case = offline.sft_case(CPU, "bf16")
    assert case.side.config.precision == "bf16" and case.flags(2)["bf16"]


@pytest.mark.parametrize(
    "options, faster, p1, p3",
    [
        (GPU, None, [("bf16", True)], ("bf16", True)),
        (CPU, torch.bfloat16, [("bf16", True), ("bf16", False)], ("float32", False)),
        (CPU, torch.float32, [("float32", True), ("float32", False)], ("float32", False)),
    ],
)
def test_ppo_and_its_peer_are_each_in_their_faster_precision(monkeypatch, options, faster, p1, p3):
    asked = []
    monkeypatch.setattr(roofline, "product_speed", lambda dtype, device: 2.0 if dtype == faster else 1.0)
    monkeypatch.setattr(online, "Folders", lambda *_: None)

    def ppo_against(folders, options, what, precision, bf16, target, **how):
        asked.append((precision, bf16, *how.values()))
        return SimpleNamespace(ratio=1.0)

    monkeypatch.setattr(online, "ppo_against", ppo_against)
    online.p1(options)
    online.p3(options)
    assert asked == [*p1, p3]
    asked.clear()
    online.p4(options)
    assert asked == [(*one, 4) for one in p1]


def test_on_a_gpu_a_peer_may_take_its_batch_at_once():
    assert GPU.rows_of_a_pass(4, 16) == (4, 16)
    assert CPU.rows_of_a_pass(4, 16) == (4,)


def test_peers_are_told_where_to_run():
    assert settings.common("cuda", "x")["use_cpu"] is False
    assert settings.common("cpu", "x")["use_cpu"] is True


# 2·896² + 2·896·128 + 3·896·4864 = 14,909,440 weights a layer, 24 layers; with 1536 and 8960 46,399,488, 28 layers
@pytest.mark.parametrize("size, trunk", [("0.5b", 357_826_560), ("1.5b", 1_299_185_664)])
def test_sizes_for_a_gpu_have_the_weights_counted_by_hand(size, trunk):
    assert world.SIZES[size].trunk == trunk
    assert world.SIZES[size].vocabulary == 151_936


def test_operations_of_half_a_billion_weights_are_those_counted_by_hand():
    # two tokens: trunk 2·357,826,560·2; head 2·151,936·896 for one; attention 2·24·896·2 for each of two
    by_hand = 3 * (1_431_306_240 + 272_269_312 + 172_032)
    assert roofline.flops(world.SIZES["0.5b"], rows=1, length=2) == by_hand


def test_a_vocabulary_of_152_thousand_words_reads_its_last():
    tokenizer = world.tokenizer_of(world.SIZES["1.5b"])
    assert tokenizer("w4 w151935 <|im_end|> w151936")["input_ids"] == [4, 151_935, world.EOS, world.UNKNOWN]


def test_all_sizes_that_can_be_asked_for_are_there():
    choices = next(option for option in run.main.params if option.name == "size").type.choices
    assert set(choices) == set(world.SIZES) - {"m9_32k"}
    assert set(run.DEFAULT_SIZES.values()) <= set(choices)


# --- The command


def invoke(*words: str):
    return CliRunner().invoke(run.main, words)


@pytest.fixture
def started(monkeypatch) -> list:
    """Commands and environments of the processes that would have been started; each finds one result."""
    found = []
    line = json.dumps(asdict(results.Result("x", "s", ours=1.0, target=1.0, ratio=2.0)))

    def start(command, env, **_):
        found.append((command, env))
        return CompletedProcess(command, 0, stdout=f"{line}\n")

    monkeypatch.setattr(run.subprocess, "run", start)
    return found


def test_without_a_gpu_cuda_is_refused_before_anything_is_made(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    refused = invoke("--device", "cuda", "--only", "R1")
    assert refused.exit_code == 2
    assert "--device cuda: torch sees no GPU here; " in refused.output
    assert not started


def test_measures_of_the_cpu_are_refused_on_a_gpu(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    refused = invoke("--device", "cuda", "--only", "R1,U1")
    assert refused.exit_code == 2 and not started
    assert "--only U1: is measured on a CPU" in refused.output
    assert "P1, P3, P4, R1, R2, S2, D1, K1, O1, G1, G2, U2, M1" in refused.output


def test_what_is_asked_for_reaches_the_process_of_a_measure(monkeypatch, started):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "3,5")
    asked = []
    monkeypatch.setattr(run, "run_measure", lambda name, **told: asked.append((name, measure.Options(**told))) or [])
    done = invoke("--device", "cuda", "--only", "S2,R1", "--lengths", "flat", "--pairs", "3")
    assert done.exit_code == 0, done.output
    for command, environment in started:
        assert invoke(*command[2:]).exit_code == 0
        assert environment["CUDA_VISIBLE_DEVICES"] == "3"  # a Trainer would spread itself over both
    options = measure.Options(size="0.5b", pairs=3, device="cuda", lengths="flat")
    assert asked == [("S2", options), ("R1", options)]


def test_on_a_gpu_all_its_measures_are_made_once_by_default(monkeypatch, started, tmp_path):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(run, "places", lambda *_: [])
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    assert invoke("--device", "cuda").exit_code == 0
    assert ",".join(command[3] for command, _ in started) == "P1,P3,P4,R1,R2,S2,D1,K1,O1,G1,G2,U2,M1"
    assert {environment["CUDA_VISIBLE_DEVICES"] for _, environment in started} == {"0"}


def test_on_a_cpu_all_measures_are_made_and_no_gpu_is_seen(monkeypatch, started):
    monkeypatch.setattr(run, "places", lambda *_: [])
    assert invoke().exit_code == 0
    assert {command[3] for command, _ in started} == set(measures.MEASURES)
    assert [env["OMP_NUM_THREADS"] for command, env in started if command[3] == "P1"] == ["1", "2"]
    assert {environment["CUDA_VISIBLE_DEVICES"] for _, environment in started} == {""}
