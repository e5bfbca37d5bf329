"""What is measured on: random Llamas with a tokenizer of numbered words, and token rows of chosen lengths."""

import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import WhitespaceSplit
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from easyrlhf.models.folder import save_lm

PAD, EOS, UNKNOWN, FIRST_WORD = 0, 2, 3, 4
SPECIAL = ["<|pad|>", "<|im_start|>", "<|im_end|>", "<unk>"]
CHATML = (
    "{% for m in messages %}{{ '<|im_start|> ' + m['role'] + ' ' + m['content'] + ' <|im_end|> ' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|> assistant ' }}{% endif %}"
)


@dataclass(frozen=True)
class Size:
    """The shape of a Llama."""

    hidden: int
    layers: int
    intermediate: int
    vocabulary: int
    key_heads: int | None = None  # of keys and values; as many as the queries' unless told

    @property
    def heads(self) -> int:
        """Heads of queries, of 64 each."""
        return self.hidden // 64

    @property
    def trunk(self) -> int:
        """Parameters outside embeddings and head, norms left out."""
        of_keys = self.hidden if self.key_heads is None else 64 * self.key_heads
        attention = 2 * self.hidden * (self.hidden + of_keys)
        return self.layers * (attention + 3 * self.hidden * self.intermediate)


SIZES = {
    "m9": Size(256, 6, 672, 8192),
    "60m": Size(512, 14, 1408, 16384),
    "0.5b": Size(896, 24, 4864, 151_936, key_heads=2),
    "1.5b": Size(1536, 28, 8960, 151_936, key_heads=2),
    "m9_32k": Size(256, 6, 672, 32768),
}


