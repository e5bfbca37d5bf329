"""scripts/iterate.sh: what every round runs, in which order and on what; and one round on the toy world."""

import json
import os
import shlex
import subprocess
from pathlib import Path

import pytest

from easyrlhf.config import InitConfig
from easyrlhf.tools.init import init_model

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "iterate.sh"
# Tells what it was called with; makes the prompts, and ends as a page does that is left before all labels are there.
STUB = """#!/usr/bin/env bash
echo "$(basename "$0") $*"
case "$1 $2" in
    "data convert") mkdir -p "$(dirname "$7")"; printf '{"prompt": "%s"}\\n' $(seq "${PROMPTS:-5}") > "$7" ;;
    "label serve") exit "${LEFT:-0}" ;;
esac
"""
PEOPLE = ["--prompts", "p", "--heldout", "h", "--output_dir", "o", "--prompts_a_round", "2", "--labels_a_round", "9"]
JUDGE = [*PEOPLE[:-2], "--labeller", "ai", "--judge_config", "j.yaml"]


@pytest.fixture
def iterate(tmp_path):
    """iterate(words, **environment) -> exit code, the commands that it would have run, stderr."""
    for name in ("easyrlhf", "rm_train", "ppo_train", "python"):
        (tmp_path / name).write_text(STUB)
        (tmp_path / name).chmod(0o755)

    def run(*words: str, **more: str) -> tuple[int, list[str], str]:
        env = os.environ | {"PATH": f"{tmp_path}{os.pathsep}{os.environ['PATH']}"} | more
        done = subprocess.run([SCRIPT, *words], env=env, cwd=tmp_path, capture_output=True, text=True)
        return done.returncode, done.stdout.splitlines(), done.stderr

    return run


def a_round(number: int, policy: str, before: list[str], start: str = "outputs/sft") -> list[str]:
    """The commands of a round; before: the folders of the rounds until this one, and of this one."""
    here = f"o/round-{number}"
    data = ",".join(f"{folder}/comparisons.jsonl" for folder in before)
    policies = " ".join(f"{folder}/ppo" for folder in before)
    return [
        f"easyrlhf generate {policy} --prompts {here}/prompts.jsonl --samples 4 --seed {number} "
        f"--output {here}/answers.jsonl",
        f"easyrlhf label import {here}/answers.jsonl --labels {here}/labels",
        f"easyrlhf label serve --annotators ann,bob --until 9 --labels {here}/labels",
        f"easyrlhf label agree --labels {here}/labels",
        f"easyrlhf label export --labels {here}/labels --output {here}/comparisons.jsonl",
        f"rm_train --model outputs/sft --train_data {data} --output_dir {here}/rm",
        f"ppo_train --model {start} --reward_model {here}/rm --train_data o/prompts.jsonl --output_dir {here}/ppo",
        f"easyrlhf compare outputs/sft {policies} --prompts h --reward_model {here}/rm --output_dir {here}/compare",
    ]


@pytest.mark.parametrize("start", ["sft", "last"])
def test_rounds_mix_all_labels_and_sample_new_prompts_from_the_newest_policy(start, iterate, tmp_path):
    code, lines, _ = iterate(*PEOPLE, "--rounds", "2", "--annotators", "ann,bob", "--from", start)
    first, second = "o/round-1", "o/round-2"
    newest = f"{first}/ppo" if start == "last" else "outputs/sft"
    assert (code, lines) == (
        0,
        [
            "easyrlhf data convert p --kind prompt --output o/prompts.jsonl",
            *a_round(1, "outputs/sft", [first]),
            *a_round(2, f"{first}/ppo", [first, second], newest),
            f"python {ROOT}/scripts/rounds_page.py --output_dir o --rounds 2",
        ],
    )
    asked = [(tmp_path / f"{folder}/prompts.jsonl").read_text().split('"')[3::4] for folder in (first, second)]
    assert asked == [["1", "2"], ["3", "4"]]


def test_a_judge_labels_in_place_of_people(iterate):
    code, lines, _ = iterate(*JUDGE, "--rounds", "1", "--ppo_config", "c.yaml")
    assert code == 0 and "easyrlhf label ai --config j.yaml --labels o/round-1/labels" in lines
    assert not any("label serve" in line for line in lines)
    assert any(line.startswith("ppo_train --config c.yaml --model") for line in lines)


def test_the_loops_of_labelling_md(iterate):
    page = (ROOT / "docs" / "labelling.md").read_text()
    shown = [shlex.split(line) for line in page.splitlines() if line.startswith("scripts/iterate.sh ")]
    assert len(shown) == 2
    for number, words in enumerate(shown):
        code, lines, error = iterate(*words[1:], "--output_dir", f"o{number}", PROMPTS="1500")
        assert (code, lines[-1].split()[0]) == (0, "python"), error


