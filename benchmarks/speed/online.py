"""P1, P2, P3, P4, O1: the stages that learn from their own samples, beside TRL's trainers.

PPO's peer is PPOTrainer of trl 1.12.0, which must stand before the installed TRL on the path.
"""

import tempfile
from pathlib import Path
from statistics import mean

import torch
from datasets import Dataset
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from easyrlhf.config import GRPOConfig, PPOConfig
from speed import ours, world
from speed.measure import Options, require_equal
from speed.results import Result, best_of
from speed.rewards import reward
from speed.roofline import faster_precision
from speed.settings import LEARNING_RATE, common
from speed.turns import Turns

PROMPT, LIMIT, SHARE, EPISODES = 64, 64, 0.4, 16  # tokens, tokens, mean length of an answer over the limit, a rollout's
SIBLINGS = 4  # P4: answers to a prompt
NEVER = -20.0  # logit of an end of turn that no answer reaches
GROUP, PROMPTS, GROUP_LIMIT = 8, 4, 32  # O1: completions of a prompt, prompts of a step, tokens of a completion
REWARD = Path(__file__).with_name("rewards.py")


class Folders:
    """A policy whose answers end at a chosen length, and a reward model, in folders of both sides' kinds."""

    def __init__(self, size: world.Size, eos_logit: float):
        self.scratch = tempfile.TemporaryDirectory()
        base = Path(self.scratch.name)
        head = torch.nn.Linear(size.hidden, 1)
        torch.nn.init.zeros_(head.bias)
        self.policy = world.make_model(base / "policy", size, eos_logit)
        self.reward = world.make_model(base / "reward", size, eos_logit, head)
        self.classifier = str(base / "classifier")
        lm = AutoModelForCausalLM.from_pretrained(self.reward)
        classifier = AutoModelForSequenceClassification.from_pretrained(self.reward, num_labels=1)
        classifier.model.load_state_dict(lm.model.state_dict())
        classifier.score.weight.data.copy_(head.weight.data)
        classifier.save_pretrained(self.classifier)


def config_of(config_class, options: Options, folders: Folders, precision: str, **settings):
    """Our settings."""
    return config_class(
        train_data="rows",
        model=folders.policy,
        output_dir=f"{folders.policy}-ours",
        learning_rate=LEARNING_RATE,
        precision=precision,
        devices=options.devices,
        report_to="none",
        num_sample_generations=0,
        **settings,
    )


# --- PPO


def ppo_side(
    options: Options, folders: Folders, rows: list[dict], precision: str, siblings: int = 1
) -> ours.OnlineSide:
    """Our PPO, with so many answers to a prompt."""
    settings = {"reward_model": folders.reward, "response_length": LIMIT, "batch_size": EPISODES}
    settings |= {"num_generations": siblings}
    return ours.OnlineSide(config_of(PPOConfig, options, folders, precision, **settings), rows)


def ppo_peer(options: Options, folders: Folders, rows: list[dict], steps: int, *, bf16: bool):
    """PPOTrainer with the same models, prompts and settings."""
    from trl.experimental.ppo import PPOConfig as TRLConfig
    from trl.experimental.ppo import PPOTrainer

    args = TRLConfig(
        **common(options.device, f"{folders.policy}-trl", bf16=bf16),
        per_device_train_batch_size=EPISODES,
        gradient_accumulation_steps=1,
        total_episodes=EPISODES * steps,
        num_ppo_epochs=4,
        num_mini_batches=1,
        local_rollout_forward_batch_size=EPISODES,
        response_length=LIMIT,
        temperature=1.0,
        stop_token="eos",
        missing_eos_penalty=1.0,
        num_sample_generations=0,
    )
    tokenizer = AutoTokenizer.from_pretrained(folders.policy, padding_side="left")
    policy, reference = (AutoModelForCausalLM.from_pretrained(folders.policy, dtype="float32") for _ in range(2))
    scalars = [
        AutoModelForSequenceClassification.from_pretrained(folders.classifier, num_labels=1, dtype="float32")
        for _ in range(2)
    ]
    return PPOTrainer(
        args=args,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=scalars[0],
        value_model=scalars[1],
        train_dataset=Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows]),
        eval_dataset=Dataset.from_list([{"input_ids": row["prompt_ids"]} for row in rows[:1]]),
    )


@torch.no_grad()
def check_ppo(side: ours.OnlineSide, trainer, precision: str) -> None:
    """Raise unless policy, value and reward model of the peer say of our samples what ours say."""
    from trl.experimental.ppo.ppo_trainer import forward
    from trl.experimental.utils import get_reward

    rollout, pad = side.rollout(), world.PAD
    prompts = torch.tensor(rollout.prompt_ids, device=rollout.completion_ids.device)
    ids = torch.cat([prompts, rollout.completion_ids.masked_fill(rollout.completion_mask == 0, pad)], 1)
    mask = rollout.completion_mask.bool()
    logits = forward(trainer.model.policy, ids, pad).logits[:, PROMPT - 1 : -1].float()
    logprobs = logits.log_softmax(-1).gather(2, rollout.completion_ids[..., None]).squeeze(-1)
    values = get_reward(trainer.model.value_model, ids, pad, PROMPT)[0][:, PROMPT - 1 : -1].squeeze(-1)
    scores = get_reward(trainer.reward_model, ids, pad, PROMPT)[1]
    theirs = {"old_logprobs": logprobs[mask], "values": values[mask]}
    for name, found in theirs.items():
        require_equal(name, getattr(rollout, name)[mask].norm().item(), found.norm().item(), precision)
    found = rollout.source_scores["reward_model"]  # as few as there are rows, of a random head, and so near zero
    require_equal("scores", found.norm().item(), scores.norm().item(), precision, lost=4)


