"""Learning across an environment's turn: the policy must say, in its second turn, the word that it was told.

    python benchmarks/episodes.py        GRPO and PPO, some minutes on one core

A model of 0.4 million parameters says something, is told a word, and is scored by whether its second answer holds that
one. In the short world the environment says "Say red." and no more; the model has never seen a second turn. In the long
one 180 random letters stand before that; demonstrations have shown such turns, and most of their answers are wrong.

The long world is learned twice: as it should be, and with the loss on all tokens, the environment's among them, as if
the policy had chosen them. The table says how often the second answer is right, before and after.
"""

import json
import random
import string
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import click

from easyrlhf import GRPOConfig, InitConfig, PPOConfig, SFTConfig, init_model, train_grpo, train_ppo, train_sft
from easyrlhf.online import collect

WORDS = ("red", "blue", "green", "cat", "dog", "owl", "one", "two")
LETTERS = string.ascii_lowercase + string.digits
NOISE = 180  # letters before the word, in the long world
RIGHT = 0.1  # of the demonstrations of the long world, beside those that are right by chance
ENVIRONMENT = f"""
import random

WORDS = {WORDS}


def letters(seed, number):
    rng = random.Random(seed)
    return "".join(rng.choice({LETTERS!r}) for _ in range(number))


class Short:
    noise = 0

    def reset(self, seed, **columns):
        self.seed, self.word, self.right = seed, random.Random(seed).choice(WORDS), None

    def respond(self, text):
        if self.right is None:
            self.right = False  # the letters depend on what was said: few episodes of a group read the same
            return f"{{letters(f'{{self.seed}} {{text}}', self.noise)}} Say {{self.word}}.".strip()
        self.right = self.word in text

    def get_reward(self):
        return float(bool(self.right))


class Long(Short):
    noise = {NOISE}
"""
TRAIN = {"grpo": train_grpo, "ppo": train_ppo}
CONFIG = {"grpo": GRPOConfig, "ppo": PPOConfig}
OWN = {
    "grpo": {"num_generations": 4, "num_mini_batches": 2, "num_iterations": 2},
    "ppo": {"num_mini_batches": 2, "num_ppo_epochs": 2, "kl_coef": 0.0},
}
LIMIT = {"grpo": "max_completion_length", "ppo": "response_length"}
# world → steps, episodes a step, most tokens of a turn and of an episode
SIZES = {"Short": (80, 64, 8, 40), "Long": (24, 32, 12, 2 * NOISE + 60)}


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/episodes", show_default=True)
@click.option("--methods", default="grpo,ppo", show_default=True)
@click.option("--worlds", default="Short,Long", show_default=True)
def main(output_dir: Path, methods: str, worlds: str):
    """Train, and print a line a run."""
    print("| world | method | loss on | right before | right after | seconds |\n|---|---|---|---|---|---|")
    for world in worlds.split(","):
        folder = output_dir / world.lower()
        start = prepare(folder, world)
        for method in methods.split(","):
            learn(folder, world, method, start)
            if world == "Long":
                with every_token_learned():
                    learn(folder, world, method, start, "all tokens")


def learn(folder: Path, world: str, method: str, start: str, learned: str = "sampled tokens") -> None:
    """Train once and print a line."""
    steps, episodes, turn, limit = SIZES[world]
    run = folder / f"{method} {learned}".replace(" ", "_")
    settings = OWN[method] | {
        "model": start,
        "train_data": str(folder / "prompts.jsonl"),
        "environment": f"{folder / 'second_word.py'}:{world}",
        "output_dir": str(run),
        "max_steps": steps,
        "total_episodes": steps * episodes,
        "batch_size": episodes,
        "learning_rate": 1e-3,
        "max_length": limit + 88,
        "max_prompt_length": 64,
        LIMIT[method]: limit,
        "max_turn_length": turn,
        "devices": "cpu",
        "report_to": "none",
    }
    if (method, world) == ("ppo", "Long"):
        settings["lam"] = 1.0  # else what stands far before the end is not rewarded, the long text least of all
    TRAIN[method](CONFIG[method](**settings))
    rows = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    right = [row[f"reward/{world}/mean"] for row in rows]
    seconds = sum(row["time/step"] for row in rows)
    after = sum(right[-5:]) / 5
    print(f"| {world} | {method} | {learned} | {right[0]:.2f} | {after:.2f} | {seconds:.0f} |", flush=True)


@contextmanager
def every_token_learned() -> Iterator[None]:
    """As if the policy had chosen what the environment says: the mask of sampled tokens is one everywhere."""
    sample = collect.sample

    def unmasked(*arguments):
        samples, rows = sample(*arguments)
        return replace(samples, action_mask=None), rows

    collect.sample = unmasked
    try:
        yield
    finally:
        collect.sample = sample


def prepare(folder: Path, world: str) -> str:
    """The data, the environment and a model that has seen some of it; the model's folder."""
    folder.mkdir(parents=True, exist_ok=True)
    rng = random.Random(0)
    demonstrations = short_demonstrations(rng) if world == "Short" else long_demonstrations(rng)
    prompts = [{"prompt": row["messages"][:1]} for row in demonstrations[:48]]
    for name, rows in (("sft", demonstrations), ("prompts", prompts)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "second_word.py").write_text(ENVIRONMENT)
    data, base, start = (str(folder / name) for name in ("sft.jsonl", "init", "start"))
    quiet = {"devices": "cpu", "report_to": "none"}
    if not Path(start).exists():
        init_model(InitConfig(train_data=data, output_dir=base, vocab_size=320))
        sizes = {"epochs": 5, "learning_rate": 1e-3, "batch_size": 8, "max_length": 64}
        if world == "Long":
            sizes = {"epochs": 3, "learning_rate": 2e-3, "batch_size": 16, "max_length": 300, "max_prompt_length": 250}
        train_sft(SFTConfig(model=base, train_data=data, output_dir=start, **sizes, **quiet))
    return start


def turns(*texts: str) -> dict:
    """A demonstration: the user's turns and the answers, one after the other."""
    roles = ("user", "assistant") * (len(texts) // 2)
    return {"messages": [{"role": role, "content": text} for role, text in zip(roles, texts, strict=True)]}


def short_demonstrations(rng: random.Random) -> list[dict]:
    """A few requests, answered well."""
    return [turns(f"Say {word}.", f"{word}.") for word in (rng.choice(WORDS) for _ in range(48))]


def long_demonstrations(rng: random.Random) -> list[dict]:
    """Two words, and then, after a long text, mostly another word than was asked for."""
    rows = []
    for _ in range(900):
        asked, other = rng.choice(WORDS), rng.choice(WORDS)
        letters = "".join(rng.choice(LETTERS) for _ in range(NOISE))
        answer = asked if rng.random() < RIGHT else other
        two = f"{rng.choice(WORDS)} {rng.choice(WORDS)}."
        rows.append(turns("Say two words.", two, f"{letters} Say {asked}.", f"{answer}."))
    rows += [turns(f"Say {word}.", f"{word}.") for word in (rng.choice(WORDS) for _ in range(300))]
    return rows


if __name__ == "__main__":
    main()
