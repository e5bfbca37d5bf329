"""Tests on a real model, SmolLM2-135M-Instruct: scripts/real_model.py puts it into the user's cache once."""

import subprocess
import sys
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "scripts" / "real_model.py"
FOLDER = load_module(SCRIPT).default_folder()  # now: other rooms move the cache while their tests run
UNAVAILABLE = 3  # the script's exit code where its packages cannot be downloaded


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
