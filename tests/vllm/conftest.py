"""Tests against the real vLLM, in an environment of its own: scripts/test_vllm.sh makes it."""

import json
import os
import signal
import socket
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import yaml

ROOT = Path(__file__).parents[2]
TOY = ROOT / "data" / "toy"
RECIPES = ROOT / "configs" / "recipes"
ENVIRONMENT = {
    "OMP_NUM_THREADS": "1",
    "VLLM_CPU_KVCACHE_SPACE": "1",  # GiB; by default it takes what the machine has
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
os.environ |= ENVIRONMENT


def pytest_collection_modifyitems(items):
    """Mark every test of this room, and skip it where there is no vLLM."""
    for item in items:
        if Path(__file__).parent in item.path.parents:
            item.add_marker(pytest.mark.vllm)
            item.add_marker(pytest.mark.slow)
            if find_spec("vllm") is None:
                item.add_marker(pytest.mark.skip(reason="vllm is not installed; scripts/test_vllm.sh runs these"))


def program(name: str, *words: str) -> list[str]:
    """The command line of one of this environment's programs."""
    return [str(Path(sys.executable).parent / name), *map(str, words)]


def ran(name: str, *words: str) -> str:
    """What a program says that has to succeed."""
    done = subprocess.run(program(name, *words), cwd=ROOT, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-6000:]
    return done.stdout


def metrics(folder: Path) -> list[dict[str, float]]:
    """The steps of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture(scope="session")
def toy(tmp_path_factory) -> Path:
    """Folder with the toy world's init/, sft/ and rm/ of a short training."""
    home = tmp_path_factory.mktemp("toy")
    ran("easyrlhf", "init", "--train_data", f"{TOY}/sft.jsonl.gz", "--output_dir", home / "init")
    ran("sft_train", "--config", RECIPES / "toy_sft.yaml", "--model", home / "init", "--output_dir", home / "sft")
    ran("rm_train", "--config", RECIPES / "toy_rm.yaml", "--model", home / "sft", "--output_dir", home / "rm")
    return home


@pytest.fixture(scope="session")
def short(toy):
    """The words of a short PPO on the toy world with more settings, into a folder beside the models."""

    def words_of(name: str, *words: str, steps: int) -> list[str]:
        given = ["--config", RECIPES / "toy_ppo.yaml", "--model", toy / "sft", "--reward_model", toy / "rm"]
        given += ["--output_dir", toy / name, "--max_steps", steps, "--value_warmup_steps", 0, "--save_steps", 1]
        given += ["--valid_data", "none", "--eval_steps", "none", "--num_sample_generations", 0]
        return [str(word) for word in (*given, *words)]

    return words_of


@pytest.fixture(scope="session")
def begin(short):
    """Starts such a PPO."""

    def start(name: str, *words: str, steps: int) -> subprocess.Popen:
        how = {"cwd": ROOT, "stdout": subprocess.PIPE, "stderr": subprocess.PIPE, "text": True}
        return subprocess.Popen(program("ppo_train", *short(name, *words, steps=steps)), **how)

    return start


@pytest.fixture(scope="session")
def ppo(toy, begin):
    """Runs such a PPO to its end; gives its steps."""

    def run(name: str, *words: str, steps: int = 5) -> list[dict[str, float]]:
        command = begin(name, *words, steps=steps)
        out, err = command.communicate(timeout=600)
        assert command.returncode == 0, out[-3000:] + err[-6000:]
        return metrics(toy / name)

    return run


class Serving:
    """A vLLM server for runs on the toy world, which can be started again."""

    def __init__(self, toy: Path, *words: str):
        self.home, self.words = toy, words
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]

    @property
    def flags(self) -> list[str]:
        """What a run is told to sample there."""
        return ["--rollout", "vllm", "--vllm_mode", "server", "--vllm_port", str(self.port), "--vllm_timeout", "120"]

    def start(self) -> None:
        """Start it; runs wait until it answers."""
        recipe = yaml.safe_load((RECIPES / "toy_ppo.yaml").read_text())
        (self.home / "served.yaml").write_text(yaml.safe_dump(recipe | dict(self.words)))
        words = program("easyrlhf", "vllm_serve", self.home / "served.yaml", "--model", self.home / "sft")
        with (self.home / "server.log").open("a") as log:
            command = [*words, "--vllm_port", str(self.port)]
            self.process = subprocess.Popen(command, cwd=ROOT, stdout=log, stderr=log, start_new_session=True)

    def kill(self) -> None:
        """End it and all it has started, at once."""
        os.killpg(self.process.pid, signal.SIGKILL)
        self.process.wait()


@pytest.fixture(scope="module")
def serving(toy):
    """Starts servers; they end with the module."""
    started = []

    def serve(**settings) -> Serving:
        started.append(Serving(toy, *settings.items()))
        started[-1].start()
        return started[-1]

    yield serve
    for server in started:
        server.kill()
