"""verl's settings files, all of whose settings stand in blocks."""

from typing import Any

from easyrlhf.tools.converting.draft import Draft, Rule, finite_or_none, truth, whole_from_one
from easyrlhf.tools.converting.lengths import ONLINE, set_rollout
from easyrlhf.tools.converting.method_rules import switched_lora
from easyrlhf.tools.converting.run_rules import report_to_rule

TITLE = "verl"
SIGNS = "actor_rollout_ref algorithm critic trainer data custom_reward_function ray_init ray_kwargs"
ACTOR, ROLLOUT = "actor_rollout_ref.actor", "actor_rollout_ref.rollout"
ESTIMATORS = {
    "rloo": "rloo",
    "grpo": "grpo",
    "reinforce_plus_plus": "reinforce++",
    "reinforce_plus_plus_baseline": "reinforce++",
}
AVERAGES = {
    "token-mean": "dapo",
    "seq-mean-token-mean": "grpo",
    "seq-mean-token-sum-norm": "dr_grpo",
}
KL_IN_REWARD, KL_IN_LOSS = "algorithm.use_kl_in_reward", f"{ACTOR}.use_kl_loss"
MOST_GPUS = 1024  # of one machine: a larger number is none of GPUs


def stage_of(theirs: dict[str, Any]) -> str:
    """The way advantages are estimated; without one, SFT where there is no rollout."""
    estimator = theirs.get("algorithm.adv_estimator")
    if estimator is None and not any(key.startswith("actor_rollout_ref") for key in theirs):
        return "sft"
    return "ppo" if estimator in (None, "gae") else "grpo"


def verl_estimator(draft: Draft, key: str, value: Any) -> None:
    """GAE is PPO itself."""
    if draft.stage == "grpo":
        draft.keep(key, ESTIMATORS.get(str(value), value), "advantage")


def verl_batch(draft: Draft, key: str, value: Any) -> None:
    """Prompts there, completions here."""
    prompts = whole_from_one(draft.take("data.train_batch_size", "data.gen_batch_size"), 1024)
    if draft.stage not in ONLINE:
        return draft.set("batch_size", prompts)
    samples = whole_from_one(draft.take(f"{ROLLOUT}.n"), 1)
    mini = whole_from_one(draft.take(f"{ACTOR}.ppo_mini_batch_size"), 256)
    parts = max(1, round(prompts / mini))
    draft.set("num_generations", samples)
    return set_rollout(draft, prompts * samples, parts, f"{prompts} prompts x {samples} samples, {parts} steps")


def verl_prompt_key(draft: Draft, key: str, value: Any) -> None:
    """The key of a row that holds the prompt."""
    if value != "prompt":
        draft.set("field", f"prompt={value}")


def rollout(draft: Draft, key: str, value: Any) -> None:
    """hf or vllm."""
    draft.keep(key, value, "rollout")


def devices(draft: Draft, key: str, value: Any) -> None:
    """A number there, indices here."""
    gpus = whole_from_one(value, 0)
    draft.set("devices", ",".join(map(str, range(gpus)))) if 0 < gpus <= MOST_GPUS else draft.leave(
        key, value, "here devices 0,1,2,3"
    )


def average(draft: Draft, key: str, value: Any) -> None:
    """What the loss averages over."""
    if draft.stage == "grpo" and str(value) in AVERAGES:
        draft.set("loss_type", AVERAGES[value], f"{key}: {value}")
    else:
        draft.leave(key, value, "token-mean is dapo, seq-mean-token-mean grpo, seq-mean-token-sum-norm dr_grpo")


def verl_kl_weight(draft: Draft, *_: Any) -> None:
    """KL counts in the reward, in the loss or not at all, by two switches; the other switch's weight has no effect."""
    in_reward, in_loss = truth(draft.take(KL_IN_REWARD)), truth(draft.take(KL_IN_LOSS))
    reward_weight = draft.take("algorithm.kl_ctrl.kl_coef")
    loss_weight = draft.take(f"{ACTOR}.kl_loss_coef")
    name, pays = ("kl_coef", in_reward) if draft.stage == "ppo" else ("beta", in_loss or in_reward)
    weight = reward_weight if in_reward else loss_weight
    if draft.stage == "ppo" and in_loss:
        draft.leave(KL_IN_LOSS, True, "ppo_train pays KL in the reward alone: kl_coef")
    draft.set(name, (0.001 if weight is None else weight) if pays else 0.0, "" if pays else "KL is switched off there")


