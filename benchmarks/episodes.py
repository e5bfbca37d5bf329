"""Learning across an environment's turn: the policy must say, in its second turn, the word that it was told.

    python benchmarks/episodes.py        GRPO and PPO, about a minute each on one core

A model of 0.4 million parameters that has seen a few requests "Say red." answers the first request, is told another
word, and is scored by whether its second answer holds that one. The table says how often it does, before and after.
"""

import json
import random
from pathlib import Path

import click

from easyrlhf import GRPOConfig, InitConfig, PPOConfig, SFTConfig, init_model, train_grpo, train_ppo, train_sft

WORDS = ("red", "blue", "green", "cat", "dog", "owl", "one", "two")
STEPS, EPISODES = 80, 64
ENVIRONMENT = """
import random

WORDS = {words}


class SecondWord:
    def reset(self, seed, **columns):
        self.word, self.right = random.Random(seed).choice(WORDS), None

    def respond(self, text):
        if self.right is None:
            self.right = False
            return f"Say {{self.word}}."
        self.right = self.word in text

    def get_reward(self):
        return float(bool(self.right))
"""
TRAIN = {"grpo": train_grpo, "ppo": train_ppo}
CONFIG = {
    "grpo": (
        GRPOConfig,
        {"num_generations": 4, "max_completion_length": 40, "num_mini_batches": 2, "num_iterations": 2},
    ),
    "ppo": (PPOConfig, {"response_length": 40, "num_mini_batches": 2, "num_ppo_epochs": 2, "kl_coef": 0.0}),
}


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/episodes", show_default=True)
@click.option("--methods", default="grpo,ppo", show_default=True)
def main(output_dir: Path, methods: str):
    """Train, and print a line a method."""
    output_dir.mkdir(parents=True, exist_ok=True)
    start = prepare(output_dir)
    print("| method | right before | right after | seconds |\n|---|---|---|---|")
    for method in methods.split(","):
        config, own = CONFIG[method]
        folder = output_dir / method
        settings = {
            "model": start,
            "train_data": str(output_dir / "prompts.jsonl"),
            "environment": f"{output_dir / 'second_word.py'}:SecondWord",
            "output_dir": str(folder),
            "max_steps": STEPS,
            "total_episodes": STEPS * EPISODES,
            "batch_size": EPISODES,
            "learning_rate": 1e-3,
            "max_length": 128,
            "max_turn_length": 8,
            "devices": "cpu",
            "report_to": "none",
        }
        TRAIN[method](config(**settings | own))
        rows = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        scores = [row["objective/scores"] for row in rows]
        seconds = sum(row["time/step"] for row in rows)
        print(f"| {method} | {scores[0]:.2f} | {sum(scores[-5:]) / 5:.2f} | {seconds:.0f} |", flush=True)


def prepare(folder: Path) -> str:
    """The data, the environment and a model that has seen some of it; the model's folder."""
    rng = random.Random(0)
    asked = [(word, {"role": "user", "content": f"Say {word}."}) for word in (rng.choice(WORDS) for _ in range(48))]
    demonstrations = [{"messages": [turn, {"role": "assistant", "content": f"{word}."}]} for word, turn in asked]
    for name, rows in (("sft", demonstrations), ("prompts", [{"prompt": [turn]} for _, turn in asked])):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (folder / "second_word.py").write_text(ENVIRONMENT.format(words=WORDS))
    data, base, start = (str(folder / name) for name in ("sft.jsonl", "init", "start"))
    quiet = {"devices": "cpu", "report_to": "none"}
    if not Path(start).exists():
        init_model(InitConfig(train_data=data, output_dir=base, vocab_size=320))
        settings = {"model": base, "train_data": data, "output_dir": start, "epochs": 5, "learning_rate": 1e-3}
        train_sft(SFTConfig(**settings, batch_size=8, max_length=64, **quiet))
    return start


if __name__ == "__main__":
    main()
