"""Damaged model folders of every kind: refused with a reason, or loaded as the very same model."""

import json
import random
import re
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from easyrlhf.config import ChatConfig, ServeRewardConfig
from easyrlhf.errors import InputError
from easyrlhf.tools.policy import load_sampler, read_renderer
from easyrlhf.tools.scoring import load_scorer

IDS = [[5, 6, 7, 8, 9], [40, 41, 42, 2], [100, 3, 250]]
STRANGE = [None, True, -1, 0, 1, 7, 10**12, 1e-30, float("inf"), "", "x", "llama", [], [1], {}, {"a": 1}]
FILES = ("config.json", "tokenizer.json", "tokenizer_config.json", "generation_config.json", "stage.json")
Damage = Callable[[Path, random.Random], None]


def flip(file: Path, rng: random.Random) -> None:
    """Change one byte."""
    content = bytearray(file.read_bytes())
    content[rng.randrange(len(content))] ^= 1 << rng.randrange(8)
    file.write_bytes(content)


def cut(file: Path, rng: random.Random) -> None:
    """Keep the beginning."""
    content = file.read_bytes()
    file.write_bytes(content[: rng.randrange(len(content))])


def grow(file: Path, rng: random.Random) -> None:
    """Put bytes behind."""
    file.write_bytes(file.read_bytes() + rng.randbytes(rng.randrange(1, 100)))


def remove(file: Path, rng: random.Random) -> None:
    """Take the file away."""
    file.unlink()


def into_folder(file: Path, rng: random.Random) -> None:
    """Put a folder in its place."""
    file.unlink()
    file.mkdir()


def edit_json(file: Path, rng: random.Random) -> None:
    """Change, remove or add one value somewhere in a JSON file, or another kind of file's byte."""
    if file.suffix != ".json":
        return flip(file, rng)
    root = json.loads(file.read_text())
    node = root
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        key = rng.choice(keys)
        if not (isinstance(node[key], dict | list) and node[key] and rng.random() < 0.7):
            break
        node = node[key]
    if rng.random() < 0.3:
        del node[key]
    else:
        node[key] = rng.choice(STRANGE)
    file.write_text(json.dumps(root))


DAMAGES: list[Damage] = [flip, flip, cut, grow, remove, into_folder, edit_json, edit_json, edit_json]


@torch.no_grad()
def scores(folder: Path) -> torch.Tensor:
    """What a reward-model folder says of IDS, by the way of every command that scores."""
    model = load_scorer(ServeRewardConfig(reward_model=str(folder), devices="cpu")).model
    return torch.cat([model.scores(torch.tensor([row]), torch.tensor([len(row)])) for row in IDS])


@torch.no_grad()
def logits(folder: Path) -> torch.Tensor:
    """What a language-model folder says of IDS, by the way of every command that samples."""
    config = ChatConfig(model=str(folder), devices="cpu")
    lm = load_sampler(config, read_renderer(config), 1).lm
    return torch.cat([lm(input_ids=torch.tensor([row])).logits[0, -1] for row in IDS])


def tokens(folder: Path, what: Callable) -> list[int]:
    """What a folder's tokenizer makes of a text."""
    renderer = read_renderer(ChatConfig(model=str(folder))) if what is logits else None
    if renderer is None:
        renderer = load_scorer(ServeRewardConfig(reward_model=str(folder), devices="cpu")).renderer
    return renderer.prompt_ids([{"role": "user", "content": "Say red, two times: cat dog."}])


def damaged(whole: Path, folder: Path, seed: int) -> str:
    """A copy of the folder with one file damaged; returns what was done."""
    shutil.copytree(whole, folder)
    rng = random.Random(seed)
    candidates = sorted(p for p in folder.iterdir() if p.name in FILES or p.suffix in (".safetensors", ".jinja"))
    file, damage = rng.choice(candidates), rng.choice(DAMAGES)
    damage(file, rng)
    return f"{damage.__name__} {file.name}"


def try_folders(whole: Path, what: Callable, seeds: range, tmp_path: Path) -> dict[str, int]:
    """Load a damaged copy for each seed; every one is refused or the same."""
    expected, read = what(whole), tokens(whole, what)
    found = {"refused": 0, "same": 0}
    for seed in seeds:
        folder = tmp_path / f"folder_{seed}"
        done = damaged(whole, folder, seed)
        try:
            given = what(folder)
            assert torch.equal(given, expected), (seed, done, given - expected)
            assert tokens(folder, what) == read, (seed, done)
            found["same"] += 1
        except InputError as error:
            assert str(error).strip() and "\n\n" not in str(error), (seed, done)
            found["refused"] += 1
        except Exception as error:
            raise AssertionError(f"seed {seed}, {done}: {error!r}") from error
        shutil.rmtree(folder)
    return found


def same_in_every_run(folder: Path, root: Path, copy: Path) -> Path:
    """A copy of a model's folder in which no path below `root`, no time and no last digit depends on run or machine.

    A seed has to do the same damage everywhere: it falls on the bytes of stage.json by their number.
    """
    shutil.copytree(folder, copy, ignore=shutil.ignore_patterns("checkpoints", "plots", "runs"))
    text = (copy / "stage.json").read_text().replace(str(root), "/runs")
    text = re.sub(r'"(wall_seconds|tokens_per_second|time/step)": [^,\n]+', r'"\1": 1.5', text)
    info = json.loads(text, parse_float=lambda digits: round(float(digits), 6))
    (copy / "stage.json").write_text(json.dumps(info, indent=2) + "\n")
    return copy


@pytest.fixture(scope="module")
def rm_folder(rm, tmp_path_factory) -> Path:
    """The folder of a reward model, with a manifest."""
    return same_in_every_run(rm.root / "rm", rm.root, tmp_path_factory.mktemp("same") / "rm")


@pytest.fixture(scope="module")
def lm_folder(rm, tmp_path_factory) -> Path:
    """The folder of a language model, with a manifest."""
    return same_in_every_run(rm.root / "init", rm.root, tmp_path_factory.mktemp("same") / "init")


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 230), marks=pytest.mark.slow)])
def test_a_damaged_reward_model_is_refused_or_the_same(rm_folder, seeds, tmp_path):
    found = try_folders(rm_folder, scores, seeds, tmp_path)
    assert min(found.values()) > 0 and sum(found.values()) == len(seeds)


@pytest.mark.parametrize("seeds", [range(30), pytest.param(range(30, 230), marks=pytest.mark.slow)])
def test_a_damaged_language_model_is_refused_or_the_same(lm_folder, seeds, tmp_path):
    found = try_folders(lm_folder, logits, seeds, tmp_path)
    assert min(found.values()) > 0 and sum(found.values()) == len(seeds)
