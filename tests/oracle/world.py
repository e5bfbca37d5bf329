"""A world small enough to enumerate: every completion of every prompt, its reward, and the best policy there is.

Maximising J(π) = E_π[r] − β·KL(π‖π_ref) has one answer, π*(y|x) ∝ π_ref(y|x)·exp(r(x,y)/β), and for any policy
J(π*) − J(π) = β·KL(π‖π*) (Rafailov et al. 2023, section 4; Korbak et al. 2022). Here both sides can be computed.

P prompts of one word each, Y completions of at most T tokens, V tokens.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoModelForCausalLM, GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from easyrlhf.models.value_head import ScalarModel, load_head

PAD, EOS = 0, 1
WORDS = ["a", "b", "c", "d", "e"]
VOCABULARY = ["<pad>", "<eos>", *WORDS]
SIZE = len(VOCABULARY)

REWARDS = """
ADDITIVE = {additive}  # prompt → reward of each token
UNSTRUCTURED = {unstructured}  # prompt → completion → reward


def additive(prompts, completion_ids, **_):
    return [sum(ADDITIVE[prompt][token] for token in ids) for prompt, ids in zip(prompts, completion_ids)]


def unstructured(prompts, completion_ids, **_):
    return [UNSTRUCTURED[prompt][" ".join(map(str, ids))] for prompt, ids in zip(prompts, completion_ids)]
"""


@dataclass(frozen=True)
class World:
    """Folders and files of one world.

    scores  [P, Y]  reward of each completion after each prompt, before any penalty
    reward          the function of the reward file that gives these scores: additive or unstructured
    """

    folder: Path
    length: int
    reward: str
    scores: np.ndarray

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
        return f"{self.folder / 'rewards.py'}:{self.reward}"

    @property
    def missing_eos_penalty(self) -> float:
        """None where no completion has room for EOS and more."""
        return 0.5 if self.length > 1 else 0.0

    @property
    def completions(self) -> list[tuple[int, ...]]:
        """All completions, in the order of every Y axis."""
        return completions(self.length)

    @property
    def rewards(self) -> np.ndarray:
        """Penalised reward of every completion of every prompt.  [P, Y]"""
        return self.scores - self.missing_eos_penalty * np.array([y[-1] != EOS for y in self.completions])

    @torch.no_grad()
    def token_logprobs(self, folder: str | Path) -> np.ndarray:
        """Log-probability of every token of every completion under a saved policy; 0 past the end.  [P, Y, T]"""
        lm = AutoModelForCausalLM.from_pretrained(folder).double()
        ids, mask = self.sequences()
        logprobs = lm(ids, attention_mask=torch.ones_like(ids)).logits[:, :-1].log_softmax(-1)
        drawn = logprobs.gather(2, ids[:, 1:, None]).squeeze(2)
        return (drawn * mask[:, 1:]).view(len(WORDS), -1, self.length).numpy()

    @torch.no_grad()
    def values(self, folder: str | Path) -> np.ndarray:
        """A saved value model's value of the state before every token of every completion.  [P, Y, T]"""
        lm = AutoModelForCausalLM.from_pretrained(folder)
        ids, mask = self.sequences()
        values = torch.zeros(mask[:, 1:].shape)
        values[mask[:, 1:].bool()] = ScalarModel(lm, load_head(str(folder), lm)).values(ids, mask)
        return values.view(len(WORDS), -1, self.length).double().numpy()

    def sequences(self) -> tuple[torch.Tensor, torch.Tensor]:
        """Every prompt before every completion, and a mask of the completions' tokens.  [P·Y, 1 + T] each"""
        pairs = [(2 + prompt, y) for prompt in range(len(WORDS)) for y in self.completions]
        ids = [[first, *y] + [PAD] * (self.length - len(y)) for first, y in pairs]
        mask = [[0] + [1] * len(y) + [0] * (self.length - len(y)) for _, y in pairs]
        return torch.tensor(ids), torch.tensor(mask)


