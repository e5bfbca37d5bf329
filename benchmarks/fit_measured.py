"""What `easyrlhf fit` predicts beside the measured peak of tensor bytes, stage by stage, on CPU.

    python benchmarks/fit_measured.py --output_dir outputs/fit_measured

Two random Llamas, of 9M and 100M parameters, go through two optimiser steps (or rollouts) of each stage: in full, with
LoRA, with gradient checkpointing, in bf16; online also with eight answers that share a long prompt. The bytes of all
live tensors are counted as operations make and drop them; the peak is taken from the first pass of training to the last
optimiser step. Rows are as long as the settings allow.
"""

import json
import subprocess
import sys
from pathlib import Path
from unittest.mock import patch

import click
from shared_backbone import TensorBytes
from transformers import LlamaConfig, LlamaForCausalLM

from easyrlhf.config.suggestions import STAGES
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.engine.engine import Engine
from easyrlhf.models.folder import save_lm
from easyrlhf.online import collect as collecting
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.stages import online, preference, rm, sft
from easyrlhf.stages.kto import train_kto
from easyrlhf.tools.fitting.memory import Machine
from easyrlhf.tools.fitting.stage_memory import memory_plan, with_models

MIB = 2**20
CONFIGS = {config.stage: config for config in STAGES}
MODELS = {
    "9M": {"vocab_size": 8192, "hidden_size": 256, "intermediate_size": 688, "num_hidden_layers": 6},
    "100M": {"vocab_size": 32_000, "hidden_size": 640, "intermediate_size": 1728, "num_hidden_layers": 12},
}
HEADS = {"9M": 4, "100M": 10}
TOKENS = {"9M": 1000, "100M": 500}  # of a micro-batch, about
TOGETHER = "8 answers"
WAYS = {
    "full": {},
    "LoRA": {"lora_r": 16},
    "checkpointing": {"gradient_checkpointing": True},
    "bf16": {"precision": "bf16"},
    "LoRA, bf16, checkpointing": {"lora_r": 16, "precision": "bf16", "gradient_checkpointing": True},
    "shared": {"lora_r": 16, "share_backbone": True},
    TOGETHER: {"num_generations": 8},
}
ONLINE_WAYS = "shared", TOGETHER
TRAIN = {
    "sft": sft.train_sft,
    "rm": rm.train_rm,
    "dpo": preference.train_dpo,
    "kto": train_kto,
    "ppo": online.train_ppo,
    "grpo": online.train_grpo,
}
ANSWERS = {"sft": 1, "kto": 1, "ppo": 1, "grpo": 1}
WORDS = "red blue green black white brown grey pink"
QUESTION, PROMPT = "red", WORDS  # of the offline and of the online stages
LONG = " ".join([WORDS] * 20)  # the prompt of eight answers
ANSWER, OTHER = " ".join([WORDS] * 12), " ".join([WORDS] * 11 + ["red"] * 8)


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), default="outputs/fit_measured", show_default=True)
@click.option("--size", "sizes", type=click.Choice(tuple(MODELS)), multiple=True, help="This one alone.")
@click.option("--stage", "stages", type=click.Choice(tuple(TRAIN)), multiple=True, help="This one alone.")
@click.option("--way", "ways", type=click.Choice(tuple(WAYS)), multiple=True, help="This one alone.")
@click.option("--one", is_flag=True, hidden=True, help="Run the one case in this process.")
def main(output_dir: Path, sizes: tuple, stages: tuple, ways: tuple, one: bool):
    """Run every case in a process of its own, and print the table."""
    if one:
        print(json.dumps(compare(output_dir, sizes[0], stages[0], ways[0])))
        return
    print("| model | stage | | predicted | measured | ratio |\n|---|---|---|---|---|---|")
    for size in sizes or MODELS:
        if not (output_dir / size / "reward" / "stage.json").exists():
            make_models(output_dir / size, size)
        for stage in stages or TRAIN:
            for way in ways or WAYS:
                if way in ONLINE_WAYS and stage not in ("ppo", "grpo"):
                    continue
                command = [sys.executable, __file__, "--output_dir", output_dir, "--one"]
                command += ["--size", size, "--stage", stage, "--way", way]
                done = subprocess.run(command, check=True, capture_output=True, text=True)
                predicted, measured = json.loads(done.stdout.splitlines()[-1])
                ratio = predicted / measured
                cells = f"{predicted / MIB:,.0f} MiB | {measured / MIB:,.0f} MiB | {ratio:.3f}"
                print(f"| {size} | {stage} | {way} | {cells} |", flush=True)


