"""A real pretrained model, trained and measured on a CPU: SmolLM2-135M-Instruct, which scripts/real_model.py fetches.

    python benchmarks/real_model.py additions                       grpo_train learns to add: three seeds
    python benchmarks/real_model.py decoding                        sampling beside transformers' generate
    python benchmarks/real_model.py reward --data helpful.jsonl.gz  rm_train on the short rows of hh-rlhf
    python benchmarks/real_model.py ppo                             ppo_train by that reward model

Each prints its table; docs/real_models.md has what was seen. Every stage is a command in a process of its own, on one
thread unless OMP_NUM_THREADS says otherwise; a finished one is taken as it is. `reward` takes any comparisons;
`easyrlhf data download hh-rlhf` gets those.
"""

import json
import os
import random
import re
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import click
import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel

from easyrlhf.data.kinds import as_kind
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import read_records
from easyrlhf.data.records import Comparison
from easyrlhf.data.render import Renderer
from easyrlhf.data.sources import open_sources
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.data.tokens import DataSettings, load_tokens
from easyrlhf.models.folder import load_scalar_model
from easyrlhf.models.load import ends_of, load_causal_lm
from easyrlhf.report.rm_eval import WILSON_Z, wilson
from easyrlhf.rewards.model import ScoringModel, score_sequences
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.userfile import load_module

ROOT = Path(__file__).resolve().parents[1]
QUESTION = "What is {} + {}? Answer with the number only."
NUMBERS = range(2, 31)
HELD_OUT = 0.2
TEMPERATURE, LONGEST = 0.7, 16  # of answers to additions, in training and in measuring
COMMON = {"devices": "cpu", "report_to": "none", "lora_r": 16, "save_steps": 0, "log_steps": 1}
TALK = [
    "Tell me about the sea.",
    "Why is the sky blue?",
    "Write a short story about a fox and a hen who share a house.",
    "How do I bake bread?",
    "Give me three tips for learning a language.",
    "What is a good name for a grey cat, and why?",
    "Explain what a bicycle is to somebody who has never seen one.",
    "What should I pack for a week in the mountains?",
]


@click.group(help=__doc__)
@click.option("--model", help="Another chat model's folder.", show_default="the one of scripts/real_model.py")
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/real_model", show_default=True)
@click.pass_context
def main(context: click.Context, model: str | None, output_dir: Path):
    """Find the model; what follows is told where it is, and where to write."""
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))
    if model is None:
        script = load_module(ROOT / "scripts" / "real_model.py")
        model = str(script.real_model(script.default_folder()))
    output_dir.mkdir(parents=True, exist_ok=True)
    context.obj = model, output_dir


def table(*head: str) -> Callable[..., None]:
    """Print a table's head; returns what prints a line of it."""

    def line(*cells) -> None:
        print(f"| {' | '.join(map(str, cells))} |", flush=True)

    line(*head)
    line(*["---"] * len(head))
    return line


def train(command: str, folder: Path, settings: dict) -> tuple[float, float]:
    """Run a stage unless it is complete; returns its seconds, and the most memory of it in GiB (0 if it was)."""
    if folder.exists() and json.loads((folder / "stage.json").read_text())["status"] == "complete":
        return json.loads((folder / "stage.json").read_text())["wall_seconds"], 0.0
    words = [word for name, value in settings.items() for word in (f"--{name}", str(value))]
    program = [str(Path(sys.executable).parent / command), *words, "--output_dir", str(folder)]
    started, process = time.perf_counter(), subprocess.Popen(program, stdout=sys.stderr)
    _, status, used = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(process.returncode)
    return time.perf_counter() - started, used.ru_maxrss / 2**20


def steps_of(folder: Path) -> list[dict]:
    """The steps of a run."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def write(file: Path, rows: list[dict]) -> str:
    """Write rows; returns the file's name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(file)


# --- additions


def exact(completions, sum, **kwargs) -> list[float]:
    """The reward: 1 for an answer of one line that ends with the right number, perhaps with a full stop behind it."""
    return [float(is_right(one[0]["content"], right)) for one, right in zip(completions, sum, strict=True)]