def completions(length: int) -> list[tuple[int, ...]]:
    """All completions of at most `length` tokens: those that end with EOS, and full ones that do not."""
    others = [token for token in range(SIZE) if token != EOS]
    ended = [(*head, EOS) for n in range(length) for head in itertools.product(others, repeat=n)]
    return ended + list(itertools.product(others, repeat=length))


def make_world(folder: Path, length: int, seed: int, reward: str = "additive") -> World:
    """Write a random reference model, prompts and rewards."""
    rng = np.random.default_rng(seed)
    table = np.round(rng.uniform(-1, 1, (len(WORDS), SIZE)), 3)
    scores = {
        "additive": np.stack([table[:, list(y)].sum(1) for y in completions(length)], axis=1),
        "unstructured": np.round(rng.uniform(-1, 1, (len(WORDS), len(completions(length)))), 3),
    }
    folder.mkdir(parents=True, exist_ok=True)
    write_model(folder / "reference", seed)
    (folder / "prompts.jsonl").write_text("".join(json.dumps({"prompt": word}) + "\n" for word in WORDS))
    names = [" ".join(map(str, y)) for y in completions(length)]
    additive = dict(zip(WORDS, table.tolist(), strict=True))
    unstructured = {
        word: dict(zip(names, row, strict=True))
        for word, row in zip(WORDS, scores["unstructured"].tolist(), strict=True)
    }
    source = REWARDS.replace("{additive}", json.dumps(additive)).replace("{unstructured}", json.dumps(unstructured))
    (folder / "rewards.py").write_text(source)
    return World(folder, length, reward, scores[reward])