def reward_function(draft: Draft, key: str, value: Any) -> None:
    """A file and a function of it."""
    start = "reward.custom_reward_function" if key.startswith("reward.") else "custom_reward_function"
    path, name = draft.take(f"{start}.path"), draft.take(f"{start}.name") or "compute_score"
    if path:
        draft.set("reward_funcs", f"{path}:{name}", "its parameters are others here: easyrlhf docs rewards")


def verl_reward_model(draft: Draft, key: str, value: Any) -> None:
    """A folder, where it is switched on."""
    path, on = draft.take("reward_model.model.path"), truth(draft.take("reward_model.enable"))
    if path and on:
        draft.set("reward_model", path)
    elif path:
        draft.leave("reward_model.model.path", path, "reward_model.enable is false")


def every(name: str) -> Rule:
    """The rule for test_freq and save_freq, of which -1 is never."""

    def rule(draft: Draft, key: str, value: Any) -> None:
        steps = whole_from_one(value, 0)
        if steps > 0 or name == "save_steps":
            draft.set(name, max(0, steps), "" if steps > 0 else "at the end alone")

    return rule


def scaling(draft: Draft, key: str, value: Any) -> None:
    """A switch there."""
    draft.keep(key, "group" if truth(value) else "none", "scale_rewards")


def verl_lora(draft: Draft, *_: Any) -> None:
    """A rank above 0 switches it on."""
    rank = draft.take("actor_rollout_ref.model.lora_rank", "model.lora_rank")
    alpha = draft.take("actor_rollout_ref.model.lora_alpha", "model.lora_alpha")
    switched_lora(draft, False, 0, 0, 0, "")
    if finite_or_none(rank):
        draft.set("lora_r", whole_from_one(rank, 1))
        draft.set("lora_alpha", 16 if alpha is None else alpha)


def finish(draft: Draft) -> None:
    """verl's defaults where they are not ours."""
    if draft.stage not in ONLINE:
        return
    if "batch_size" not in draft.settings:
        verl_batch(draft, "", None)
    kl = "kl_coef" if draft.stage == "ppo" else "beta"
    defaults = {"learning_rate": 1e-6, "lr_scheduler": "constant", "warmup_ratio": 0.0, "epochs": 30, kl: 0.0}
    defaults |= {"max_prompt_length": 512, "response_length" if draft.stage == "ppo" else "max_completion_length": 512}
    if draft.stage == "ppo":
        defaults |= {"value_learning_rate": 1e-5, "lam": 1.0, "cliprange_value": 0.5, "num_ppo_epochs": 1}
    for name, value in defaults.items():
        draft.default(name, value, "verl")


RULES: dict[str, Rule] = {
    "algorithm.adv_estimator": verl_estimator,
    **dict.fromkeys(
        ("data.train_batch_size", "data.gen_batch_size", f"{ROLLOUT}.n", f"{ACTOR}.ppo_mini_batch_size"), verl_batch
    ),
    "data.prompt_key": verl_prompt_key,
    f"{ROLLOUT}.name": rollout,
    "trainer.n_gpus_per_node": devices,
    f"{ACTOR}.loss_agg_mode": average,
    **dict.fromkeys((KL_IN_REWARD, KL_IN_LOSS, "algorithm.kl_ctrl.kl_coef", f"{ACTOR}.kl_loss_coef"), verl_kl_weight),
    **dict.fromkeys(
        (f"{start}custom_reward_function.{key}" for start in ("", "reward.") for key in ("path", "name")),
        reward_function,
    ),
    **dict.fromkeys(("reward_model.enable", "reward_model.model.path"), verl_reward_model),
    "trainer.test_freq": every("eval_steps"),
    "trainer.save_freq": every("save_steps"),
    "trainer.logger": report_to_rule,
    "trainer.total_epochs": lambda draft, key, value: draft.keep(key, value, "epochs"),
    "algorithm.norm_adv_by_std_in_grpo": scaling,
    **dict.fromkeys(("lora_rank", "lora_alpha"), verl_lora),
    "algorithm.kl_ctrl.type": lambda draft, key, value: None if value == "fixed" else draft.carry(key, value),
}
