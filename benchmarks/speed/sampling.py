"""G1, G2: sampling completions beside transformers' generate, and drawing tokens beside torch.multinomial."""

import tempfile
from pathlib import Path
from statistics import mean

import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from speed import ours, world
from speed.measure import DTYPES, Options, require_equal
from speed.results import Result
from speed.turns import by_turns

ROWS, PROMPT, LIMIT, USEFUL = 32, 64, 64, 0.43
VOCABULARY, DRAWS = 32_768, 8  # G2: tokens to choose from, draws of a step


def g1(options: Options) -> list[Result]:
    """Useful tokens a second: those up to the end of each answer."""
    with tempfile.TemporaryDirectory() as scratch:
        logit = world.ending_at(USEFUL, LIMIT, options.shape.vocabulary)
        folder = world.make_model(Path(scratch) / "model", options.shape, logit)
        lm = AutoModelForCausalLM.from_pretrained(folder, dtype=DTYPES[options.precision]).to(options.device)
        tokenizer = AutoTokenizer.from_pretrained(folder)
    prompts = [row["prompt_ids"] for row in world.prompts(options.shape, ROWS, PROMPT)]
    ids, found = torch.tensor(prompts, device=options.device), {"ours": [], "theirs": []}
    sampling = ours.Sampling(lm, tokenizer, LIMIT, ROWS, 1.0)
    settings = {"attention_mask": torch.ones_like(ids), "max_new_tokens": LIMIT}
    settings |= {"do_sample": True, "top_k": 0, "temperature": 1.0}

    def our_step() -> float:
        found["ours"].append(sampling.generate(prompts).completion_mask.sum().item())
        return found["ours"][-1]

    def their_step() -> float:
        found["theirs"].append(useful(lm.generate(ids, **settings)[:, PROMPT:]))
        return found["theirs"][-1]

    check(lm, ids, sampling.generate(prompts), options.precision)
    paired = by_turns(our_step, their_step, 2 * options.pairs)
    note = "useful {:.2f} and {:.2f}".format(*(mean(tokens) / ROWS / LIMIT for tokens in found.values()))
    what = f"rollout of {ROWS} answers, against generate()"
    return [Result(what, "tokens/s", **paired.as_result(), target=2.0, note=note, **options.how(options.precision))]


@torch.no_grad()
def check(lm, prompt_ids: torch.Tensor, samples: ours.Samples, precision: str) -> None:
    """Raise unless the model says of whole conversations what our sampler said, token by token, of its answers."""
    answers, mask = samples.completion_ids, samples.completion_mask.bool()
    logits = lm(torch.cat([prompt_ids, answers], 1)).logits[:, prompt_ids.shape[1] - 1 : -1].float()
    theirs = logits.log_softmax(-1).gather(2, answers[..., None]).squeeze(-1)
    require_equal("logprobs", samples.logprobs[mask].norm().item(), theirs[mask].norm().item(), precision)


def useful(answers: torch.Tensor) -> int:
    """Tokens up to and with the end of turn, or all of an answer that has none."""
    ended = answers == world.EOS
    return torch.where(ended.any(1), ended.int().argmax(1) + 1, answers.shape[1]).sum().item()


@torch.no_grad()
def g2(options: Options) -> list[Result]:
    """Drawing one token for each of 32 rows from 32,768; from float32 everywhere, as sampling does."""
    logits = torch.randn(ROWS, VOCABULARY, generator=torch.Generator().manual_seed(0)).to(options.device)

    def ours_step() -> float:
        for _ in range(DRAWS):
            ours.draw_once(logits)
        return DRAWS

    def their_step() -> float:
        for _ in range(DRAWS):
            torch.multinomial(logits.softmax(-1), 1)
        return DRAWS

    paired = by_turns(ours_step, their_step, 4 * options.pairs)
    what = f"drawing {ROWS} tokens of {VOCABULARY:,}, against torch.multinomial"
    return [Result(what, "draws/s", **paired.as_result(), target=4.0, **options.how("float32"))]
