"""How fast completions are sampled, next to transformers' own generate() and torch's own multinomial, as ratios.

    python benchmarks/decode.py

Both sample from one random Llama of 9 million parameters in turns, in one process: medians of the ratios of
neighbours, in useful tokens a second, prompts' reading included. An answer's length is geometric, cut at 64 tokens:
43 % of what a batch could hold is useful. generate() is given its prompts sorted by length, and no padding where there
is none. Ten minutes on one CPU thread.
"""

import math
import time
from collections.abc import Callable
from statistics import median

import click
import numpy as np
import torch
from torch import Tensor, nn
from transformers import LlamaConfig, LlamaForCausalLM

from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.inverse_cdf import draw_tokens
from easyrlhf.rollout.sampler import HFSampler

VOCABULARY, PAD, END, LONGEST = 8192, 0, 1, 64
ENDS = 0.031  # probability of the end at every token: lengths of 28 on average, 43 % of LONGEST
BATCH = 32  # completions at a time


@click.command(help=__doc__)
@click.option("--rounds", default=7, show_default=True, help="Pairs of each comparison.")
@click.option("--quick", is_flag=True, help="Only the draws and the first two rollouts.")
def main(rounds: int, quick: bool):
    """Measure draws, then rollouts."""
    torch.set_num_threads(1)
    print("| compared | theirs | ours | ratio, median (range) |\n|---|---|---|---|")
    for size in (8192, 32768, 50257, 151936):
        logits, uniforms = 3 * torch.randn(BATCH, size), torch.rand(BATCH, dtype=torch.float64)
        row(
            f"one draw for {BATCH} rows of {size}",
            lambda logits=logits: torch.multinomial(logits.softmax(-1), 1),
            lambda logits=logits, uniforms=uniforms: draw_tokens(logits, uniforms, 1.0),
            5 * rounds,
        )
    random = np.random.default_rng(0)

    def prompts(count: int, shortest: int = 64, longest: int = 64) -> list[list[int]]:
        lengths = random.integers(shortest, longest + 1, size=count)
        return [random.integers(2, VOCABULARY, size=length).tolist() for length in lengths]

    full, short = model(0.0), model(ENDS)
    groups = [prompt for prompt in prompts(16) for _ in range(8)]
    cases = [
        ("32 prompts of 64", short, prompts(32)),
        ("128 prompts of 64", short, prompts(128)),
        ("128 prompts of 16 to 96", short, prompts(128, 16, 96)),
        ("16 prompts of 64, 8 samples each", short, groups),
        ("32 prompts of 64, every answer 64", full, prompts(32)),
        ("128 prompts of 64, in bf16", model(ENDS).to(torch.bfloat16), prompts(128)),
    ]
    for name, lm, asked in cases[: 2 if quick else None]:
        row(name, lambda lm=lm, asked=asked: theirs(lm, asked), lambda lm=lm, asked=asked: ours(lm, asked), rounds)


def model(ends: float) -> LlamaForCausalLM:
    """A random Llama of 8.9 million parameters whose every token is the end with about this probability."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6, "num_attention_heads": 4}
    lm = LlamaForCausalLM(LlamaConfig(vocab_size=VOCABULARY, max_position_embeddings=4096, **sizes))
    head = nn.Linear(256, VOCABULARY)
    head.weight = lm.lm_head.weight
    head.bias.data.zero_()
    head.bias.data[END] = math.log(VOCABULARY * ends / (1 - ends)) if ends else -math.inf
    lm.lm_head = head
    lm.generation_config.eos_token_id, lm.generation_config.pad_token_id = END, PAD
    return lm.eval().requires_grad_(False)


def ours(lm: LlamaForCausalLM, prompts: list[list[int]]) -> int:
    """Sample with easyrlhf; returns the useful tokens."""
    keys = [(0, number) for number in range(len(prompts))]
    return int(HFSampler(lm, PAD, Ending((END,)), LONGEST, 1.0, BATCH).generate(prompts, keys).completion_mask.sum())


def theirs(lm: LlamaForCausalLM, prompts: list[list[int]]) -> int:
    """Sample with generate(), batch by batch; returns the useful tokens."""
    prompts, useful = sorted(prompts, key=len), 0
    for start in range(0, len(prompts), BATCH):
        batch = prompts[start : start + BATCH]
        width = len(batch[-1])
        input_ids = torch.tensor([[PAD] * (width - len(prompt)) + prompt for prompt in batch])
        mask = torch.tensor([[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in batch])
        how = {"do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "max_new_tokens": LONGEST}
        useful += through_the_end(lm.generate(input_ids=input_ids, attention_mask=mask, **how)[:, width:])
    return useful


def through_the_end(completions: Tensor) -> int:
    """Tokens up to and with the first end of each row."""
    before = (completions == END).cumsum(1) - (completions == END).long()
    return int((before == 0).sum())


def row(name: str, theirs: Callable, ours: Callable, rounds: int) -> None:
    """Let the two take turns and print what came out: units of work (1 if they return no number) a second."""
    speeds = {theirs: [], ours: []}
    for number in range(rounds + 1):  # the first is for warming up
        for what, found in speeds.items():
            started = time.perf_counter()
            done = what()
            seconds = time.perf_counter() - started
            if number:
                found.append((done if isinstance(done, int) else 1) / seconds)
    ratios = [b / a for a, b in zip(*speeds.values(), strict=True)]
    found = [f"{median(speed):.0f}/s" for speed in speeds.values()]
    print(
        f"| {name} | {' | '.join(found)} | {median(ratios):.2f} × ({min(ratios):.2f}–{max(ratios):.2f}) |", flush=True
    )


if __name__ == "__main__":
    main()