def write_model(folder: Path, seed: int) -> None:
    """A random model with its tokenizer.

    The best policy ends only where the last token can be, so positions must be plain to see: GPT-2 learns an
    embedding for each, and one layer is enough to come within 0.002 nats of the best policy.
    """
    vocabulary = Tokenizer(models.WordLevel({word: n for n, word in enumerate(VOCABULARY)}, unk_token="<pad>"))
    vocabulary.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=vocabulary, pad_token="<pad>", eos_token="<eos>").save_pretrained(folder)
    config = GPT2Config(
        vocab_size=SIZE,
        n_embd=64,
        n_layer=1,
        n_head=4,
        n_positions=128,
        initializer_range=0.1,
        tie_word_embeddings=False,
        pad_token_id=PAD,
        eos_token_id=EOS,
        bos_token_id=None,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        GPT2LMHeadModel(config).save_pretrained(folder)


def words_of(settings: dict[str, object]) -> list[str]:
    """Settings as the words of a command line."""
    return [word for name, value in settings.items() for word in (f"--{name}", str(value))]


def ppo_flags(world: World, output_dir: Path, beta: float, seed: int) -> list[str]:
    """Words after `ppo_train`: 40,000 episodes, linear schedule, k1."""
    return words_of(
        {
            "model": world.policy,
            "train_data": world.prompts,
            "reward_funcs": world.reward_funcs,
            "output_dir": output_dir,
            "seed": seed,
            "kl_coef": beta,
            "response_length": world.length,
            "missing_eos_penalty": world.missing_eos_penalty,
            "total_episodes": 40_000,
            "batch_size": 200,
            "local_rollout_forward_batch_size": 200,
            "num_mini_batches": 4,
            "learning_rate": 7e-4,
            "vf_coef": 1.0,
            "max_length": 16,
            "max_prompt_length": 4,
            "micro_batch_tokens": 8192,
            "num_sample_generations": 0,
            "save_steps": 0,
            "log_steps": 200,
            "report_to": "none",
            "devices": "cpu",
        }
    )


def best_policy(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """Log-probabilities of π* ∝ π_ref·exp(r/β).

    reference  [P, Y]  log-probabilities of π_ref
    returns    [P, Y]
    """
    best = reference + world.rewards / beta
    return best - np.logaddexp.reduce(best, axis=1, keepdims=True)


@dataclass(frozen=True)
class Method:
    """A way to train in a world, and where it must end.

    command  the console script
    flags    (world, output_dir, beta, seed) → the words after it
    target   (world, reference [P, Y], beta) → log-probabilities of the policy it must reach  [P, Y]
    """

    command: str
    flags: Callable[[World, Path, float, int], list[str]]
    target: Callable[[World, np.ndarray, float], np.ndarray]


METHODS = {"ppo": Method("ppo_train", ppo_flags, best_policy)}


@dataclass(frozen=True)
class Verdict:
    """How far a trained policy is from its target, averaged over prompts; all in nats or units of reward.

    value_error  root-mean-square error of the value model over the states the policy visits; None without one
    """

    kl_to_target: float
    objective: float
    best_objective: float
    first_objective: float
    value_error: float | None

    @property
    def missing_gain(self) -> float:
        """Share of the gain from the reference to the best policy that is not reached."""
        return (self.best_objective - self.objective) / (self.best_objective - self.first_objective)


def judge(world: World, method: str, trained: str | Path, beta: float) -> Verdict:
    """Compare a trained policy with the method's target and with π*, by enumeration."""
    reference_tokens, policy_tokens = world.token_logprobs(world.policy), world.token_logprobs(trained)
    reference, policy = reference_tokens.sum(2), policy_tokens.sum(2)

    def objective(log_p: np.ndarray) -> float:
        return expected(log_p, world.rewards - beta * (log_p - reference))

    error = None
    if (Path(trained) / "value_model").is_dir():
        exact = state_values(world, policy_tokens, beta * (policy_tokens - reference_tokens))
        error = visited_error(world, policy, world.values(Path(trained) / "value_model") - exact)
    return Verdict(
        kl_to_target=expected(policy, policy - METHODS[method].target(world, reference, beta)),
        objective=objective(policy),
        best_objective=objective(best_policy(world, reference, beta)),
        first_objective=objective(reference),
        value_error=error,
    )


def kl_bound(length: int, beta: float) -> float:
    """Nats that a policy trained on additive rewards may be away from its target."""
    return 0.02 if length > 1 or beta < 0.3 else 0.005


def expected(log_p: np.ndarray, values: np.ndarray) -> float:
    """Expectation of values over completions, averaged over prompts; both [P, Y]."""
    return float((np.exp(log_p) * values).sum(1).mean())


def state_values(world: World, policy: np.ndarray, price: np.ndarray) -> np.ndarray:
    """Expected reward less the price of the tokens to come, before every token of every completion.

    policy   [P, Y, T]  log-probabilities of the tokens
    price    [P, Y, T]  what each token costs: β times its log-ratio to the reference
    returns  [P, Y, T]  0 past the end
    """
    p = np.exp(policy.sum(2))
    to_come = world.rewards[:, :, None] - price[:, :, ::-1].cumsum(2)[:, :, ::-1]
    values = np.zeros_like(policy)
    for t in range(world.length):
        states = {}
        for number, y in enumerate(world.completions):
            if len(y) > t:
                states.setdefault(y[:t], []).append(number)
        for same in states.values():
            weighted = (p[:, same] * to_come[:, same, t]).sum(1) / p[:, same].sum(1)
            values[:, same, t] = weighted[:, None]
    return values


def visited_error(world: World, policy: np.ndarray, errors: np.ndarray) -> float:
    """Root of the mean squared error [P, Y, T] over states, each as often as the policy [P, Y] visits it."""
    counts = np.array([[t < len(y) for t in range(world.length)] for y in world.completions])  # [Y, T]
    visits = np.exp(policy)[:, :, None] * counts
    return float(np.sqrt((visits * errors**2).sum() / visits.sum()))
