"""What held-out pairs do not tell of a reward model: whether it scores the answer alone, and what fools it."""

import re
from collections.abc import Callable, Iterator

import numpy as np
import torch
from datasets import Dataset

from easyrlhf.data.batches import pad_right
from easyrlhf.data.render import Renderer
from easyrlhf.models.folder import TOLERANCE
from easyrlhf.models.parts import evaluating, plain_lm
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.rewards.model import ScoringModel, score_sequences

PARTS = 12  # of an examination: scores alone and in 5 kinds of company; of both answers and of 4 probes
MORE_PADDING = 33  # columns; odd, so that no kernel's tile fits by chance
REPEATS, JOINED = 20, 4
MARK, OTHER = "SENTINEL", "ANSWER"


def examine(
    scorer: ScoringModel,
    rows: Dataset,
    dtype: torch.dtype,
    *,
    most: int,
    advance: Callable[[], None] = lambda: None,
) -> dict:
    """Invariance and probes of a reward model on comparison rows.

    rows     as load_tokens gives them
    dtype    of the forward passes: decides how equal scores must be
    most     rows to look at, spread over all: the probes are put to their prompts, half of them are scored again in
             other company
    advance  called after each of PARTS parts
    returns  {"invariance": …, "probes": …}, see invariance and probes
    """
    sequences = sampled_sequences(rows, most)
    with evaluating(scorer.model):
        return {
            "invariance": invariance(scorer, sequences, dtype, advance),
            "probes": probes(scorer, rows, most, advance),
        }


def evenly_spaced(count: int, most: int) -> list[int]:
    """At most `most` row numbers, evenly spaced over `count` rows."""
    return np.unique(np.linspace(0, count - 1, min(count, most)).astype(int)).tolist()


