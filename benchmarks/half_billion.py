"""One PPO step on a random model of Qwen2.5-0.5B's shape, and the memory it took.

    python benchmarks/half_billion.py --output_dir /tmp/half_billion

The tokenizer is of Qwen2's class, embeddings are tied, the vocabulary is padded to 151,936 rows. Four models are held
(with LoRA three: the reference is the policy with its adapter off). Prints a line per precision.
"""

import json
import resource
import shutil
import subprocess
import sys
from pathlib import Path

import click
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import Qwen2Config, Qwen2ForCausalLM, Qwen2TokenizerFast

from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.models.folder import save_lm
from easyrlhf.models.value_head import new_head

PROMPTS = [{"prompt": [{"role": "user", "content": f"Say {word}."}]} for word in ("red", "blue", "green", "black")]


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/half_billion", show_default=True)
@click.option("--lora_r", default=16, show_default=True)
def main(output_dir: Path, lora_r: int):
    """Make the models once, then run ppo_train for one rollout in each precision."""
    if not (output_dir / "rm").exists():
        make_models(output_dir)
    (output_dir / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    for precision in ("bf16", "float32"):
        shutil.rmtree(output_dir / "ppo", ignore_errors=True)
        flags = {
            "model": output_dir / "sft",
            "reward_model": output_dir / "rm",
            "train_data": output_dir / "prompts.jsonl",
            "output_dir": output_dir / "ppo",
            "precision": precision,
            "lora_r": lora_r,
            "batch_size": 4,
            "response_length": 16,
            "num_ppo_epochs": 1,
            "max_steps": 1,
            "devices": "cpu",
            "num_sample_generations": 0,
        }
        words = [word for name, value in flags.items() for word in (f"--{name}", str(value))]
        subprocess.run([Path(sys.executable).parent / "ppo_train", *words], check=True, stdout=subprocess.DEVNULL)
        row = json.loads((output_dir / "ppo" / "metrics.jsonl").read_text())
        peak = resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 2**20  # of the largest child so far
        seconds, kl = row["time/step"], row["objective/kl"]
        print(f"{precision}: one step in {seconds:.0f} s, KL {kl:.4f}, peak so far {peak:.1f} GiB", flush=True)


def make_models(folder: Path) -> None:
    """A policy and a reward model with random weights, bf16 on disk as the real one is."""
    bpe = Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    special = ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(special_tokens=special, initial_alphabet=alphabet, show_progress=False)
    bpe.train_from_iterator(["user", "assistant", "Say red, blue, green or black."], trainer)
    draft = folder / "tokenizer"
    Qwen2TokenizerFast(tokenizer_object=bpe, eos_token="<|endoftext|>", pad_token="<|endoftext|>").save_pretrained(
        draft
    )
    tokenizer = load_tokenizer(str(draft), chat_template="chatml")
    torch.manual_seed(0)
    config = Qwen2Config(
        vocab_size=151_936,
        hidden_size=896,
        intermediate_size=4864,
        num_hidden_layers=24,
        num_attention_heads=14,
        num_key_value_heads=2,
        tie_word_embeddings=True,
    )
    lm = Qwen2ForCausalLM(config).to(torch.bfloat16)
    save_lm(folder / "sft", lm, tokenizer)
    save_lm(folder / "rm", lm, tokenizer, new_head(lm))


if __name__ == "__main__":
    main()
