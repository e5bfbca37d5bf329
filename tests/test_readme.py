"""Every command of README.md is run, as written, in a folder where the files it names exist."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parent.parent
ForkServer = load_module(ROOT / "tests" / "forking" / "fork_server.py").ForkServer
STAGES = ("sft_train", "rm_train", "ppo_train", "grpo_train", "dpo_train", "easyrlhf")


def commands() -> list[str]:
    """The lines of the bash blocks, comments and continuations resolved."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "README.md").read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [line for line in (" ".join(shlex.split(line, comments=True)) for line in lines) if line]


def environment(cache: Path) -> dict[str, str]:
    """The scripts of this Python first on the PATH, nothing fetched from a hub, nothing kept in the home folder."""
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    own = {"PATH": path, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "EASYRLHF_CACHE": str(cache)}
    return os.environ | own


def run(command: list[str], folder: Path, seconds: int = 300) -> str:
    done = subprocess.run(
        command, cwd=folder, env=environment(folder / ".cache"), capture_output=True, text=True, timeout=seconds
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


def test_every_command_is_one_that_a_test_below_runs():
    unknown = [
        c for c in commands() if c.split()[0] not in (*STAGES, "pip", "./scripts/quickstart.sh", "./scripts/test.sh")
    ]
    assert not unknown
    assert {"sft_train", "rm_train", "ppo_train"} <= {command.split()[0] for command in commands()}


@pytest.mark.timeout(900)
def test_the_stages_run_one_after_the_other_as_written(tmp_path):
    toy = ROOT / "data" / "toy"
    for name, source in {
        "demos": "sft_heldout",
        "comparisons": "comparisons_heldout",
        "prompts": "prompts_heldout",
    }.items():
        rows = (toy / f"{source}.jsonl").read_text().splitlines(keepends=True)[:64]
        (tmp_path / f"{name}.jsonl").write_text("".join(rows))
    shutil.copytree(ROOT / "configs", tmp_path / "configs")
    # stands in for the hub model of the examples: a folder of that name
    first = "easyrlhf init --train_data demos.jsonl --output_dir Qwen/Qwen2.5-0.5B"
    server, said = ForkServer(**environment(tmp_path / ".cache")), tmp_path / "said.txt"
    for command in [first, *(command for command in commands() if command.split()[0] in STAGES)]:
        codes = server.run(shlex.split(command), tmp_path, output=str(said), seconds=600)
        assert codes == [0], f"{command}\n{said.read_text()}"
    server.close()
    assert (tmp_path / "outputs" / "ppo" / "value_model" / "value_head.safetensors").exists()


def test_pip_installs_it():
    run([sys.executable, "-m", "pip", "install", ".", "--no-deps", "--dry-run", "--no-build-isolation", "-q"], ROOT)


def test_the_test_script_finds_the_tests():
    assert "test_readme.py" in run(["./scripts/test.sh", "--collect-only", "-q", "tests/test_readme.py"], ROOT)


@pytest.mark.slow
@pytest.mark.timeout(1500)
def test_the_quickstart_runs_to_its_verdict(tmp_path):
    out = run(["./scripts/quickstart.sh", "--output_dir", str(tmp_path / "quickstart")], ROOT, seconds=1400)
    assert "PPO beat SFT" in out
    again = run(["./scripts/quickstart.sh", "--output_dir", str(tmp_path / "quickstart")], ROOT)
    assert again.count("already complete") == 3
