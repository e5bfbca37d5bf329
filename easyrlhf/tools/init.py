"""easyrlhf init: a tokenizer and a small random model, a starting point that needs no download."""

import importlib.metadata
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from easyrlhf.config import InitConfig
from easyrlhf.data.sources import open_sources
from easyrlhf.data.templates import CONTROL_TOKENS
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.data.watching import watched
from easyrlhf.errors import InputError
from easyrlhf.files import make_folder
from easyrlhf.models.folder import save_lm
from easyrlhf.report.next_steps import next_line
from easyrlhf.run.manifest import write_stage

PAD, END = "<|pad|>", "<|endoftext|>"


@dataclass(frozen=True)
class Preset:
    """Shape of a Llama."""

    vocab_size: int
    hidden_size: int
    intermediate_size: int
    layers: int
    heads: int
    positions: int
    initializer_range: float
    tied: bool


PRESETS = {
    "tiny": Preset(640, 128, 256, 2, 4, 1024, 0.08, True),
    "small": Preset(8192, 256, 704, 6, 8, 4096, 0.02, True),
}


def init_model(config: InitConfig) -> Path:
    """Train a byte-level BPE tokenizer on the texts of `train_data` and write a random Llama around it.

    Returns the folder. Raises InputError when the data cannot be read, or the folder is not empty.
    """
    started, folder = time.monotonic(), Path(config.output_dir)
    if folder.exists() and any(folder.iterdir()) and not config.overwrite:
        raise InputError(f"--output_dir {folder}: is not empty; give another folder, or --overwrite to write into it")
    preset = PRESETS[config.preset]
    tokenizer = train_tokenizer(texts(config.train_data), config.vocab_size or preset.vocab_size, config.chat_template)
    torch.manual_seed(config.seed)
    lm = LlamaForCausalLM(llama_config(preset, tokenizer))
    make_folder(folder)
    save_lm(folder, lm, tokenizer)
    write_stage(
        folder,
        {
            "status": "complete",
            "easyrlhf_version": importlib.metadata.version("easyrlhf"),
            "stage": "init",
            "seed": config.seed,
            **tokenizer_fingerprint(tokenizer),
            "wall_seconds": round(time.monotonic() - started, 1),
        },
    )
    count = sum(parameter.numel() for parameter in lm.parameters())
    print(f"{folder}: a random Llama of {count:,} parameters and a tokenizer of {len(tokenizer):,} tokens")
    words = ["sft_train", "--model", str(folder), "--train_data", config.train_data, "--learning_rate", "2e-3"]
    print(next_line(words))
    return folder


def texts(train_data: str) -> Iterator[str]:
    """Every text in the rows of the files, whatever their format."""
    for source in open_sources(train_data):
        for row in watched(source.name, source.read()):
            if row.fault:
                raise InputError(f"{row.place}: {row.fault}")
            yield from strings(row.value)


def strings(value: Any) -> Iterator[str]:
    """All strings inside a JSON value, its keys apart."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict | list):
        for item in value.values() if isinstance(value, dict) else value:
            yield from strings(item)


def train_tokenizer(rows: Iterator[str], vocab_size: int, chat_template: str) -> PreTrainedTokenizerFast:
    """A byte-level BPE tokenizer with the chat template's control tokens among its `vocab_size` tokens."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size - len(CONTROL_TOKENS.get(chat_template, ())),
        special_tokens=[PAD, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    bpe.train_from_iterator(rows, trainer)
    with TemporaryDirectory() as draft:
        PreTrainedTokenizerFast(tokenizer_object=bpe, pad_token=PAD, eos_token=END).save_pretrained(draft)
        return load_tokenizer(draft, chat_template=chat_template)


def llama_config(preset: Preset, tokenizer: PreTrainedTokenizerFast) -> LlamaConfig:
    """The preset as a transformers configuration, its vocabulary as large as the tokenizer."""
    return LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=preset.hidden_size,
        intermediate_size=preset.intermediate_size,
        num_hidden_layers=preset.layers,
        num_attention_heads=preset.heads,
        num_key_value_heads=preset.heads,
        max_position_embeddings=preset.positions,
        initializer_range=preset.initializer_range,
        tie_word_embeddings=preset.tied,
        pad_token_id=tokenizer.pad_token_id,
        eos_token_id=tokenizer.eos_token_id,
        bos_token_id=None,
    )
