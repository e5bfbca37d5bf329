"""scripts/pipeline.sh, and the commands that docs/alignment.md and docs/choosing.md show."""

import os
import re
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from easyrlhf.cli.stages import cpo_train as cpo_main
from easyrlhf.cli.stages import dpo_train as dpo_main
from easyrlhf.cli.stages import ipo_train as ipo_main
from easyrlhf.cli.stages import kto_train as kto_main
from easyrlhf.cli.stages import orpo_train as orpo_main
from easyrlhf.cli.stages import rrhf_train as rrhf_main
from easyrlhf.cli.stages import simpo_train as simpo_main

ROOT = Path(__file__).parent.parent.parent
MAINS = {
    "dpo_train": dpo_main,
    "ipo_train": ipo_main,
    "kto_train": kto_main,
    "orpo_train": orpo_main,
    "simpo_train": simpo_main,
    "cpo_train": cpo_main,
    "rrhf_train": rrhf_main,
}
FINALS = ["ppo", "grpo", "dpo", "ipo", "kto", "orpo", "simpo", "cpo", "rrhf"]


def shown(page: str) -> list[list[str]]:
    """The commands in the bash blocks of a page."""
    blocks = re.findall(r"```bash\n(.*?)```", (ROOT / "docs" / page).read_text(), flags=re.DOTALL)
    return [words for line in "".join(blocks).splitlines() if (words := shlex.split(line, comments=True))]


@pytest.mark.parametrize("words", shown("alignment.md"), ids=" ".join)
def test_every_command_shown_plans_a_run(words, chain, data, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "outputs").mkdir()
    (tmp_path / "Qwen").mkdir()
    (tmp_path / "outputs" / "sft").symlink_to(chain.sft)
    (tmp_path / "Qwen" / "Qwen2.5-0.5B").symlink_to(chain.init)
    for name in ("pairs", "feedback", "rankings"):
        shutil.copy(data.pairs, tmp_path / f"{name}.jsonl")
    with pytest.raises(SystemExit) as end:
        MAINS[words[0]]([*words[1:], "--dry_run"])
    assert end.value.code == 0, capsys.readouterr().err
    assert "48 rows read = 48 used" in capsys.readouterr().out


def test_a_command_of_every_alignment_stage_is_shown():
    assert {words[0] for words in shown("alignment.md")} == MAINS.keys()


@pytest.fixture
def pipeline(tmp_path):
    """pipeline(words) -> exit code, the commands that it would have run, stderr."""
    stub = '#!/usr/bin/env bash\necho "$(basename "$0") $*"\n'
    for name in ("sft", "rm", *FINALS):
        (tmp_path / f"{name}_train").write_text(stub)
        (tmp_path / f"{name}_train").chmod(0o755)

    def run(*words: str) -> tuple[int, list[str], str]:
        path = f"{tmp_path}{os.pathsep}{os.environ['PATH']}"
        command = [ROOT / "scripts" / "pipeline.sh", *words]
        done = subprocess.run(command, env=os.environ | {"PATH": path}, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


ALIGN = ["--sft_data", "d", "--pairs", "p", "--model", "base", "--output_dir", "o"]


@pytest.mark.parametrize("final", ["dpo", "ipo", "kto", "simpo", "cpo", "rrhf"])
def test_alignment_follows_sft_without_a_reward_model(final, pipeline):
    assert pipeline("--final", final, *ALIGN)[:2] == (
        0,
        [
            "sft_train --model base --train_data d --output_dir o/sft",
            f"{final}_train --model o/sft --train_data p --output_dir o/{final}",
        ],
    )


def test_orpo_starts_from_the_base_model(pipeline):
    assert pipeline("--final", "orpo", *ALIGN, "--final_config", "c.yaml")[:2] == (
        0,
        ["orpo_train --config c.yaml --model base --train_data p --output_dir o/orpo"],
    )


@pytest.mark.parametrize("final", ["ppo", "grpo"])
def test_online_methods_have_a_reward_model(final, pipeline):
    words = ["--sft_data", "d", "--rm_data", "c", "--prompts", "q", "--output_dir", "o"]
    words += [] if final == "ppo" else ["--final", final]
    assert pipeline(*words)[:2] == (
        0,
        [
            "sft_train --model Qwen/Qwen2.5-0.5B --train_data d --output_dir o/sft",
            "rm_train --model o/sft --train_data c --output_dir o/rm",
            f"{final}_train --model o/sft --reward_model o/rm --train_data q --output_dir o/{final}",
        ],
    )


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--final", "dqo"], "--final dqo: must be ppo, grpo, dpo"),
        (["--final", "dpo", "--sft_data", "d"], "--pairs FILE is missing; --final dpo needs it"),
        (["--sft_data", "d"], "--rm_data FILE is missing; --final ppo needs it"),
        (["--pears", "p"], "unknown argument --pears"),
        (["--pairs"], "--pairs needs a value"),
    ],
)
def test_a_wrong_command_line_runs_nothing(words, message, pipeline):
    code, commands, error = pipeline(*words)
    assert code != 0 and not commands and message in error


def test_help_names_every_last_stage(pipeline):
    code, lines, _ = pipeline("--help")
    assert code == 0 and all(re.search(rf"\b{final}\b", "\n".join(lines)) for final in FINALS)
    assert not any(line.startswith("#") for line in lines)


def test_the_chains_of_choosing_md(pipeline):
    for words in shown("choosing.md"):
        if words[0] == "scripts/pipeline.sh":
            assert pipeline(*words[1:])[0] == 0
