"""Two machines, each a network of its own, and launchers that are not ours."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.distributed, pytest.mark.slow]

PROGRAM = Path(sys.executable).with_name("sft_train")
NAMES = ("easyrlhf-a", "easyrlhf-b")
SETTINGS = {"max_length": 64, "max_prompt_length": 40, "batch_size": 9, "learning_rate": 1e-3, "report_to": "none"}


def run(*words: str) -> None:
    subprocess.run(words, check=True, capture_output=True)


@pytest.fixture
def networks():
    """Two network namespaces with a cable between them: 10.77.0.1 and 10.77.0.2."""
    if os.geteuid() != 0 or shutil.which("ip") is None:
        pytest.skip("network namespaces need root and the program ip")
    try:
        for name in NAMES:
            run("ip", "netns", "add", name)
        run("ip", "link", "add", "cable-a", "type", "veth", "peer", "name", "cable-b")
        for number, (name, end) in enumerate(zip(NAMES, "ab", strict=True), 1):
            run("ip", "link", "set", f"cable-{end}", "netns", name)
            inside = ("ip", "netns", "exec", name, "ip")
            run(*inside, "addr", "add", f"10.77.0.{number}/24", "dev", f"cable-{end}")
            run(*inside, "link", "set", "lo", "up")
            run(*inside, "link", "set", f"cable-{end}", "up")
    except subprocess.CalledProcessError as error:
        pytest.skip(f"this machine allows no network namespaces: {error.stderr.decode().strip()}")
    else:
        yield NAMES
    finally:
        for name in NAMES:
            subprocess.run(["ip", "netns", "del", name], capture_output=True, check=False)


def flags(**settings) -> list[str]:
    return [f"--{name}={value}" for name, value in (SETTINGS | settings).items()]


def losses(folder: Path) -> list[float]:
    return [json.loads(line)["loss"] for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.fixture
def alone(data, chain, tmp_path) -> list[float]:
    """The losses of one process."""
    settings = flags(devices="cpu", model=chain.init, train_data=data.sft, output_dir=tmp_path / "alone")
    subprocess.run([PROGRAM, *settings], check=True, capture_output=True)
    return losses(tmp_path / "alone")


def test_two_networks_end_where_one_process_ends(networks, data, chain, alone, tmp_path):
    given = flags(devices="cpu", nnodes=2, master_addr="10.77.0.1", master_port=29641, deepspeed="zero3")
    given += [f"--model={chain.init}", f"--train_data={data.sft}", f"--output_dir={tmp_path / 'run'}"]
    nodes = [
        subprocess.Popen(
            ["ip", "netns", "exec", name, str(PROGRAM), *given, f"--node_rank={number}"],
            env=os.environ | {"GLOO_SOCKET_IFNAME": f"cable-{end}", "OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for number, (name, end) in enumerate(zip(networks, "ab", strict=True))
    ]
    said = [node.communicate(timeout=240)[0] for node in nodes]
    assert [node.returncode for node in nodes] == [0, 0], "\n".join(said)
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=1e-4)


def test_torchrun_starts_the_processes_as_well(data, chain, alone, tmp_path):
    words = [PROGRAM.with_name("torchrun"), "--standalone", "--nproc_per_node=2", "--no-python", PROGRAM]
    settings = flags(devices="cpu", model=chain.init, train_data=data.sft, output_dir=tmp_path / "run")
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run([*words, *settings], env=environment, capture_output=True, text=True, timeout=240)
    assert done.returncode == 0, done.stdout + done.stderr
    assert losses(tmp_path / "run") == pytest.approx(alone, rel=1e-4)
