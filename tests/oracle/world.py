"""A world small enough to enumerate: every completion of every prompt, its reward, and the best policy there is.

Maximising J(π) = E_π[r] − β·KL(π‖π_ref) has one answer, π*(y|x) ∝ π_ref(y|x)·exp(r(x,y)/β), and for any policy
J(π*) − J(π) = β·KL(π‖π*) (Rafailov et al. 2023, section 4; Korbak et al. 2022). Here both sides can be computed.

P prompts of one word each, Y completions of at most T tokens, V tokens.
"""

import itertools
import json
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
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

    def scores_of(self, among: list[tuple[int, ...]]) -> np.ndarray:
        """Reward of some completions of every prompt, before any penalty.  [P, n]"""
        return self.scores[:, [self.completions.index(y) for y in among]]

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
        mask = self.sequences()[1]
        families = [([2 + prompt], [list(y) for y in self.completions]) for prompt in range(len(WORDS))]
        values = torch.zeros(mask[:, 1:].shape)
        values[mask[:, 1:].bool()] = ScalarModel(lm, load_head(str(folder), lm)).completion_values(families, "off")
        return values.view(len(WORDS), -1, self.length).double().numpy()

    @torch.no_grad()
    def learned_scores(self, folder: str | Path, among: list[tuple[int, ...]]) -> np.ndarray:
        """A saved reward model's score of some completions of every prompt.  [P, n]"""
        lm = AutoModelForCausalLM.from_pretrained(folder)
        model = ScalarModel(lm, load_head(str(folder), lm))
        ids = [[[2 + prompt, *y] for y in among] for prompt in range(len(WORDS))]
        return np.array([[model.scores(torch.tensor([y]), torch.tensor([len(y)])).item() for y in row] for row in ids])

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
    """Settings as the words of a command line; one that is False is a switch turned off."""
    words = ([f"--no_{name}"] if value is False else [f"--{name}", str(value)] for name, value in settings.items())
    return list(itertools.chain.from_iterable(words))


def run_settings(world: World, output_dir: Path, seed: int) -> dict[str, object]:
    """Settings that all methods share."""
    return {
        "model": world.policy,
        "output_dir": output_dir,
        "seed": seed,
        "max_length": 16,
        "max_prompt_length": 4,
        "micro_batch_tokens": 8192,
        "save_steps": 0,
        "log_steps": 200,
        "report_to": "none",
        "devices": "cpu",
    }


def online_settings(world: World, output_dir: Path, seed: int) -> dict[str, object]:
    """Settings of the online methods: 40,000 episodes, linear schedule."""
    return run_settings(world, output_dir, seed) | {
        "train_data": world.prompts,
        "reward_funcs": world.reward_funcs,
        "missing_eos_penalty": world.missing_eos_penalty,
        "total_episodes": 40_000,
        "batch_size": 200,
        "local_rollout_forward_batch_size": 200,
        "num_mini_batches": 4,
        "learning_rate": 7e-4,
        "num_sample_generations": 0,
    }


def ppo_flags(world: World, output_dir: Path, beta: float, seed: int) -> list[str]:
    """Words after `ppo_train`."""
    own = {"kl_coef": beta, "response_length": world.length, "vf_coef": 1.0}
    return words_of(online_settings(world, output_dir, seed) | own)


def grpo_flags(world: World, output_dir: Path, beta: float, seed: int, **changed: object) -> list[str]:
    """Words after `grpo_train`: groups of 40, advantages not scaled."""
    own = {"beta": beta, "max_completion_length": world.length, "num_generations": 40, "scale_rewards": "none"}
    own |= {"num_iterations": 4, "adam_eps": 1e-5}
    return words_of(online_settings(world, output_dir, seed) | own | changed)


def dpo_flags(world: World, output_dir: Path, beta: float, seed: int) -> list[str]:
    """Words after `dpo_train`, on comparisons of completions that end in EOS."""
    return offline_flags(world, output_dir, seed, DPO_COMPLETIONS) + words_of({"beta": beta})


def ipo_flags(world: World, output_dir: Path, beta: float, seed: int) -> list[str]:
    """Words after `ipo_train`, on comparisons of completions of one length."""
    return offline_flags(world, output_dir, seed, IPO_COMPLETIONS) + words_of({"beta": beta})


def rm_flags(world: World, output_dir: Path, seed: int) -> list[str]:
    """Words after `rm_train`, on DPO's comparisons."""
    return offline_flags(world, output_dir, seed, DPO_COMPLETIONS) + words_of({"weight_decay": 0})


def offline_flags(world: World, output_dir: Path, seed: int, among: list[tuple[int, ...]]) -> list[str]:
    """Words that dpo_train, ipo_train and rm_train share; writes the comparisons they read."""
    data = write_comparisons(world, among)
    own = {
        "train_data": data,
        "batch_size": 600,
        "epochs": 12 if among is IPO_COMPLETIONS else 6,
        "learning_rate": 2e-3,
    }
    return words_of(run_settings(world, output_dir, seed) | own)


# Completions that are compared: one word, or two words of a and b, and EOS. Those of one length are IPO's.
IPO_COMPLETIONS = [(2 + word, EOS) for word in range(len(WORDS))]
DPO_COMPLETIONS = IPO_COMPLETIONS + [(*pair, EOS) for pair in itertools.product((2, 3), repeat=2)]
ROWS_PER_PAIR = 200