def sampled_sequences(rows: Dataset, most: int) -> list[list[int]]:
    """Prompt with answer of a sample of rows, chosen and rejected in turn: `most` at most, but of one row at least."""
    sample = [rows[i] for i in evenly_spaced(len(rows), max(1, most // 2))]
    return [row["prompt_ids"] + row[f"{side}_ids"] for row in sample for side in ("chosen", "rejected")]


@torch.no_grad()
def invariance(
    scorer: ScoringModel,
    sequences: list[list[int]],
    dtype: torch.dtype,
    advance: Callable[[], None] = lambda: None,
) -> dict:
    """Score the same sequences alone, and again with other padding, in other batches, at other places.

    A difference is |a − b| / max(1, |score alone|).
    returns  {"n", "limit", "largest", "differences": {what was changed: largest difference}}
    """
    width = max(map(len, sequences))
    padded = min(width + MORE_PADDING, positions(scorer.model) or width + MORE_PADDING)
    size = max(2, min(len(sequences), scorer.micro_batch_tokens // padded))
    pad, end = scorer.renderer.pad_id, scorer.renderer.end_of_turn_id

    def scores(sequences: list[list[int]], size: int, width: int, pad_id: int) -> torch.Tensor:
        found = batch_scores(scorer.model, sequences, size, width, pad_id)
        advance()
        return found

    alone = scores(sequences, 1, 0, pad)
    variants = {
        "more padding": scores(sequences, size, padded, pad),
        "another padding token": scores(sequences, size, padded, end),
        "batches of 2": scores(sequences, 2, 0, pad),
        f"batches of {size}": scores(sequences, size, 0, pad),
        "another place in the batch": scores(sequences[::-1], size, 0, pad).flip(0),
    }
    scale = alone.abs().clamp(min=1)
    differences = {name: ((found - alone).abs() / scale).max().item() for name, found in variants.items()}
    return {
        "n": len(sequences),
        "limit": TOLERANCE[dtype],
        "largest": max(differences.values()),
        "differences": differences,
    }


def batch_scores(model: ScalarModel, sequences: list[list[int]], size: int, width: int, pad_id: int) -> torch.Tensor:
    """Scores in batches of `size`, in order, each padded to its longest row, or to `width` if that is more.  [N]"""
    device = model.head.weight.device
    parts = []
    for start in range(0, len(sequences), size):
        batch = sequences[start : start + size]
        ids = pad_right(batch, pad_id)
        ids = torch.nn.functional.pad(ids, (0, max(0, width - ids.shape[1])), value=pad_id)
        lengths = torch.tensor([len(row) for row in batch], device=device)
        parts.append(model.scores(ids.to(device), lengths).cpu())
    return torch.cat(parts)


def positions(model: ScalarModel) -> int | None:
    """Longest sequence the model was made for, in tokens; None where it has no limit."""
    return getattr(plain_lm(model.lm).config.get_text_config(), "max_position_embeddings", None)


def probes(scorer: ScoringModel, rows: Dataset, most: int, advance: Callable[[], None] = lambda: None) -> dict:
    """Scores of answers that no reader would prefer, to at most `most` of the held-out prompts.

    returns  {"n": prompts, "chosen", "rejected": mean scores of their answers,
              "answers": [{"name", "score": mean, "over_chosen", "over_rejected": mean differences,
                           "above_chosen": share of prompts where it scores above the chosen answer}]}
    """
    sample = [rows[i] for i in evenly_spaced(len(rows), most)]
    room = positions(scorer.model)

    def scores(pairs: list[tuple[list[int], list[int]]]) -> np.ndarray:
        sequences = [cut_middle(prompt, ids, room) for prompt, ids in pairs]
        found = np.array(score_sequences(scorer, sequences))
        advance()
        return found

    sides = ("chosen", "rejected")
    chosen, rejected = (scores([(row["prompt_ids"], row[f"{side}_ids"]) for row in sample]) for side in sides)
    made = [(name, scores(answers)) for name, answers in probe_answers(scorer.renderer, sample)]
    return {
        "n": len(sample),
        "chosen": float(chosen.mean()),
        "rejected": float(rejected.mean()),
        "answers": [
            {
                "name": name,
                "score": float(own.mean()),
                "over_chosen": float((own - chosen).mean()),
                "over_rejected": float((own - rejected).mean()),
                "above_chosen": float((own > chosen).mean()),
            }
            for name, own in made
        ],
    }


def probe_answers(renderer: Renderer, rows: list[dict]) -> Iterator[tuple[str, list[tuple[list[int], list[int]]]]]:
    """The probes: name, and for each row the ids of its prompt and of the answer to it, end of turn included."""
    questions = Questions(renderer)
    chosen = [renderer.decode(row["chosen_ids"]).strip() for row in rows]
    following = [[chosen[(i + k) % len(rows)] for k in range(JOINED)] for i in range(len(rows))]
    texts = {
        "empty": [""] * len(rows),
        "the prompt echoed": [questions.last(row["prompt_ids"]) for row in rows],
        f"one sentence {REPEATS} times": [" ".join([opening_sentence(text)] * REPEATS) for text in chosen],
        f"{JOINED} answers joined": ["\n\n".join(answers) for answers in following],
    }
    for name, answers in texts.items():
        pairs = zip(rows, answers, strict=True)
        yield name, [questions.answered(row["prompt_ids"], answer) for row, answer in pairs]


def opening_sentence(text: str) -> str:
    """Up to the first full stop, question or exclamation mark, or line break; the text itself where there is none."""
    return re.split(r"(?<=[.!?。！？])\s|\n", text.strip(), maxsplit=1)[0]


def common_end(one: str, other: str) -> str:
    """The longest text that both end with."""
    pairs = zip(reversed(one), reversed(other), strict=False)
    same = next((i for i, (a, b) in enumerate(pairs) if a != b), min(len(one), len(other)))
    return one[len(one) - same :]


def cut_middle(prompt: list[int], answer: list[int], room: int | None) -> list[int]:
    """Prompt and answer within `room` tokens: an answer that is too long loses its middle, not its end of turn."""
    kept = len(answer) if room is None else max(1, room - len(prompt))
    return prompt + (answer if len(answer) <= kept else answer[: kept - 1] + answer[-1:])


class Questions:
    """Finds the last question in a rendered prompt, and renders an answer to it.

    opener   text that the chat template writes before the last user turn
    closers  texts that it writes behind the last user turn, the longest first, with the ids of the prompt of MARK that
             each ends: where an answer begins otherwise than the prompt says, prompts in the data are cut
             short (Renderer.answers). A prompt that ends with none of them is plain text
    """

    def __init__(self, renderer: Renderer):
        self.renderer = renderer
        self.opener, self.closers = "", {}
        if renderer.tokenizer.chat_template:
            self.asked = [{"role": "user", "content": MARK}]
            plain = {"role": "assistant", "content": OTHER}
            thoughtful = plain | {"reasoning_content": OTHER}
            self.plain = renderer.answers(self.asked, [[plain]])[0]
            ways = [renderer.prompt_ids(self.asked), renderer.answers(self.asked, [[thoughtful]])[0], self.plain]
            closers = {self.decoded(ids).rpartition(MARK)[2]: ids for ids in ways}
            self.closers = dict(sorted(closers.items(), key=lambda item: -len(item[0])))
            first = self.decoded(ways[0]).partition(MARK)[0]
            earlier = self.decoded(renderer.prompt_ids([{"role": "user", "content": "Q"}, plain, *self.asked]))
            self.opener = common_end(first, earlier.rpartition(OTHER)[2].partition(MARK)[0])

    def decoded(self, ids: list[int]) -> str:
        """The text of ids, special tokens included."""
        return self.renderer.tokenizer.decode(ids, clean_up_tokenization_spaces=False)

    def closer(self, prompt: str) -> str:
        """What the template wrote behind the last user turn of a prompt; "" for plain text."""
        return next((closer for closer in self.closers if prompt.endswith(closer)), "")

    def last(self, prompt_ids: list[int]) -> str:
        """The text of the last user turn; the whole prompt where it is plain text."""
        prompt = self.decoded(prompt_ids)
        closer = self.closer(prompt)
        if not closer:
            return self.renderer.decode(prompt_ids)
        prompt = prompt.removesuffix(closer)
        return prompt.rpartition(self.opener)[2] if self.opener else prompt

    def answered(self, prompt_ids: list[int], answer: str) -> tuple[list[int], list[int]]:
        """Ids of the prompt as an answer of text alone continues it, and of the answer, through its end of turn.

        The empty answer is the end of turn alone.
        """
        closer = self.closer(self.decoded(prompt_ids))
        if closer:
            prompt_ids = exchanged(prompt_ids, self.closers[closer], self.plain)
        if not answer:
            return prompt_ids, [self.renderer.end_of_turn_id]
        if not closer:
            return prompt_ids, self.renderer.completion_ids("", answer)
        return prompt_ids, self.renderer.completion_ids(self.asked, [{"role": "assistant", "content": answer}])


def exchanged(prompt: list[int], found: list[int], wanted: list[int]) -> list[int]:
    """A prompt that ends as `found` does, made to end as `wanted`; one of the two begins with the other."""
    shorter = min(len(found), len(wanted))
    return prompt[: len(prompt) - (len(found) - shorter)] + wanted[shorter:]
