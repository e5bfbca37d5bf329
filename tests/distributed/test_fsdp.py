"""Models that FSDP2 has spread over two processes: what each holds, what goes wrong, and what is written of them."""

import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from easyrlhf.launch import free_port
from easyrlhf.userfile import load_module

ForkServer = load_module(Path(__file__).parents[1] / "forking" / "fork_server.py").ForkServer
pytestmark = [pytest.mark.distributed, pytest.mark.slow]

# What every script of a process begins with: the group, and a model of the folder "model", spread.
BEGIN = """
import errno, json, os
from pathlib import Path

import numpy as np
import torch

from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine import processes
from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.engine.fsdp import spread, spread_of
from easyrlhf.errors import EasyRLHFError
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.logprobs import row_token_logprobs
from easyrlhf.offline.reference import PAIR, RowsWithReference, fingerprint
from easyrlhf.stages import saved_parts

CPU = torch.device("cpu")
SETTINGS = OptimiserSettings(1e-2, "constant", 0.0, 0.0, 1e-8, 1.0, 10)


def load(**how):
    return load_causal_lm("model", load_tokenizer("model"), **{"dtype": torch.float32, "spread_on": CPU} | how)


def loss_of(lm, factor=1.0):
    ids, mask = torch.arange(3, 12)[None], torch.tensor([[0] + [1] * 8])
    return lambda: (-factor * row_token_logprobs(lm, ids, mask).sum(), {})


def tell(**what):
    line = json.dumps({"rank": processes.rank()} | what)
    os.write(1, f"{line}\\n".encode())  # at once: both processes write into one file


def error_of(job):
    try:
        job()
    except EasyRLHFError as error:
        return f"{type(error).__name__}: {error}"


processes_of = processes.join_group(CPU, 60, alone=True)
processes_of.__enter__()
"""

HELD = """
lm = spread(load(), CPU, torch.float32)
whole = load(spread_on=None)
tell(
    same=all(torch.equal(spread_of(lm).whole(name), weight) for name, weight in whole.named_parameters()),
    held=sum(part.to_local().numel() for part in spread_of(lm).parameters.values()),
    all=sum(weight.numel() for weight in whole.parameters()),
    digest=fingerprint(lm, RowsWithReference([], PAIR), np.array([])),
    wanted=fingerprint(whole, RowsWithReference([], PAIR), np.array([])),
)
"""

BROKEN = """
engine = make_engine(spread(load().train(), CPU, torch.float32), SETTINGS, None, torch.float32)
before = {name: part.clone() for name, part in engine.held().items()}
refused = error_of(lambda: engine.step([(loss_of(engine.model, torch.inf), 1.0)], 8))
kept = all(torch.equal(before[name], part) for name, part in engine.held().items())
engine.held()["model.norm.weight"][0] = torch.nan if processes.rank() else 1.0
tell(refused=refused, kept=kept, broken=error_of(engine.check_finite))
"""

FULL_DISK = """
def save_file(tensors, file, metadata):
    if processes.rank():
        raise OSError(errno.ENOSPC, "No space left on device")
    Path(file).touch()


lm = spread(load(), CPU, torch.float32)
saved_parts.save_file, saved_parts.LEAST = save_file, 1
tell(refused=error_of(lambda: saved_parts.save_parts(Path("out"), lm, load_tokenizer("model"))))
"""

# Weights that are changed between two passes without a gradient, and between two with one.
CHANGED = """
lm = spread(load().train(), CPU, torch.float32)
engine, plain = (make_engine(model, SETTINGS, None, torch.float32) for model in (lm, load(spread_on=None).train()))


def looked():
    with torch.no_grad():
        return [loss_of(model)()[0].item() for model in (lm, plain.model)]


losses, norms = [looked()], []
for turn in range(3):
    norms.append([engine.step([(loss_of(lm), 0.5)], 8)[0]["grad_norm"]])
    plain_loss = loss_of(plain.model)()[0] / 8
    plain.backward(plain_loss, last=True)
    norms[-1].append(torch.nn.utils.get_total_norm([p.grad for p in plain.trained.values()]).item())
    torch.nn.utils.clip_grad_norm_(plain.trained.values(), 1.0)
    plain.optimizer.step()
    plain.optimizer.zero_grad()
    losses.append(looked())
for name in engine.trained:  # as a checkpoint that is taken back
    with torch.no_grad():
        engine.restore(name, {"master": torch.zeros_like(spread_of(lm).whole(name))}, 0)
tell(losses=losses, norms=norms, zero=looked()[0], tokens=lm.config.vocab_size)
"""