def test_people_who_leave_early_end_it_with_3_and_it_goes_on(iterate):
    code, lines, _ = iterate(*PEOPLE, "--rounds", "2", LEFT="3")
    assert code == 3 and lines[-1].startswith("easyrlhf label serve")
    code, lines, error = iterate(*PEOPLE, "--rounds", "2")
    assert (code, lines[0].split()[:2], error) == (0, ["easyrlhf", "generate"], "")  # the prompts are there


def test_a_folder_that_was_begun_with_other_settings_is_refused(iterate):
    assert iterate(*PEOPLE, "--rounds", "1")[0] == 0
    code, lines, error = iterate(*PEOPLE, "--rounds", "1", "--model", "other")
    assert (code, lines) == (2, []) and "o/settings.txt: the loop in o was begun with other values of --model" in error


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([*PEOPLE, "--rounds", "3"], "--prompts p: holds 5 prompts, but 3 rounds of 2 need 6"),
        (["--heldout", "h"], "--prompts FILE is missing"),
        (["--prompts", "p"], "--heldout FILE is missing"),
        (PEOPLE[:-2], "--labels_a_round N is missing; --labeller human needs it"),
        ([*PEOPLE[:-2], "--labeller", "ai"], "--judge_config FILE is missing; --labeller ai needs it"),
        ([*PEOPLE, "--labeller", "robot"], "--labeller robot: must be human or ai"),
        ([*PEOPLE, "--from", "rm"], "--from rm: must be sft or last"),
        ([*PEOPLE, "--rounds", "0"], "--rounds 0: must be a number, 1 or more"),
        ([*PEOPLE, "--roads", "3"], "unknown argument --roads"),
        (["--rounds"], "--rounds needs a value"),
    ],
)
def test_a_wrong_command_line_labels_and_trains_nothing(words, message, iterate):
    code, lines, error = iterate(*words)
    assert code != 0 and message in error
    assert not [line for line in lines if "data convert" not in line]


@pytest.mark.slow
def test_a_round_on_the_toy_world_with_its_judge(tmp_path):
    toy, heldout = ROOT / "data" / "toy", tmp_path / "heldout.jsonl"
    heldout.write_text("".join((toy / "prompts_heldout.jsonl").read_text().splitlines(keepends=True)[:4]))
    init_model(InitConfig(preset="tiny", train_data=str(toy / "sft_heldout.jsonl"), output_dir=str(tmp_path / "init")))
    quiet = "report_to: none\ndevices: cpu\n"
    settings = {
        "generate": "max_new_tokens: 6\n",
        "judge": f"judge: {toy / 'judge.py'}:prefers\n",
        "rm": quiet + "batch_size: 4\nmax_steps: 2\nlearning_rate: 1.0e-3\nmax_length: 128\nmax_prompt_length: 96\n",
        "ppo": quiet + "response_length: 6\nbatch_size: 4\ntotal_episodes: 4\nnum_mini_batches: 1\n",
        "compare": f"max_new_tokens: 6\nreward_funcs: {toy / 'judge.py'}:gold\n",
    }
    words = ["--rounds", "1", "--labeller", "ai", "--model", str(tmp_path / "init"), "--prompts_a_round", "8"]
    words += ["--prompts", str(toy / "prompts_heldout.jsonl"), "--heldout", str(heldout), "--output_dir", "loop"]
    for name, text in settings.items():
        (tmp_path / f"{name}.yaml").write_text(text)
        words += [f"--{name}_config", f"{name}.yaml"]
    done = subprocess.run([SCRIPT, *words], cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    found = tmp_path / "loop" / "round-1"
    rows = [json.loads(line) for line in (found / "comparisons.jsonl").read_text().splitlines()]
    judged = [json.loads(line) for line in (found / "answers.jsonl").read_text().splitlines()]
    assert len(judged) == 32 and 0 < len(rows) <= 8
    assert all(0.5 <= row["chosen_probability"] <= 1 for row in rows)
    assert json.loads((found / "ppo" / "stage.json").read_text())["status"] == "complete"
    lines = [line for line in done.stdout.splitlines() if line.startswith("| ")]
    head, _, sft, first = ([cell.strip() for cell in line.strip("|").split("|")] for line in lines[-4:])
    assert head == ["", "labels", "agreement", "ceiling", "mean reward_model", "mean gold", "beats SFT", "KL from SFT"]
    compared = json.loads((found / "compare" / "compare.json").read_text())
    gold = [model["scores"]["gold"]["mean"] for model in compared["models"]]
    assert (sft[0], first[:2]) == ("SFT", ["round 1", str(len(rows))])
    assert [float(row[5].split()[0]) for row in (sft, first)] == pytest.approx(gold, abs=5e-4)
    assert first[1] in (tmp_path / "loop" / "rounds.html").read_text()