def is_right(answer: str, right: str) -> bool:
    """Whether the last thing that an answer of one line says is this number."""
    found = re.fullmatch(r"(?:.*\D)?(\d+)\.?", answer.strip())
    return found is not None and found[1] == right


@main.command()
@click.option("--seeds", default="1,2,3", show_default=True)
@click.option("--steps", default=16, show_default=True)
@click.pass_obj
def additions(obj: tuple[str, Path], seeds: str, steps: int):
    """Let grpo_train teach the model to add, and ask it for sums that it has not seen."""
    model, folder = obj
    pairs = [(a, b) for a in NUMBERS for b in NUMBERS if a <= b]
    random.Random(0).shuffle(pairs)
    cut = round(len(pairs) * HELD_OUT)
    held_out, rest = (
        [
            {"prompt": [{"role": "user", "content": QUESTION.format(*both)}], "sum": str(a + b)}
            for a, b in part
            for both in {(a, b), (b, a)}
        ]
        for part in (pairs[:cut], pairs[cut:])
    )
    data = write(folder / "additions.jsonl", rest)
    settings = COMMON | {"model": model, "train_data": data, "reward_funcs": f"{__file__}:exact", "learning_rate": 2e-4}
    settings |= {"batch_size": 64, "num_generations": 8, "temperature": TEMPERATURE, "max_steps": steps}
    settings |= {"total_episodes": 64 * steps, "max_prompt_length": 64, "max_length": 96}
    settings |= {"max_completion_length": LONGEST, "num_sample_generations": 2}
    line = table("model", f"right, of {len(held_out)}", "95 % interval", "greedy", "EOS", "steps", "seconds", "GiB")
    line("as it was", *sums(model, held_out), 0, "", "")
    for seed in seeds.split(","):
        out = folder / f"additions_{seed}"
        seconds, memory = train("grpo_train", out, settings | {"seed": seed})
        line(f"seed {seed}", *sums(str(out), held_out), steps, f"{seconds:.0f}", f"{memory:.1f}")


def sums(folder: str, rows: list[dict]) -> tuple[str, ...]:
    """What a model answers: share of right answers, its interval, the same greedily, share of answers that ended."""
    renderer, lm = loaded(folder)
    prompts = [renderer.prompt_ids(row["prompt"]) for row in rows]
    shares, ended = [], 0.0
    for temperature in (TEMPERATURE, 0.0):
        sampler = HFSampler(lm, renderer.pad_id, Ending.of(renderer), LONGEST, temperature, 32)
        samples = sampler.generate(prompts, [(0, number) for number in range(len(prompts))])
        answers = zip(samples.completion_ids, samples.completion_mask, rows, strict=True)
        shares.append(sum(is_right(renderer.decode(ids[mask > 0].tolist()), row["sum"]) for ids, mask, row in answers))
        ended = ended or samples.finished.float().mean().item()
    low, high = wilson(shares[0], len(rows))
    return f"{shares[0] / len(rows):.3f}", f"{low:.3f} to {high:.3f}", f"{shares[1] / len(rows):.3f}", f"{ended:.3f}"


def loaded(folder: str) -> tuple[Renderer, PreTrainedModel]:
    """A model in float32 that is only asked, and its renderer."""
    tokenizer = load_tokenizer(folder)
    lm = load_causal_lm(folder, tokenizer, dtype=torch.float32).eval().requires_grad_(False)
    return Renderer(tokenizer, ends_of(folder, tokenizer)), lm


# --- decoding