def ppo_against(
    folders: Folders, options: Options, what: str, precision: str, bf16: bool, target: float, siblings: int = 1
) -> Result:
    """PPO by turns, both sides sampling their own answers, so many to a prompt; the peer reads it once for each."""
    rows = world.prompts(options.shape, EPISODES * 4 // siblings, PROMPT)
    side = ppo_side(options, folders, rows, precision, siblings)
    repeated = [row for row in rows for _ in range(siblings)]
    trainer = ppo_peer(options, folders, repeated, options.pairs + 1, bf16=bf16)
    check_ppo(side, trainer, precision)
    theirs = lengths_of(trainer)
    turns = Turns(side.step, lambda: EPISODES)
    trainer.add_callback(turns)
    trainer.train()
    peer = "bf16" if bf16 else "float32"
    note = f"answers of {mean(side.lengths):.0f} and {mean(theirs):.0f} of {LIMIT} tokens"
    what = f"{what}, against PPOTrainer in {peer}"
    return Result(what, "samples/s", **turns.paired.as_result(), target=target, note=note, **options.how(precision))


def lengths_of(trainer) -> list[float]:
    """Fills, while the trainer trains, with the mean lengths of the answers it samples."""
    from trl.experimental.ppo import ppo_trainer

    found, generate = [], ppo_trainer.batch_generation

    def noted(model, queries, *args):
        sampled, logits = generate(model, queries, *args)
        answers = sampled[:, queries.shape[1] :]
        ended = (answers == world.EOS).int().argmax(1) + 1
        found.append(torch.where((answers == world.EOS).any(1), ended, answers.shape[1]).float().mean().item())
        return sampled, logits

    ppo_trainer.batch_generation = noted
    return found


def ending(options: Options) -> Folders:
    """Models whose answers end, on average, at SHARE of the limit."""
    return Folders(options.shape, world.ending_at(SHARE, LIMIT, options.shape.vocabulary))


def p1(options: Options) -> list[Result]:
    """Answers that end, each side in its faster precision."""
    return [in_the_faster_precision(options, "PPO, answers that end", 2.7)]


def in_the_faster_precision(options: Options, what: str, target: float, **how) -> Result:
    """PPO of answers that end, we in the type whose products are faster here, the peer in whichever is better."""
    precision, peers = faster_precision(options), (True,) if options.on_gpu else (True, False)
    return best_of(ppo_against(ending(options), options, what, precision, bf16, target, **how) for bf16 in peers)


def p2(options: Options) -> list[Result]:
    """Answers that end, float32."""
    return [ppo_against(ending(options), options, "PPO, answers that end", "float32", False, 1.8)]


def p3(options: Options) -> list[Result]:
    """Answers of full length."""
    folders, precision = Folders(options.shape, NEVER), options.precision
    return [ppo_against(folders, options, "PPO, answers of full length", precision, precision == "bf16", 1.35)]


def p4(options: Options) -> list[Result]:
    """Answers that end, several to a prompt."""
    what = f"PPO, answers that end, {SIBLINGS} to a prompt"
    return [in_the_faster_precision(options, what, 2.7, siblings=SIBLINGS)]


# --- GRPO


def o1(options: Options) -> list[Result]:
    """GRPO, rollout and update, on prompts twice as long as the answers."""
    folders, steps = Folders(options.shape, NEVER), options.pairs + 1
    rows = world.prompts(options.shape, PROMPTS * steps, 2 * GROUP_LIMIT)
    settings = {"reward_funcs": f"{REWARD}:reward", "max_completion_length": GROUP_LIMIT, "num_generations": GROUP}
    settings |= {"batch_size": GROUP * PROMPTS}
    side = ours.OnlineSide(config_of(GRPOConfig, options, folders, options.precision, **settings), rows)
    trainer = grpo_peer(options, folders, rows, steps)
    check_grpo(side, trainer, options.precision)
    turns = Turns(side.step, lambda: GROUP * PROMPTS)
    trainer.add_callback(turns)
    trainer.train()
    what = f"GRPO step, G={GROUP}, prompt:completion 2:1, against GRPOTrainer"
    return [Result(what, "samples/s", **turns.paired.as_result(), target=2.0, **options.how(options.precision))]


def grpo_peer(options: Options, folders: Folders, rows: list[dict], steps: int):
    """GRPOTrainer with the same model, prompts, rewards and settings."""
    from trl import GRPOConfig as TRLConfig
    from trl import GRPOTrainer

    args = TRLConfig(
        **common(options.device, f"{folders.policy}-trl", bf16=options.precision == "bf16"),
        per_device_train_batch_size=GROUP * PROMPTS,
        num_generations=GROUP,
        max_completion_length=GROUP_LIMIT,
        max_steps=steps,
    )
    return GRPOTrainer(
        model=AutoModelForCausalLM.from_pretrained(folders.policy, dtype="float32"),
        reward_funcs=[reward],
        args=args,
        train_dataset=Dataset.from_list([{"prompt": world.words(row["prompt_ids"])} for row in rows]),
        processing_class=AutoTokenizer.from_pretrained(folders.policy),
    )


@torch.no_grad()
def check_grpo(side: ours.OnlineSide, trainer, precision: str) -> None:
    """Raise unless the peer's policy says of our samples what ours says."""
    rollout = side.rollout()
    prompts = torch.tensor(rollout.prompt_ids, device=rollout.completion_ids.device)
    ids = torch.cat([prompts, rollout.completion_ids], 1)
    width = rollout.completion_ids.shape[1]
    theirs = trainer._get_per_token_logps_and_entropies(trainer.model, ids, torch.ones_like(ids), width)[0]
    require_equal("old_logprobs", rollout.old_logprobs.norm().item(), theirs.norm().item(), precision)