def write_comparisons(world: World, among: list[tuple[int, ...]]) -> Path:
    """For every prompt and pair of completions, as many rows prefer either as the Bradley-Terry model says."""
    path, scores = world.folder / f"comparisons_{len(among)}.jsonl", world.scores_of(among)
    with path.open("w") as file:
        for word, row in zip(WORDS, scores, strict=True):
            for i, j in itertools.combinations(range(len(among)), 2):
                first = round(ROWS_PER_PAIR / (1 + np.exp(row[j] - row[i])))
                for chosen, rejected, count in ((i, j, first), (j, i, ROWS_PER_PAIR - first)):
                    texts = [" ".join(VOCABULARY[token] for token in among[place][:-1]) for place in (chosen, rejected)]
                    line = json.dumps({"prompt": word, "chosen": texts[0], "rejected": texts[1]})
                    file.write((line + "\n") * count)
    return path


def best_policy(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """Log-probabilities of π* ∝ π_ref·exp(r/β).

    reference  [P, Y]  log-probabilities of π_ref
    returns    [P, Y]
    """
    return normalised(reference + world.rewards / beta)


def scaled_policy(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """π ∝ π_ref·exp(r/(β·σ)) with σ the standard deviation of r under π itself: GRPO's with scale_rewards group.

    reference, returns  [P, Y]
    """
    policy = reference
    for _ in range(1000):
        p = np.exp(policy)
        mean = (p * world.rewards).sum(1, keepdims=True)
        std = np.sqrt((p * (world.rewards - mean) ** 2).sum(1, keepdims=True))
        policy = normalised(0.9 * policy + 0.1 * (reference + world.rewards / (beta * std)))
    return policy


def uncorrected_policy(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """π = β·π_ref / (β + E_π[r] − r): where k3 in the loss, without the correction, comes to rest.

    reference, returns  [P, Y]
    """
    low = world.rewards.max(1, keepdims=True) - beta  # E_π[r] lies above it, and at most at the largest reward
    high = world.rewards.max(1, keepdims=True)
    for _ in range(200):
        mean = (low + high) / 2
        too_much = (beta * np.exp(reference) / (beta + mean - world.rewards)).sum(1, keepdims=True) > 1
        low, high = np.where(too_much, mean, low), np.where(too_much, high, mean)
    return np.log(beta) + reference - np.log(beta + high - world.rewards)


def best_of_compared(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """π* ∝ π_ref·exp(r/β) among compared completions: DPO's.  reference, returns [P, n]"""
    return normalised(reference + world.scores_of(DPO_COMPLETIONS) / beta)


def ipo_policy(world: World, reference: np.ndarray, beta: float) -> np.ndarray:
    """π ∝ π_ref·exp(L·E_y'[p(y ≻ y')]/β), y' a member of the pairs, L tokens each (Azar et al. 2024, eq. 7).

    reference, returns  [P, n]
    """
    scores = world.scores_of(IPO_COMPLETIONS)
    wins = 1 / (1 + np.exp(scores[:, None, :] - scores[:, :, None]))  # [P, n, n]: y before y'
    return normalised(reference + len(IPO_COMPLETIONS[0]) * wins.mean(2) / beta)


def normalised(logits: np.ndarray) -> np.ndarray:
    """Logits as log-probabilities over the last axis."""
    return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


@dataclass(frozen=True)
class Method:
    """A way to train in a world, and where it must end.

    command  the console script
    flags    (world, output_dir, beta, seed) → the words after it
    target   (world, reference [P, Y], beta) → log-probabilities of the policy it must reach  [P, Y]
    among    the completions that are compared, and over which policies are renormalised; None: all
    bound    nats that the policy may end away from the target; None: those of kl_bound
    """

    command: str
    flags: Callable[[World, Path, float, int], list[str]]
    target: Callable[[World, np.ndarray, float], np.ndarray]
    among: list[tuple[int, ...]] | None = None
    bound: float | None = None


METHODS = {
    "ppo": Method("ppo_train", ppo_flags, best_policy),
    "grpo": Method("grpo_train", grpo_flags, best_policy),
    "grpo-group": Method("grpo_train", partial(grpo_flags, scale_rewards="group"), scaled_policy),
    "grpo-uncorrected": Method("grpo_train", partial(grpo_flags, use_bias_correction_kl=False), uncorrected_policy),
    "dpo": Method("dpo_train", dpo_flags, best_of_compared, DPO_COMPLETIONS, bound=0.01),
    "ipo": Method("ipo_train", ipo_flags, ipo_policy, IPO_COMPLETIONS, bound=0.01),
}


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
        kl_to_target=distance(world, METHODS[method], reference, policy, beta),
        objective=objective(policy),
        best_objective=objective(best_policy(world, reference, beta)),
        first_objective=objective(reference),
        value_error=error,
    )


def distance(world: World, method: Method, reference: np.ndarray, policy: np.ndarray, beta: float) -> float:
    """KL(policy ‖ target) among the method's completions, mean over prompts, in nats."""
    if method.among:
        places = [world.completions.index(y) for y in method.among]
        reference, policy = (normalised(log_p[:, places]) for log_p in (reference, policy))
    return expected(policy, policy - method.target(world, reference, beta))


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
