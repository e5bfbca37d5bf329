"""Online reinforcement learning: PPO with a policy, a reference, a value model and rewards."""

from dataclasses import dataclass
from pathlib import Path

from torch import nn

from easyrlhf.config import PPOConfig, split_list
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine.engine import Engine, OptimiserSettings
from easyrlhf.engine.run import Run, open_run, read_stage
from easyrlhf.errors import InputError
from easyrlhf.models.folder import (
    check_probes,
    load_scalar_model,
    probe,
    probe_ids,
    prove_folder,
    save_lm,
)
from easyrlhf.models.load import load_causal_lm, load_config
from easyrlhf.models.value_head import ScalarModel, check_head_file, load_head, new_head
from easyrlhf.online.collect import Models
from easyrlhf.online.estimate import estimate_ppo
from easyrlhf.online.loop import Online, fit, planned_steps
from easyrlhf.online.mixing import PtxBatches
from easyrlhf.online.update import Update
from easyrlhf.report.console import Console
from easyrlhf.report.log import MetricsLog
from easyrlhf.rewards.sources import RewardFunction, RewardModel, Rewards, load_reward_function
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.stages import common


def train_ppo(config: PPOConfig) -> Path:
    """Improve a policy by PPO against rewards and leave it in `output_dir`, its value model in value_model/.

    Returns the folder. Raises InputError for bad input before a model is loaded, RunError when training or a reward
    fails, RunStopped when it was asked to stop.
    """
    config = config.resolved()
    console = Console("ppo")
    with open_run(config) as run:
        if run is None:
            return common.already_complete(config, console)
        renderer = common.prepare(run, console)
        cast = check_cast(config, renderer)
        data = {
            "train": common.read_data(run, renderer, "prompt", config.train_data, "train"),
            "valid": common.read_data(run, renderer, "prompt", config.valid_data, "valid"),
            "ptx": common.read_data(run, renderer, "demonstration", config.ptx_data, "ptx"),
        }
        train, valid = data["train"].rows, data["valid"] and data["valid"].rows
        steps = planned_steps(config, len(train))
        check_warmup(config, steps)
        common.start(run, console, "PPO", steps, data, cast.named(config))
        if config.kl_estimator == "k3":
            console.warn("kl_estimator k3 in the reward ascends another objective than E[score] − kl_coef·KL; use k1")
        if config.dry_run:
            return Path(config.output_dir)

        online = build(run, renderer, cast, data["ptx"], steps)
        state = run.begin(common.stage_info(run, renderer, data, cast.named(config)), online.engines)
        log = MetricsLog(run.folder, last_step=run.step, report_to=config.report_to)
        metrics = fit(run, online, train, valid, log, console, state.get("kl_coef", config.kl_coef))
        save(run, online, renderer)
        return common.finish(run, console, metrics, log, "the policy loads with from_pretrained('{folder}')")


def check_warmup(config: PPOConfig, steps: int) -> None:
    """Raise InputError when the whole run would train the value model alone."""
    if config.value_warmup_steps >= steps:
        raise InputError(
            f"--value_warmup_steps {config.value_warmup_steps}: the run has {steps} rollouts, so its policy would "
            "never be trained; lower it, or raise --total_episodes"
        )


@dataclass(frozen=True)
class Cast:
    """Who plays which part: folders checked before any model is loaded.

    value_model     folder with a head; None: the policy's backbone with a zero head
    reward_renderer the reward model's own; None without a reward model
    same_tokens     whether the reward model reads the policy's tokens as they are
    """

    value_model: str | None
    reward_renderer: Renderer | None
    same_tokens: bool
    functions: list[RewardFunction]

    def named(self, config: PPOConfig) -> dict[str, str]:
        """Part → folder, for the start summary and stage.json."""
        parts = {"policy": config.model, "reference": config.ref_model}
        parts["value model"] = self.value_model or config.model
        if config.reward_model:
            parts["reward model"] = config.reward_model
        return parts


def check_cast(config: PPOConfig, renderer: Renderer) -> Cast:
    """Check every folder against the policy's tokenizer and against its own promises. Raises InputError."""
    functions = [load_reward_function(spec, renderer) for spec in split_list(config.reward_funcs)]
    if config.ref_model != config.model:
        common.check_parent("--ref_model", config.ref_model, config)
        require_policy_tokenizer("--ref_model", config.ref_model, config, renderer)
    reward_renderer, same = None, False
    if config.reward_model:
        check_head("--reward_model", config.reward_model, config)
        tokenizer = load_tokenizer(config.reward_model, trust_remote_code=config.trust_remote_code)
        reward_renderer = Renderer(tokenizer)
        same = tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(renderer.tokenizer)
    if config.value_model:
        check_head("--value_model", config.value_model, config)
        require_policy_tokenizer("--value_model", config.value_model, config, renderer)
    value_model = config.value_model or (config.reward_model if same else None)
    return Cast(value_model, reward_renderer, same, functions)


