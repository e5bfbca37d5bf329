"""What computing a prompt once for all of its completions saves, as a table of ratios.

    python benchmarks/prefix_sharing.py

Forward and backward passes of the reward model's loss over one micro-batch of comparisons, with prompts shared
(`--share_prefix on`), as chosen (`auto`) and apart (`off`), taken in turns in one process; medians of the ratios of
neighbours. The model is a random Llama of 9 million parameters; a few minutes on one CPU thread.
"""

import time
from statistics import median

import click
import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from easyrlhf.models.prefix_sharing import PromptGroup, completion_states, enable_sharing
from easyrlhf.models.value_head import new_head

CPU = torch.device("cpu")
VOCABULARY = 8192
RATIOS = {"8:1": 8 / 9, "4:1": 4 / 5, "2:1": 2 / 3, "1:1": 1 / 2, "1:2": 1 / 3, "1:4": 1 / 5, "1:16": 1 / 17}


@click.command(help=__doc__)
@click.option("--lengths", default="240,720", show_default=True, help="Tokens of a prompt and one completion.")
@click.option("--tokens", default=2048, show_default=True, help="Of one micro-batch, prompts counted twice.")
@click.option("--spread", default=0.3, show_default=True, help="Lengths vary by so much of their mean, up and down.")
@click.option("--rounds", default=15, show_default=True, help="Passes of each kind.")
@click.option("--bf16", is_flag=True, help="Weights in bf16.")
def main(lengths: str, tokens: int, spread: float, rounds: int, bf16: bool):
    """Measure every ratio of prompt to completion."""
    torch.set_num_threads(1)
    lm = model().to(torch.bfloat16 if bf16 else torch.float32)
    head = new_head(lm)
    if not enable_sharing(lm, max_length=4096):
        raise click.ClickException("this version of transformers does not let prompts be shared")
    print("| tokens | prompt:completion | on | auto |\n|---|---|---|---|")
    for length in map(int, lengths.split(",")):
        for name, share in RATIOS.items():
            families = comparisons(length, share, max(1, tokens // (2 * length)), spread)
            seconds = {how: [] for how in ("off", "on", "auto")}
            for _ in range(rounds):
                for how, found in seconds.items():
                    found.append(timed(lm, head, families, how))
            ratios = [
                median(o / s for o, s in zip(seconds["off"], seconds[how], strict=True)) for how in ("on", "auto")
            ]
            print(f"| {length} | {name} | " + " | ".join(f"{ratio:.2f} ×" for ratio in ratios) + " |", flush=True)


def model() -> LlamaForCausalLM:
    """A random Llama of 8.9 million parameters."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4}
    return LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **sizes)).train()


def comparisons(length: int, share: float, count: int, spread: float) -> list[PromptGroup]:
    """Prompts with two completions each, their lengths spread around these means."""
    random = np.random.default_rng(0)

    def ids(mean: float) -> list[int]:
        return random.integers(VOCABULARY, size=max(1, round(mean * random.uniform(1 - spread, 1 + spread)))).tolist()

    return [(ids(share * length), [ids((1 - share) * length) for _ in range(2)]) for _ in range(count)]


def timed(lm: LlamaForCausalLM, head: torch.nn.Linear, families: list[PromptGroup], share: str) -> float:
    """Seconds of one forward and backward pass."""
    started = time.perf_counter()
    states = completion_states(lm, families, share)
    scores = head(states.hidden[states.last].float()).view(-1, 2)
    (-torch.nn.functional.logsigmoid(scores[:, 0] - scores[:, 1])).sum().backward()
    lm.zero_grad()
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