MASTERS = """
lm = spread(load(dtype=torch.bfloat16).train(), CPU, torch.bfloat16)
settings = OptimiserSettings(1e-6, "constant", 0.0, 0.0, 1e-8, 1.0, 10)
engine = make_engine(lm, settings, None, torch.bfloat16)
before = {name: part.clone() for name, part in engine.held().items()}
engine.step([(loss_of(lm), 0.5)], 8)
after = engine.held()
moved = max((after[name] - part).abs().max().item() for name, part in before.items() if part.numel())
tell(kept=sorted({str(part.dtype) for part in after.values()}), moved=moved)
"""

SEVERAL_FILES = """
lm = spread(load(dtype=torch.bfloat16), CPU, torch.bfloat16)
saved_parts.LEAST = 1
saved_parts.save_parts(Path("out"), lm, load_tokenizer("model"))
again = load_causal_lm("out", load_tokenizer("out"), dtype=torch.bfloat16, spread_on=CPU)
spread(again, CPU, torch.bfloat16)
tell(whole=again is not None and spread_of(again).whole("model.norm.weight").tolist()[:2])
"""


@pytest.fixture(scope="module")
def forks() -> Iterator[ForkServer]:
    """What runs files in processes that have imported the libraries."""
    server = ForkServer("torch.distributed.fsdp")
    yield server
    server.close()


@pytest.fixture
def told(forks, chain, tmp_path):
    """told(script, count) -> what each of so many processes says that run it beside a copy of the sft model."""

    def run(script: str, count: int = 2) -> list[dict]:
        shutil.copytree(chain.sft, tmp_path / "model")
        (tmp_path / "script.py").write_text(BEGIN + script)
        shared = {"WORLD_SIZE": str(count), "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(free_port())}
        ranks = [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(count)]
        codes = forks.run([tmp_path / "script.py"], tmp_path, ranks, output=str(tmp_path / "said"), seconds=60)
        said = (tmp_path / "said").read_text()
        assert codes == [0] * count, said
        lines = [json.loads(line) for line in said.splitlines() if line.startswith('{"rank"')]
        return sorted(lines, key=lambda line: line["rank"])

    return run


@pytest.mark.parametrize("count", [2, 4])
def test_each_process_reads_its_rows_and_together_they_have_the_model(told, count):
    found = told(HELD, count)
    assert [line["same"] for line in found] == [True] * count
    assert sum(line["held"] for line in found) == found[0]["all"]
    assert max(line["held"] for line in found) <= found[0]["all"] / count * 1.05
    assert [line["digest"] == line["wanted"] for line in found] == [True] * count


def test_passes_and_steps_are_those_of_the_weights_as_they_are_then(told):
    for line in told(CHANGED):
        for ours, theirs in [*line["losses"], *line["norms"]]:
            assert ours == pytest.approx(theirs, rel=1e-5)
        assert line["losses"][0][0] > 1.1 * line["losses"][-1][0]
        assert line["zero"] == pytest.approx(8 * math.log(line["tokens"]), rel=1e-6)  # all are equally likely


def test_what_is_trained_in_bf16_moves_by_less_than_bf16_can_tell(told):
    for line in told(MASTERS):
        assert line["kept"] == ["torch.float32"]
        assert line["moved"] == pytest.approx(1e-6, rel=0.2)


def test_a_step_that_is_not_finite_leaves_the_weights_and_a_broken_weight_is_named(told):
    found = told(BROKEN)
    assert [line["kept"] for line in found] == [True, True]
    assert all(line["refused"].startswith("NotFinite: the loss is ") for line in found)
    assert all("the weights were not changed" in line["refused"] for line in found)
    assert found[1]["broken"].startswith("NotFinite: trained weights have become NaN or infinite: model.norm.weight.")
    assert found[0]["broken"].startswith("NotFinite: trained weights have become NaN or infinite")


def test_a_disk_that_is_full_for_one_process_ends_all_and_leaves_no_model(told, tmp_path):
    found = told(FULL_DISK)
    for line in found:
        assert line["refused"] == "RunError: out: could not be written: No space left on device; make room there"
    assert [path.name for path in (tmp_path / "out").iterdir()] == [".final-parts"]


def test_several_files_with_their_index_hold_what_one_file_held(told, chain, tmp_path):
    told(SEVERAL_FILES)
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    files = sorted(tmp_path.glob("out/model-*.safetensors"))
    assert len(files) >= 2
    found = {name: tensor for file in files for name, tensor in load_file(file).items()}
    wanted = load_file(Path(chain.sft) / "model.safetensors")
    assert found.keys() == wanted.keys() == index["weight_map"].keys()
    assert all((found[name] == wanted[name].bfloat16()).all() for name in wanted)
    assert index["metadata"]["total_size"] == sum(tensor.nbytes for tensor in found.values())
    assert not (tmp_path / "out" / ".final-parts").exists()