def check_head(flag: str, folder: str, config: PPOConfig) -> None:
    """Raise InputError unless the folder is a finished model with a value head that fits it."""
    common.check_parent(flag, folder, config)
    model_config = load_config(folder, trust_remote_code=config.trust_remote_code)
    try:
        check_head_file(folder, model_config.get_text_config().hidden_size)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def require_policy_tokenizer(flag: str, folder: str, config: PPOConfig, renderer: Renderer) -> None:
    """Raise InputError when a model that must read the policy's tokens has another tokenizer or template."""
    theirs = tokenizer_fingerprint(load_tokenizer(folder, trust_remote_code=config.trust_remote_code))
    ours = tokenizer_fingerprint(renderer.tokenizer)
    different = [name.replace("_", " ") for name in ours if ours[name] != theirs[name]]
    if different:
        raise InputError(
            f"{flag} {folder}: its {' and '.join(different)} differs from that of --model {config.model}; the two must "
            "read the same tokens. Use a model trained from the same SFT folder"
        )


def build(run: Run, renderer: Renderer, cast: Cast, ptx: TokenData | None, steps: int) -> Online:
    """Load the models and put the loop's parts together."""
    config = run.config
    policy = common.load_trained_lm(run, renderer, config.model)
    models = Models(policy, load_reference(run, renderer), load_value_model(run, renderer, cast, config))
    updates = config.num_ppo_epochs * config.num_mini_batches
    policy_steps = (steps - config.value_warmup_steps) * updates
    policy_engine = Engine(policy, OptimiserSettings.of(config, policy_steps))
    value_settings = OptimiserSettings.of(config, steps * updates, learning_rate=config.value_learning_rate)
    value_engine = Engine(models.value, value_settings)
    mixed = ptx and PtxBatches(
        policy,
        ptx.rows,
        config.batch_size // config.num_mini_batches,
        config.seed,
        renderer.pad_id,
        run.micro_batch_tokens,
        run.device,
    )
    sampler = HFSampler(
        policy,
        renderer.pad_id,
        renderer.end_of_turn_id,
        config.response_length,
        config.temperature,
        config.local_rollout_forward_batch_size,
    )
    return Online(
        models=models,
        engines={"policy": policy_engine, "value": value_engine},
        sampler=sampler,
        rewards=load_rewards(run, renderer, cast),
        renderer=renderer,
        estimate=estimate_ppo,
        update=Update(policy_engine, value_engine, config, renderer.pad_id, run.micro_batch_tokens, mixed),
    )


def load_reference(run: Run, renderer: Renderer) -> nn.Module | None:
    """The frozen reference; None when it is the policy without its adapter."""
    config = run.config
    if config.lora_r and config.ref_model == config.model:
        return None
    reference = load_causal_lm(config.ref_model, renderer.tokenizer, **common.how_to_load(run))
    return reference.to(run.device).eval().requires_grad_(False)


def load_value_model(run: Run, renderer: Renderer, cast: Cast, config: PPOConfig) -> ScalarModel:
    """The value model: from its folder, or the policy's backbone with a zero head."""
    lm = common.load_trained_lm(run, renderer, cast.value_model or config.model)
    return ScalarModel(lm, load_head(cast.value_model, lm) if cast.value_model else new_head(lm, zero=True))


def load_rewards(run: Run, renderer: Renderer, cast: Cast) -> Rewards:
    """The reward model, if any, and the reward functions, weighted."""
    config, sources = run.config, list(cast.functions)
    if config.reward_model:
        tokenizer = cast.reward_renderer.tokenizer
        model = load_scalar_model(config.reward_model, tokenizer, **common.how_to_load(run))
        model = model.to(run.device).eval().requires_grad_(False)
        check_probes(model, read_stage(config.reward_model).get("probes", []), config.reward_model, run.dtype)
        source = RewardModel(model, cast.reward_renderer, renderer, cast.same_tokens, run.micro_batch_tokens)
        sources.insert(0, source)
    weights = list(config.reward_weight_values)
    return Rewards(sources, weights, config.reward_clip, config.missing_eos_penalty, renderer)


def save(run: Run, online: Online, renderer: Renderer) -> None:
    """Write the policy at the root and the value model in value_model/, and prove the latter."""
    save_lm(run.folder, online.models.policy, renderer.tokenizer)
    value, folder = online.models.value, run.folder / "value_model"
    value.lm = save_lm(folder, value.lm, renderer.tokenizer, value.head)
    prove_folder(folder, probe(value, probe_ids(renderer)), renderer.tokenizer, run.device, run.dtype)
