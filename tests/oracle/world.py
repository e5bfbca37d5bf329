"""A world small enough to enumerate: every completion of every prompt, its reward, and the best policy there is.

Maximising J(π) = E_π[r] − β·KL(π‖π_ref) has one answer, π*(y|x) ∝ π_ref(y|x)·exp(r(x,y)/β), and for any policy
J(π*) − J(π) = β·KL(π‖π*) (Rafailov et al. 2023, section 4; Korbak et al. 2022). Here both sides can be computed.
"""

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

PAD, EOS = 0, 1
WORDS = ["a", "b", "c", "d", "e"]
VOCABULARY = ["<pad>", "<eos>", *WORDS]
SIZE = len(VOCABULARY)

REWARDS = """
import numpy as np

TABLE = np.array({table})


def additive(prompts, completion_ids, **_):
    return [float(sum(TABLE[ord(p) - ord("a"), token] for token in ids)) for p, ids in zip(prompts, completion_ids)]
"""


@dataclass(frozen=True)
class World:
    """Folders and files of one world.

    table  [P, V]  reward of each token after each prompt; the reward of a completion is the sum over its tokens
    """

    folder: Path
    table: np.ndarray
    length: int

    @property
    def policy(self) -> str:
        """Folder of the reference, from which training starts."""
        return str(self.folder / "reference")

    @property
    def prompts(self) -> str:
        """File of the prompts, one row each."""
        return str(self.folder / "prompts.jsonl")

    @property
    def reward_funcs(self) -> str:
        """What --reward_funcs takes."""
        return f"{self.folder / 'rewards.py'}:additive"

    def completions(self) -> list[tuple[int, ...]]:
        """All completions of at most `length` tokens: those that end with EOS, and full ones that do not."""
        found = []
        others = [token for token in range(SIZE) if token != EOS]
        for n in range(self.length):
            found += [(*head, EOS) for head in itertools.product(others, repeat=n)]
        return found + list(itertools.product(others, repeat=self.length))

    def rewards(self, missing_eos_penalty: float) -> np.ndarray:
        """Penalised reward of every completion of every prompt.  [P, Y]"""
        scores = [self.table[:, list(y)].sum(1) - missing_eos_penalty * (y[-1] != EOS) for y in self.completions()]
        return np.stack(scores, axis=1)

    @torch.no_grad()
    def log_distribution(self, folder: str | Path) -> np.ndarray:
        """Log-probability of every completion of every prompt under a saved policy.  [P, Y]"""
        lm = AutoModelForCausalLM.from_pretrained(folder).double()
        rows = []
        for prompt in range(len(WORDS)):
            total = []
            for y in self.completions():
                ids = torch.tensor([[2 + prompt, *y]])
                logprobs = lm(ids).logits[0, :-1].log_softmax(-1)
                total.append(logprobs.gather(1, ids[0, 1:, None]).sum().item())
            rows.append(total)
        return np.array(rows)


def make_world(folder: Path, length: int, seed: int) -> World:
    """Write a random reference model, prompts and rewards."""
    rng = np.random.default_rng(seed)
    table = np.round(rng.uniform(-1, 1, (len(WORDS), SIZE)), 3)
    vocabulary = Tokenizer(
        models.WordLevel({word: number for number, word in enumerate(VOCABULARY)}, unk_token="<pad>")
    )
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>")
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=SIZE,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        initializer_range=0.2,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    folder.mkdir(parents=True, exist_ok=True)
    LlamaForCausalLM(config).save_pretrained(folder / "reference")
    tokenizer.save_pretrained(folder / "reference")
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in WORDS))
    (folder / "rewards.py").write_text(REWARDS.replace("{table}", json.dumps(table.tolist())))
    return World(folder, table, length)


def missing_eos_penalty(world: World) -> float:
    """None where no completion has room for EOS and more."""
    return 0.5 if world.length > 1 else 0.0


def ppo_flags(world: World, output_dir: Path, beta: float, seed: int) -> list[str]:
    """Words after `ppo_train`: 40,000 episodes, linear schedule, k1."""
    settings = {
        "model": world.policy,
        "train_data": world.prompts,
        "reward_funcs": world.reward_funcs,
        "output_dir": output_dir,
        "seed": seed,
        "kl_coef": beta,
        "response_length": world.length,
        "missing_eos_penalty": missing_eos_penalty(world),
        "total_episodes": 40_000,
        "batch_size": 400,
        "local_rollout_forward_batch_size": 400,
        "num_mini_batches": 4,
        "learning_rate": 1e-2 if world.length == 1 else 3e-3,
        "vf_coef": 1.0,
        "max_length": 16,
        "max_prompt_length": 4,
        "micro_batch_tokens": 8192,
        "num_sample_generations": 0,
        "save_steps": 0,
        "log_steps": 100,
        "report_to": "none",
        "devices": "cpu",
    }
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


@dataclass(frozen=True)
class Verdict:
    """How far a trained policy is from the best one, averaged over prompts; all in nats or units of reward."""

    kl_to_best: float
    objective: float
    best_objective: float
    first_objective: float

    @property
    def missing_gain(self) -> float:
        """Share of the gain from the reference to the best policy that is not reached."""
        return (self.best_objective - self.objective) / (self.best_objective - self.first_objective)


def judge(world: World, trained: str | Path, beta: float, missing_eos_penalty: float) -> Verdict:
    """Compare a trained policy with π* by enumeration."""
    reference, policy = world.log_distribution(world.policy), world.log_distribution(trained)
    rewards = world.rewards(missing_eos_penalty)
    best = reference + rewards / beta
    best -= np.logaddexp.reduce(best, axis=1, keepdims=True)

    def expected(log_p: np.ndarray, values: np.ndarray) -> float:
        return float((np.exp(log_p) * values).sum(1).mean())

    def objective(log_p: np.ndarray) -> float:
        return expected(log_p, rewards - beta * (log_p - reference))

    return Verdict(expected(policy, policy - best), objective(policy), objective(best), objective(reference))