def tokenizer_of(size: Size) -> PreTrainedTokenizerFast:
    """A tokenizer whose tokens are numbered words between spaces: `w17` is token 17."""
    words = SPECIAL + [f"w{number}" for number in range(FIRST_WORD, size.vocabulary)]
    core = Tokenizer(WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    core.pre_tokenizer = WhitespaceSplit()
    core.add_special_tokens(SPECIAL)
    made = PreTrainedTokenizerFast(
        tokenizer_object=core, eos_token="<|im_end|>", pad_token="<|pad|>", unk_token="<unk>"
    )
    made.chat_template = CHATML
    return made


def words(ids: list[int]) -> str:
    """The text of token ids."""
    return " ".join(SPECIAL[number] if number < FIRST_WORD else f"w{number}" for number in ids)


def make_model(folder: Path, size: Size, eos_logit: float | None = None, head: torch.nn.Linear | None = None) -> str:
    """Write a random model with its tokenizer, perhaps with a value head; returns the folder's path.

    eos_logit  how likely the end of turn is at any place, as in ending_at; None leaves it as likely as other tokens
    """
    torch.manual_seed(0)
    ids = {"pad_token_id": PAD, "eos_token_id": EOS, "bos_token_id": None}
    lm = LlamaForCausalLM(config_of(size, **ids))
    if eos_logit is not None:
        set_eos_logit(lm, eos_logit)
    save_lm(folder, lm, tokenizer_of(size), head)
    return str(folder)


def config_of(size: Size, **more) -> LlamaConfig:
    """The configuration of a Llama of this size."""
    return LlamaConfig(
        hidden_size=size.hidden,
        intermediate_size=size.intermediate,
        num_hidden_layers=size.layers,
        vocab_size=size.vocabulary,
        num_attention_heads=size.heads,
        num_key_value_heads=size.key_heads or size.heads,
        max_position_embeddings=4096,
        **more,
    )


@torch.no_grad()
def set_eos_logit(lm: LlamaForCausalLM, logit: float) -> None:
    """Give the end of turn nearly the same logit everywhere.

    The first entry of every embedding is so large that after the last norm it is nearly the same whatever the tokens
    were; the end of turn reads its logit off that entry alone, and no other token looks at it.
    """
    lm.get_input_embeddings().weight[:, 0] = 10.0
    rows = lm.get_output_embeddings().weight
    rows[:, 0], rows[EOS] = 0.0, 0.0
    states = lm.model(torch.arange(FIRST_WORD, lm.config.vocab_size)[None, :512]).last_hidden_state
    rows[EOS, 0] = logit / states[0, :, 0].mean()


def ending_at(share: float, limit: int, vocabulary: int) -> float:
    """Logit of an end of turn that makes answers `share` of the limit long on average, the other logits being about 0.

    Their lengths are geometric, cut off at the limit: (1 − (1 − p)^T) / p on average, which falls as p rises.
    """
    low, high = 1e-6, 1.0
    for _ in range(60):
        p = (low + high) / 2
        low, high = (p, high) if (1 - (1 - p) ** limit) / p > share * limit else (low, p)
    return math.log(p / (1 - p)) + math.log(vocabulary - 1)


def lengths(count: int, mean: int, longest: int, *, skewed: bool, seed: int = 0) -> list[int]:
    """Lengths of rows: log-normal, cut off at the longest, or all of them the mean."""
    if not skewed:
        return [mean] * count
    drawn = np.random.default_rng(seed).lognormal(math.log(mean) - 0.32, 0.8, size=count)
    return np.clip(drawn.round(), 8, longest).astype(int).tolist()


class Words:
    """Random token ids, no control tokens among them."""

    def __init__(self, size: Size, seed: int = 0):
        self.random, self.vocabulary = np.random.default_rng(seed), size.vocabulary

    def __call__(self, length: int) -> list[int]:
        return self.random.integers(FIRST_WORD, self.vocabulary, size=length).tolist()


def demonstrations(size: Size, row_lengths: list[int]) -> list[dict]:
    """Rows of sft_train; the first token is not learned."""
    draw = Words(size)
    return [{"input_ids": draw(n), "loss_mask": [0] + [1] * (n - 1), "length": n} for n in row_lengths]


def comparisons(size: Size, count: int, total: int, share: float, spread: float) -> list[dict]:
    """Rows of rm_train and dpo_train: prompt and answer of `total` tokens on average, `share` of them the prompt.

    spread  how far each part may be from its mean length, as a share of it
    """
    draw, rows = Words(size), []
    for _ in range(count):
        prompt, chosen, rejected = (
            draw(max(2, round(mean * draw.random.uniform(1 - spread, 1 + spread))) - len(end)) + end
            for mean, end in ((share * total, []), ((1 - share) * total, [EOS]), ((1 - share) * total, [EOS]))
        )
        length = len(prompt) + max(len(chosen), len(rejected))
        row = {"prompt_ids": prompt, "chosen_ids": chosen, "rejected_ids": rejected, "length": length}
        rows.append(row | {"margin": 0.0, "weight": 1.0})
    return rows


def feedback(size: Size, count: int, total: int, share: float, group: int, spread: float) -> list[dict]:
    """Rows of kto_train: one answer of each comparison, liked and disliked in turn.

    group  rows of a batch of the peer, who estimates KL with the answer of the row before within it; so do we
    """
    rows = []
    for number, pair in enumerate(comparisons(size, count, total, share, spread)):
        first = number - number % group
        other = number - 1 if number > first else min(first + group, count) - 1
        row = {"prompt_ids": pair["prompt_ids"], "completion_ids": pair["chosen_ids"], "other": other}
        length = len(row["prompt_ids"]) + len(row["completion_ids"])
        rows.append(row | {"label": number % 2 == 0, "length": length})
    return rows


def prompts(size: Size, count: int, length: int) -> list[dict]:
    """Rows of ppo_train and grpo_train, all of one length."""
    draw = Words(size)
    found = [draw(length) for _ in range(count)]
    return [{"prompt_ids": ids, "prompt": f'"{words(ids)}"', "columns": "{}", "length": length} for ids in found]
