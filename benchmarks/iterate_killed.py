"""scripts/iterate.sh killed (-9) once in each of its commands and run again: does it end with the same files?

    python benchmarks/iterate_killed.py            two rounds on the toy world with its judge; about five minutes

A command is killed a second after it began, or after as long as --seconds says. Compared are what rounds hand on: the
sampled answers, the exported labels, the weights of reward model and policy, and the answers that were compared.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import click

from easyrlhf import InitConfig, init_model

ROOT = Path(__file__).parents[1]
TOY = ROOT / "data" / "toy"
QUIET = "report_to: none\ndevices: cpu\n"
SETTINGS = {
    "generate": "max_new_tokens: 6\n",
    "judge": f"judge: {TOY / 'judge.py'}:prefers\n",
    "rm": QUIET + "batch_size: 4\nmax_steps: 6\nsave_steps: 2\nmax_length: 128\nmax_prompt_length: 96\n",
    "ppo": QUIET + "response_length: 6\nbatch_size: 4\ntotal_episodes: 16\nnum_mini_batches: 1\nsave_steps: 1\n",
    "compare": f"max_new_tokens: 6\nreward_funcs: {TOY / 'judge.py'}:gold\n",
}
# tells which command begins, then is that command
WRAPPER = '#!/usr/bin/env bash\necho "$(basename "$0") ${{1:-}} ${{2:-}}" >> {log}\nexec {real} "$@"\n'
HANDED_ON = ("answers.jsonl", "comparisons.jsonl", "rm/model.safetensors", "rm/value_head.safetensors")
HANDED_ON += ("ppo/model.safetensors", "compare/answers.jsonl")


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/iterate_killed", show_default=True)
@click.option("--seconds", default=1.0, show_default=True, help="How long a command lives before it is killed.")
def main(output_dir: Path, seconds: float):
    """Run the loop whole, then killed, and compare."""
    shutil.rmtree(output_dir, ignore_errors=True)
    output_dir = output_dir.absolute()
    (output_dir / "bin").mkdir(parents=True)
    log = output_dir / "commands.log"
    for name in ("easyrlhf", "rm_train", "ppo_train"):
        wrapper = output_dir / "bin" / name
        wrapper.write_text(WRAPPER.format(log=log, real=Path(sys.executable).parent / name))
        wrapper.chmod(0o755)
    whole, killed_often = (output_dir / name for name in ("whole", "killed"))  # alike in all paths that rows may hold
    words, _ = (loop_words(folder) for folder in (whole, killed_often))
    assert started(words, whole).wait() == 0
    kinds = {kind_of(line) for line in log.read_text().splitlines()}
    killed: set[str] = set()
    while (code := run_killed(words, killed_often, log, killed, seconds)) != 0:
        assert code < 0, f"ended with {code} by itself"
    print(f"killed in: {', '.join(sorted(killed))}" + f"; never in: {', '.join(kinds - killed)}" * (killed != kinds))
    same = [compare(output_dir, f"round-{number}/{name}") for number in (1, 2) for name in HANDED_ON]
    sys.exit(0 if all(same) else 1)


def loop_words(folder: Path) -> list[str]:
    """The loop on the toy world; what it needs is written into the folder."""
    folder.mkdir()
    (folder / "heldout.jsonl").write_text("".join((TOY / "prompts_heldout.jsonl").open().readlines()[:4]))
    init_model(InitConfig(preset="tiny", train_data=str(TOY / "sft_heldout.jsonl"), output_dir=str(folder / "init")))
    words = [str(ROOT / "scripts" / "iterate.sh"), "--rounds", "2", "--labeller", "ai", "--prompts_a_round", "16"]
    words += ["--model", "init", "--prompts", str(TOY / "prompts_heldout.jsonl"), "--heldout", "heldout.jsonl"]
    words += ["--output_dir", "loop"]
    for name, text in SETTINGS.items():
        (folder / f"{name}.yaml").write_text(text)
        words += [f"--{name}_config", f"{name}.yaml"]
    return words


def kind_of(line: str) -> str:
    """Which command a line of the log tells of: `ppo_train`, `easyrlhf generate`, `easyrlhf label ai`."""
    words = line.split()
    return " ".join(
        words[:3] if words[1:2] == ["label"] or words[1:2] == ["data"] else words[: 1 + (words[0] == "easyrlhf")]
    )


def started(words: list[str], folder: Path) -> subprocess.Popen:
    """The loop in a group of its own, by the wrapped commands."""
    env = os.environ | {
        "PATH": f"{folder.parent / 'bin'}{os.pathsep}{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    }
    with (folder / "output.log").open("a") as output:
        return subprocess.Popen(words, cwd=folder, env=env, start_new_session=True, stdout=output, stderr=output)


def run_killed(words: list[str], folder: Path, log: Path, killed: set[str], seconds: float) -> int:
    """Run it until a command begins that was not killed yet, kill all; the exit code, negative when it was killed."""
    log.write_text("")
    loop = started(words, folder)
    while loop.poll() is None:
        lines = log.read_text().splitlines()
        if lines and (kind := kind_of(lines[-1])) not in killed:
            time.sleep(seconds)
            killed.add(kind)
            os.killpg(loop.pid, signal.SIGKILL)
            return loop.wait()
        time.sleep(0.02)
    return loop.returncode


def compare(folder: Path, name: str) -> bool:
    """Whether a file of both loops has the same bytes, but for the hash of stage.json, which holds times; says so."""
    texts = [(folder / loop / "loop" / name).read_bytes() for loop in ("whole", "killed")]
    found = [re.sub(rb'"stage": "[0-9a-f]{16}"', b"", text) for text in texts]
    print(f"{name}: {'same' if found[0] == found[1] else 'DIFFERS'}")
    return found[0] == found[1]


if __name__ == "__main__":
    main()