@main.command()
@click.option("--rounds", default=5, show_default=True, help="Pairs of each comparison.")
@click.option("--longest", default=48, show_default=True, help="Tokens of an answer at most.")
@click.pass_obj
def decoding(obj: tuple[str, Path], rounds: int, longest: int):
    """Sample with this package and with transformers' generate in turns: ratios of neighbours."""
    renderer, lm = loaded(obj[0])
    prompts = [renderer.prompt_ids([{"role": "user", "content": text}]) for text in TALK]
    line = table("32 answers, useful tokens a second", "generate", "easyrlhf", "ratio, median (range)")
    for name, count in (("8 prompts, 4 answers each", 8), ("4 prompts, 8 answers each", 4), ("32 prompts", 32)):
        # the 32 are the 8 with an ending of their own each
        asked = [prompts[n % 8] + renderer.prompt_ids(str(n)) * (count == 32) for n in range(count)]
        asked = [prompt for prompt in asked for _ in range(32 // count)]
        ours, theirs = speeds(renderer, lm, asked, longest, rounds)
        ratios = [one / other for one, other in zip(ours, theirs, strict=True)]
        spread = f"{median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f})"
        line(name, f"{median(theirs):.0f}", f"{median(ours):.0f}", spread)


def speeds(renderer: Renderer, lm: PreTrainedModel, prompts: list[list[int]], longest: int, rounds: int):
    """Useful tokens a second, ours and generate's, each [rounds]; the first round, for warming up, is left out."""
    ending = Ending.of(renderer)
    sampler = HFSampler(lm, renderer.pad_id, ending, longest, 1.0, len(prompts))
    width = max(map(len, prompts))
    input_ids = torch.tensor([[renderer.pad_id] * (width - len(ids)) + ids for ids in prompts])
    mask = torch.tensor([[0] * (width - len(ids)) + [1] * len(ids) for ids in prompts])
    how = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": longest}
    how |= {"pad_token_id": renderer.pad_id, "eos_token_id": list(ending.ids)}

    def ours(number: int) -> int:
        keys = [(number, row) for row in range(len(prompts))]
        return int(sampler.generate(prompts, keys).completion_mask.sum())

    def theirs(number: int) -> int:
        torch.manual_seed(number)
        return through_the_end(lm.generate(input_ids=input_ids, attention_mask=mask, **how)[:, width:], ending)

    found: dict[Callable, list[float]] = {ours: [], theirs: []}
    for number in range(rounds + 1):
        for sample, speed in found.items():
            started = time.perf_counter()
            tokens = sample(number)
            speed += [tokens / (time.perf_counter() - started)] * (number > 0)
    return found[ours], found[theirs]


def through_the_end(completions: Tensor, ending: Ending) -> int:
    """Tokens of all rows, of each up to and with its first end."""
    ends = ending.by_token(completions).long()
    return int((ends.cumsum(1) - ends == 0).sum())


# --- a reward model, and PPO by it


@main.command()
@click.option("--data", required=True, help="Comparisons: files, separated by commas.")
@click.option("--longest", default=128, show_default=True, help="Tokens of prompt and answer; the rest is left out.")
@click.option("--train_rows", default=600, show_default=True)
@click.option("--valid_rows", default=300, show_default=True)
@click.option("--epochs", default=2, show_default=True)
@click.option("--learning_rate", default=2e-4, show_default=True)
@click.pass_obj
def reward(obj: tuple[str, Path], data: str, longest: int, train_rows: int, valid_rows: int, **how):
    """Train a reward model on short comparisons, and see whether it beats the rule that length decides."""
    model, folder = obj
    renderer = Renderer(load_tokenizer(model))
    files = split(data, renderer, folder, longest, {"valid": valid_rows, "train": train_rows})
    settings = COMMON | how | {"model": model, "train_data": files["train"], "valid_data": files["valid"]}
    settings |= {"max_length": longest, "max_prompt_length": longest - 1, "batch_size": 16, "eval_steps": 0}
    seconds, memory = train("rm_train", folder / "rm", settings | {"examine_rows": 16, "log_steps": 10})
    right, by_length = judged(folder / "rm", renderer, files["valid"], longest)
    line = table("trained on", "held out", "reward model", "length", "difference, 95 % interval", "seconds", "GiB")
    interval = "{:+.3f} ({:+.3f} to {:+.3f})".format(*paired(right - by_length))
    trained = len(Path(files["train"]).read_text().splitlines())
    numbers = (f"{right.mean():.3f}", f"{by_length.mean():.3f}", interval, f"{seconds:.0f}", f"{memory:.1f}")
    line(f"{trained} pairs, {how['epochs']} times", len(right), *numbers)


def split(data: str, renderer: Renderer, folder: Path, longest: int, counts: dict[str, int]) -> dict[str, str]:
    """Write so many short comparisons under each name; conversations that open alike stay together.

    returns  name → file
    """
    together = defaultdict(list)
    for source in open_sources(data):
        ledger = Ledger("data", folder / "bad_rows.jsonl")
        for record, _ in read_records(source, "comparison", ledger, format=None, on_bad_row="stop"):
            for pair in as_kind(record, "comparison"):
                if length_of(pair, renderer) <= longest:
                    opening = pair.prompt if isinstance(pair.prompt, str) else pair.prompt[0]["content"]
                    together[opening].append({side: getattr(pair, side) for side in ("prompt", "chosen", "rejected")})
    groups = [group for _, group in sorted(together.items())]
    random.Random(0).shuffle(groups)
    files, groups = {}, iter(groups)
    for name, count in counts.items():
        rows: list[dict] = []
        while len(rows) < count and (group := next(groups, None)):
            rows += group
        files[name] = write(folder / f"{name}.jsonl", rows)
    return files


def length_of(pair: Comparison, renderer: Renderer) -> int:
    """Tokens of the prompt with the longer answer."""
    answers = [len(renderer.completion_ids(pair.prompt, answer)) for answer in (pair.chosen, pair.rejected)]
    return len(renderer.prompt_ids(pair.prompt)) + max(answers)


def judged(folder: Path, renderer: Renderer, data: str, longest: int) -> tuple[np.ndarray, np.ndarray]:
    """Whether each pair is ranked right by the model, and by length in the better of its two directions; each [N]."""
    with TemporaryDirectory() as cache:
        settings = DataSettings(max_length=longest, max_prompt_length=longest - 1, cache_dir=Path(cache))
        rows = list(load_tokens(data, "comparison", renderer, settings).rows)
    model = load_scalar_model(str(folder), renderer.tokenizer, dtype=torch.float32)
    sequences = [row["prompt_ids"] + row[f"{side}_ids"] for side in ("chosen", "rejected") for row in rows]
    chosen, rejected = np.array(score_sequences(ScoringModel(model, renderer, 2048), sequences)).reshape(2, -1)
    gaps = np.array([len(row["chosen_ids"]) - len(row["rejected_ids"]) for row in rows])
    longer = (np.sign(gaps) + 1) / 2
    return (np.sign(chosen - rejected) + 1) / 2, max(longer, 1 - longer, key=np.mean)


def paired(differences: np.ndarray) -> tuple[float, float, float]:
    """Mean of differences taken pair by pair, and its 95 % interval."""
    half = WILSON_Z * differences.std(ddof=1) / len(differences) ** 0.5
    return float(differences.mean()), float(differences.mean() - half), float(differences.mean() + half)


@main.command()
@click.option("--steps", default=8, show_default=True)
@click.option("--batch_size", default=32, show_default=True, help="Answers of a rollout.")
@click.option("--response_length", default=32, show_default=True)
@click.pass_obj
def ppo(obj: tuple[str, Path], steps: int, **how):
    """Let ppo_train raise the score of the reward model that `reward` left."""
    model, folder = obj
    settings = COMMON | how | {"model": model, "reward_model": folder / "rm", "train_data": folder / "train.jsonl"}
    settings |= {"total_episodes": steps * how["batch_size"], "max_prompt_length": 96, "max_length": 160}
    settings |= {"num_mini_batches": 4, "num_ppo_epochs": 2, "learning_rate": 1e-4, "num_sample_generations": 2}
    seconds, memory = train("ppo_train", folder / "ppo", settings)
    rows = steps_of(folder / "ppo")
    line = table("steps", "score, first to last quarter", "KL", "EOS", "seconds", "GiB")
    quarter = max(1, len(rows) // 4)
    first, last = (np.mean([row["objective/scores"] for row in part]) for part in (rows[:quarter], rows[-quarter:]))
    end = rows[-1]
    numbers = f"{end['objective/kl']:.2f}", f"{end['health/eos_rate']:.3f}", f"{seconds:.0f}", f"{memory:.1f}"
    line(len(rows), f"{first:+.3f} → {last:+.3f}", *numbers)


if __name__ == "__main__":
    main()