def compare(folder: Path, size: str, stage: str, way: str) -> tuple[float, int]:
    """Predicted and measured peak bytes of one case."""
    folder = folder / size
    config = CONFIGS[stage](**settings(folder, stage, way) | WAYS[way])
    plan = memory_plan(with_models(config), Machine("cpu", 1, 2**40))
    counter, peaks = TensorBytes(), []

    def counted(function):
        """The function, noting the peak while it runs."""

        def run(*args, **more):
            counter.peak = counter.now
            done = function(*args, **more)
            peaks.append(counter.peak)
            return done

        return run

    with (
        patch.object(Engine, "step", counted(Engine.step)),
        patch.object(HFSampler, "generate", counted(HFSampler.generate)),
        patch.object(collecting, "score_tokens", counted(collecting.score_tokens)),
        counter,
    ):
        TRAIN[stage](config)
    return plan.needed, max(peaks)


def settings(folder: Path, stage: str, way: str = "full") -> dict:
    """Settings of a stage whose rows are all as long as they allow, two micro-batches of them a step."""
    renderer = Renderer(load_tokenizer(str(folder / "base")))
    question = QUESTION if stage not in ("ppo", "grpo") else LONG if way == TOGETHER else PROMPT
    turn = {"role": "user", "content": question}
    prompt = len(renderer.prompt_ids([turn]))
    longest = prompt + max(
        len(renderer.completion_ids([turn], [{"role": "assistant", "content": text}])) for text in (ANSWER, OTHER)
    )
    if stage in ("ppo", "grpo"):
        longest = prompt + 64
    answers = ANSWERS.get(stage, 2)
    data, rows = stage, TOKENS[folder.name] // (longest * answers)
    tokens = rows * longest * answers
    if way == TOGETHER:  # a prompt with all of its answers
        data, rows, tokens = f"{stage}_long", 8, prompt + 8 * 64
    common = {"model": str(folder / "base"), "output_dir": str(folder / stage), "overwrite": True, "max_steps": 2}
    common |= {"devices": "cpu", "report_to": "none", "max_length": longest, "max_prompt_length": prompt}
    common |= {"micro_batch_tokens": tokens, "train_data": str(folder / f"{data}.jsonl")}
    if stage == "ppo":
        common |= {"response_length": 64, "num_ppo_epochs": 1}
    if stage == "grpo":
        common |= {"max_completion_length": 64, "num_generations": 2}
    if stage in ("ppo", "grpo"):
        common |= {"reward_model": str(folder / "reward"), "num_sample_generations": 0}
        common |= {"local_rollout_forward_batch_size": 16}
    return common | {"batch_size": 2 * rows}


def make_models(folder: Path, size: str) -> None:
    """A base model with a tokenizer, a LoRA reward model of it, and rows to learn from."""
    folder.mkdir(parents=True, exist_ok=True)
    question = [{"role": "user", "content": QUESTION}]
    answer, other = ([{"role": "assistant", "content": text}] for text in (ANSWER, OTHER))
    pair = {"prompt": question, "chosen": answer, "rejected": other}
    labelled = [
        {"prompt": question, "completion": answer, "label": True},
        {"prompt": question, "completion": other, "label": False},
    ]
    rows = {"sft": [{"messages": question + answer}] * 2, "rm": [pair] * 2, "dpo": [pair] * 2, "kto": labelled}
    for name, text in (("", PROMPT), ("_long", LONG)):
        prompt = {"prompt": [{"role": "user", "content": text}]}
        rows |= {f"ppo{name}": [prompt] * 2, f"grpo{name}": [prompt] * 2}
    for name, few in rows.items():
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in few * 64))
    scripts = Path(sys.executable).parent
    flags = ["--train_data", folder / "sft.jsonl", "--output_dir", folder / "init", "--overwrite"]
    subprocess.run([scripts / "easyrlhf", "init", *flags], check=True, stdout=subprocess.DEVNULL)
    tokenizer = load_tokenizer(str(folder / "init"))
    ids = {"eos_token_id": tokenizer.eos_token_id, "pad_token_id": tokenizer.pad_token_id, "bos_token_id": None}
    shape = MODELS[size] | {"num_attention_heads": HEADS[size]}
    save_lm(folder / "base", LlamaForCausalLM(LlamaConfig(**shape, **ids)), tokenizer)
    rm.train_rm(
        CONFIGS["rm"](**settings(folder, "rm") | {"lora_r": 16, "max_steps": 1, "output_dir": str(folder / "reward")})
    )


if __name__ == "__main__":
    main()
