"""Tests on a real model, SmolLM2-135M-Instruct: scripts/real_model.py puts it into the user's cache once.

What a user would type is run as it is typed, in processes of their own: nothing may be said on standard error.
"""

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "real_model.py"
FOLDER = load_module(SCRIPT).default_folder()  # now: other rooms move the cache while their tests run
UNAVAILABLE = 3  # the script's exit code where its packages cannot be downloaded

QUESTIONS = [  # question, answer, worse answer
    ("What is the capital of Italy?", "The capital of Italy is Rome.", "I do not know."),
    ("What is 2 + 3?", "2 + 3 is 5.", "It is 6."),
    ("Name a colour of the sky.", "Blue.", "The sky is a kind of soup."),
    ("Say hello in French.", "Bonjour!", "Hello in French is not possible, sorry about that."),
    ("What do bees make?", "Bees make honey.", "Bees make bread."),
    ("How many legs has a spider?", "A spider has eight legs.", "Six."),
]
LENGTHS = "--max_length 96 --max_prompt_length 64 "
TINY = LENGTHS + "--devices cpu --report_to none --max_steps 2 --log_steps 1 --save_steps 0"
ROWS = "--batch_size 6 --epochs 2 --train_data "
ONLINE = "--lora_r 4 --train_data prompts.jsonl --batch_size 4 --total_episodes 8 --num_sample_generations 0 "
RUNS = {
    "sft": f"sft_train {ROWS} sft.jsonl --lora_r 4",
    "sft_full": f"sft_train {ROWS} sft.jsonl",
    # hardly anything moves: the head that is saved is the one that the first loss is of
    "rm": f"rm_train {ROWS} pairs.jsonl --learning_rate 1e-8 --lora_r 4 --valid_data pairs.jsonl --examine_rows 1",
    "dpo": f"dpo_train {ROWS} pairs.jsonl --lora_r 4",
    "kto": f"kto_train {ROWS} feedback.jsonl --lora_r 4",
    **{stage: f"{stage}_train {ROWS} pairs.jsonl --lora_r 4" for stage in ("ipo", "orpo", "simpo", "cpo")},
    "rrhf": f"rrhf_train {ROWS} rankings.jsonl --lora_r 4",
    "grpo": f"grpo_train {ONLINE} --num_generations 2 --max_completion_length 8 --beta 0.04 --reward_funcs len.py:f",
    "ppo": f"ppo_train {ONLINE} --response_length 8 --num_ppo_epochs 1 --reward_model rm",
}


def turn(role: str, content: str) -> list[dict]:
    return [{"role": role, "content": content}]


@pytest.fixture(scope="session")
def real_model() -> str:
    """The folder of the model, made where it is not there yet; the test is skipped where that takes a network."""
    command = [sys.executable, str(SCRIPT), "--output_dir", str(FOLDER)]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    if done.returncode == UNAVAILABLE:
        pytest.skip(f"no real model: {done.stderr.strip().splitlines()[-1]}")
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


@pytest.fixture(scope="session")
def real_tokenizer(real_model):
    """The model's tokenizer as stages have it."""
    from easyrlhf.data.tokenizer import load_tokenizer

    return load_tokenizer(real_model)


@pytest.fixture(scope="session")
def real_lm(real_model):
    """The model as transformers has it; nobody changes it."""
    from transformers import AutoModelForCausalLM

    return AutoModelForCausalLM.from_pretrained(real_model).eval().requires_grad_(False)


@pytest.fixture(scope="session")
def home(tmp_path_factory) -> Path:
    """A folder with rows of every kind and a reward function; runs go into it."""
    folder = tmp_path_factory.mktemp("real")
    asked = [(turn("user", q), turn("assistant", good), turn("assistant", bad)) for q, good, bad in QUESTIONS]
    rows = {
        "sft": [{"messages": question + good} for question, good, _ in asked],
        "pairs": [{"prompt": question, "chosen": good, "rejected": bad} for question, good, bad in asked],
        "rankings": [
            {"prompt": question, "completions": [bad, good], "scores": [0.1, 0.7]} for question, good, bad in asked
        ],
        "prompts": [{"prompt": question} for question, _, _ in asked],
        "feedback": [
            {"prompt": question, "completion": said, "label": label}
            for question, good, bad in asked
            for said, label in ((good, True), (bad, False))
        ],
    }
    for name, some in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in some))
    shortest = "def f(completions, **kwargs):\n    return [-len(c[0]['content']) / 100 for c in completions]\n"
    (folder / "len.py").write_text(shortest)
    return folder


@pytest.fixture(scope="session")
def said(home) -> Callable[..., str]:
    """said(program, *words, stdin="") -> what it printed; it has to succeed, with no warning on standard error."""

    def run(program: str, *words: object, stdin: str = "") -> str:
        command = [str(Path(sys.executable).parent / program), *map(str, words)]
        own = {"OMP_NUM_THREADS": "1", "EASYRLHF_CACHE": str(home / "cache"), "PYTHONWARNINGS": "default"}
        how = {"cwd": home, "env": os.environ | own, "input": stdin, "capture_output": True, "text": True}
        done = subprocess.run(command, **how, timeout=500)
        assert done.returncode == 0, done.stdout + done.stderr
        first_words = ("reading ", "loading ", "working out ")
        assert [line for line in done.stderr.splitlines() if not line.startswith(first_words)] == []
        return done.stdout

    return run


@pytest.fixture(scope="session")
def trained(real_model, home, said) -> Callable[[str], Path]:
    """trained(name of one of RUNS) -> its folder; it is run by whoever asks first."""

    def folder_of(name: str) -> Path:
        folder = home / name
        if not folder.exists():
            if name == "ppo":
                folder_of("rm")
            program, *words = f"{RUNS[name]} {TINY}".split()
            said(program, "--model", real_model, *words, "--output_dir", folder)
        return folder

    return folder_of


@pytest.fixture(scope="session")
def repository() -> Path:
    """The folder of the project."""
    return ROOT
