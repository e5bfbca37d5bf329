"""Peak tensor bytes of a PPO update with one shared backbone, beside LoRA models of their own and four full models.

    python benchmarks/shared_backbone.py --output_dir outputs/shared_backbone

A random Llama of 100M parameters; the bytes of all live tensors are counted as operations make and drop them (not
resident memory), and the peak is taken over the optimiser steps: weights, gradients, Adam's moments, activations and
logits. An SFT step with LoRA at the same micro_batch_tokens is the yardstick.
"""

import json
import subprocess
import sys
import weakref
from pathlib import Path

import click
import torch
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_iter
from transformers import LlamaConfig, LlamaForCausalLM

from easyrlhf.config import PPOConfig, RMConfig, SFTConfig
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.engine import Engine
from easyrlhf.models.folder import save_lm
from easyrlhf.stages.online import train_ppo
from easyrlhf.stages.rm import train_rm
from easyrlhf.stages.sft import train_sft

WORDS = "red blue green black white brown grey pink"
COMMON = {"micro_batch_tokens": 1024, "batch_size": 16, "max_length": 256, "max_prompt_length": 128}
COMMON |= {"devices": "cpu", "report_to": "none"}
CASES = ("LoRA SFT", "shared", "LoRA", "full")


class TensorBytes(TorchDispatchMode):
    """Counts the bytes of all storages that operations have touched and nobody has dropped yet."""

    def __init__(self):
        super().__init__()
        self.live: dict[int, int] = {}
        self.now = self.peak = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        """Run the operation; note the storages of what goes in and what comes out."""
        result = func(*args, **(kwargs or {}))
        for item in tree_iter((args, kwargs, result)):
            if isinstance(item, torch.Tensor):
                self.note(item.untyped_storage())
        return result

    def note(self, storage: torch.UntypedStorage) -> None:
        """Count a storage once, until it is freed."""
        key = storage._cdata
        if key not in self.live and storage.nbytes():
            self.live[key] = storage.nbytes()
            self.now += self.live[key]
            self.peak = max(self.peak, self.now)
            weakref.finalize(storage, self.forget, key)

    def forget(self, key: int) -> None:
        """Take a freed storage off the count."""
        self.now -= self.live.pop(key)


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/shared_backbone", show_default=True)
@click.option("--case", type=click.Choice(CASES), help="Run this one alone and print its bytes.")
def main(output_dir: Path, case: str | None):
    """Make the models once, run every case in a process of its own, print the table."""
    if case:
        print(peak_of(case, output_dir))
        return
    if not (output_dir / "rm" / "stage.json").exists():
        make_models(output_dir)
    command = [sys.executable, __file__, "--output_dir", str(output_dir), "--case"]
    peaks = {
        name: int(subprocess.run([*command, name], check=True, capture_output=True, text=True).stdout.split()[-1])
        for name in CASES
    }
    print("| step | peak tensor bytes | of LoRA SFT | of four full models |\n|---|---|---|---|")
    for name, peak in peaks.items():
        title = name if name == "LoRA SFT" else f"PPO, {name}"
        print(f"| {title} | {peak / 2**20:,.0f} MiB | {peak / peaks['LoRA SFT']:.2f} | {peak / peaks['full']:.2f} |")


def peak_of(case: str, folder: Path) -> int:
    """Peak tensor bytes over the optimiser steps of two rollouts, or of two SFT steps."""
    counter, peaks, step = TensorBytes(), [], Engine.step

    def counted(engine, *args):
        counter.peak = counter.now
        done = step(engine, *args)
        peaks.append(counter.peak)
        return done

    Engine.step = counted
    settings = COMMON | {"output_dir": str(folder / case.replace(" ", "_")), "overwrite": True, "max_steps": 2}
    settings |= {"model": str(folder / "base"), "lora_r": 0 if case == "full" else 16}
    with counter:
        if case == "LoRA SFT":
            train_sft(SFTConfig(train_data=str(folder / "sft.jsonl"), **settings))
        else:
            online = {"response_length": 64, "num_ppo_epochs": 1, "num_sample_generations": 0}
            rewards = {"reward_model": str(folder / "rm"), "share_backbone": case == "shared"}
            train_ppo(PPOConfig(train_data=str(folder / "prompts.jsonl"), **settings | online | rewards))
    return max(peaks)


def make_models(folder: Path) -> None:
    """A base model with a tokenizer, a LoRA reward model of it, and rows to learn from."""
    text = " ".join([WORDS] * 3)
    turns = [{"role": "user", "content": text}, {"role": "assistant", "content": text}]
    pair = {"prompt": turns[:1], "chosen": turns[1:], "rejected": [{"role": "assistant", "content": WORDS}]}
    for name, row in {"sft": {"messages": turns}, "pairs": pair, "prompts": {"prompt": turns[:1]}}.items():
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"{name}.jsonl").write_text((json.dumps(row) + "\n") * 32)
    scripts = Path(sys.executable).parent
    flags = ["--train_data", folder / "sft.jsonl", "--output_dir", folder / "init", "--overwrite"]
    subprocess.run([scripts / "easyrlhf", "init", *flags], check=True, stdout=subprocess.DEVNULL)
    shape = {"hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12, "num_attention_heads": 10}
    tokenizer = load_tokenizer(str(folder / "init"))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    save_lm(folder / "base", LlamaForCausalLM(LlamaConfig(vocab_size=32_000, **shape, **ids)), tokenizer)
    settings = COMMON | {"model": str(folder / "base"), "output_dir": str(folder / "rm"), "overwrite": True}
    train_rm(RMConfig(train_data=str(folder / "pairs.jsonl"), lora_r=16, max_steps=1, **settings))


if __name__ == "__main__":
    main()
