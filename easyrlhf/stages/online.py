"""Online learning: PPO, and GRPO with its relatives, against rewards; EBFT, against demonstrations."""

from dataclasses import dataclass
from pathlib import Path

from datasets import Dataset

from easyrlhf.config import EBFTConfig, GRPOConfig, OnlineConfig, PPOConfig
from easyrlhf.data.blocks import Blocks
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine.choice import make_engine
from easyrlhf.engine.engine import OptimiserSettings
from easyrlhf.errors import InputError
from easyrlhf.models.load import check_text_alone
from easyrlhf.online.loop import online_evaluations, planned_rollouts, train
from easyrlhf.online.methods import method_of
from easyrlhf.online.ptx import PtxBatches
from easyrlhf.online.state import LoopState, Online
from easyrlhf.online.update import PolicyLearner, Update, ValueLearner
from easyrlhf.report.console import Console
from easyrlhf.rollout.vllm_sampler import Backend
from easyrlhf.run.run import Run, open_run
from easyrlhf.stage_table import STAGES
from easyrlhf.stages import lifecycle
from easyrlhf.stages.checks import check_parent, check_positions, check_probes_render, require_policy_tokenizer
from easyrlhf.stages.ebft import AnsweredPrompts, answered_prompts, feature_rewards, measure, text_blocks
from easyrlhf.stages.environments import Playground, check_environment, make_player, played_prompts
from easyrlhf.stages.nemo_gym import check_gym_rows, gym_playground
from easyrlhf.stages.online_models import load_models, save_models
from easyrlhf.stages.plan import RunPlan, print_plan
from easyrlhf.stages.recorded_parents import with_parents
from easyrlhf.stages.reward_sources import (
    RewardPlan,
    check_readable,
    check_reward_columns,
    check_rewards,
    check_value_head,
    handed_only,
    load_rewards,
)
from easyrlhf.stages.rows import read_data, read_sets
from easyrlhf.stages.samplers import check_rollout, make_backend, make_sampler
from easyrlhf.stages.shared_backbone import check_sharing


def train_ppo(config: PPOConfig) -> Path:
    """Improve a policy by PPO against rewards and leave it in `output_dir`, its value model in value_model/.

    Returns the folder. Raises InputError for bad input before a model is loaded, RunError when training or a reward
    fails, RunStopped when it was asked to stop.
    """
    return train_online(config, "PPO")


def train_grpo(config: GRPOConfig) -> Path:
    """Improve a policy by GRPO, RLOO or REINFORCE++ against rewards and leave it in `output_dir`; as train_ppo."""
    return train_online(config, {"grpo": "GRPO", "rloo": "RLOO", "reinforce++": "REINFORCE++"}[config.advantage])


def train_ebft(config: EBFTConfig) -> Path:
    """Bring a policy's answers near demonstrations by EBFT and leave it in `output_dir`; as train_ppo."""
    return train_online(config, "EBFT")


def train_online(config: OnlineConfig, title: str) -> Path:
    """Run an online stage from its settings to its finished folder."""
    config = lifecycle.settled(config)
    console = Console(config.stage)
    with open_run(config) as run:
        if run is None:
            return lifecycle.already_complete(config, console)
        config = with_parents(run, console)
        renderer = lifecycle.prepare(run, console)
        cast = check_model_folders(config, renderer)
        check_rollout(config, renderer)
        with console.reading():
            data = read_sets(run, renderer, STAGES[config.stage].rows)
            if config.ptx_data:
                data["ptx"] = read_data(run, renderer, "demonstration", config.ptx_data, "ptx")
        playground = None if config.imitates else check_scoring(config, renderer, cast.rewards, data)
        prompts = {name: asked_prompts(config, name, data[name], renderer) for name in ("train", "valid")}
        steps = planned_rollouts(config, len(prompts["train"]))
        check_warmup(config, steps)
        if not run.recognise(lifecycle.stage_info(run, renderer, data, cast.named(config))):
            return lifecycle.already_complete(config, console)
        evaluations = online_evaluations(config, len(prompts["train"]), prompts["valid"])
        print_plan(run, console, RunPlan(title, steps, data, cast.named(config), cast.beside(config), evaluations))
        if config.kl_estimator == "k3":
            console.warn("kl_estimator k3 in the reward ascends another objective than E[score] − kl_coef·KL; use k1")
        if lost := handed_only(config):
            console.warn(
                f"the command line cannot continue this run: {', '.join(lost)} is a function of this program, which no "
                f"file names. Continue it with the same call of train_{config.stage}"
            )
        if config.dry_run:
            return Path(config.output_dir)

        backend = make_backend(run, renderer, console)
        console.note("loading the models …")
        online = build(run, renderer, cast, Plan(steps, mixed_in(config, data), backend, playground))
        state = run.begin(online.engines)
        remembered = {name: state[name] for name in ("drawn", "unfinished", "repeated", "failed") if name in state}
        at = LoopState(state.get("kl_coef", config.kl_price), **remembered)
        with lifecycle.open_log(run, console) as log, online.rewards, online.sampler:
            if config.imitates:
                measure(run, online, prompts["train"], console)
            metrics = train(run, online, prompts["train"], prompts["valid"], log, console, at)
        save_models(run, online, renderer)
        return lifecycle.end_run(run, console, metrics)


def check_scoring(
    config: OnlineConfig, renderer: Renderer, rewards: RewardPlan, data: dict[str, TokenData | None]
) -> Playground | None:
    """Check the rewards against the prompts; returns what completions act in, if anything. Raises InputError."""
    check_reward_columns(config, rewards, data)
    check_readable(config, rewards, data)
    check_gym_rows(config, rewards.gym, data)
    playground = check_environment(config, renderer, played_prompts(data), rewards.functions)
    playground = playground or gym_playground(config, rewards.gym, renderer, data)
    check_scored(config, playground)
    return playground


def mixed_in(config: OnlineConfig, data: dict[str, TokenData | None]) -> TokenData | None:
    """The demonstrations that are mixed into updates."""
    return data["train"] if config.imitates and config.ptx_coef else data.get("ptx")


def asked_prompts(
    config: OnlineConfig, name: str, data: TokenData | None, renderer: Renderer
) -> Dataset | AnsweredPrompts | Blocks | None:
    """The rows that are answered, as prompt rows; those of demonstrations have their answer beside them."""
    if data is None or not config.imitates:
        return data and data.rows
    return (text_blocks if config.strides else answered_prompts)(config, name, data, renderer)


def check_warmup(config: OnlineConfig, steps: int) -> None:
    """Raise InputError when the whole run would train the value model alone."""
    if config.value_warmup_steps >= steps:
        raise InputError(
            f"--value_warmup_steps {config.value_warmup_steps}: the run has {steps} rollouts, so its policy would "
            "never be trained; lower it, or raise --total_episodes"
        )


@dataclass(frozen=True)
class ModelFolders:
    """Who plays which part: folders checked before any model is loaded.

    value_model  folder with a head; None: the policy's backbone with a zero head, where the method has a value model
    """

    value_model: str | None
    rewards: RewardPlan

    def named(self, config: OnlineConfig) -> dict[str, str]:
        """Part → folder, for stage.json."""
        parts = {"policy": config.model}
        if config.imitates or config.kl_measured != "never":
            parts["reference"] = config.ref_model
        if config.learns_values:
            parts["value model"] = self.value_model or config.model
        if config.reward_model:
            parts["reward model"] = config.reward_model
        return parts

    def beside(self, config: OnlineConfig) -> dict[str, str]:
        """Part → what it is in place of a model of its own, for the start summary."""
        found = {}
        if "reference" not in self.named(config):
            price = f"{config.kl_name} is {config.kl_price:g}"
            found["reference"] = f"none, as {price} and measure_kl {config.measure_kl}; --measure_kl step asks one"
        elif config.own_reference:
            found["reference"] = "the policy with its adapter off, which takes no memory"
        if config.share_backbone:
            found |= dict.fromkeys(self.named(config), "an adapter and a head on the policy's base") | found
            del found["policy"]
        return found


def check_model_folders(config: OnlineConfig, renderer: Renderer) -> ModelFolders:
    """Check every folder against the policy's tokenizer and against its own promises. Raises InputError."""
    if config.ref_model != config.model:
        check_parent("--ref_model", config.ref_model, config)
        check_positions("--ref_model", config.ref_model, config)
        require_policy_tokenizer("--ref_model", config.ref_model, config, renderer)
    rewards = RewardPlan([]) if config.imitates else check_rewards(config, renderer)
    value_model = None
    if config.learns_values:
        value_model = config.value_model or rewards.value_model
        if config.value_model:
            check_parent("--value_model", config.value_model, config)
            check_positions("--value_model", config.value_model, config)
            check_value_head("--value_model", config.value_model, config)
            require_policy_tokenizer("--value_model", config.value_model, config, renderer)
        start = value_model or config.model
        check_probes_render("--model", config.model, renderer)
        check_text_alone("the value model's", start, trust_remote_code=config.trust_remote_code)
    if config.share_backbone:
        check_sharing(config, value_model)
    return ModelFolders(value_model, rewards)


@dataclass(frozen=True)
class Plan:
    """What a run needs beside its models.

    steps       rollouts of the whole run
    ptx         demonstrations to mix in
    backend     the vLLM to sample with; None for our own loop
    playground  the environment to act in
    """

    steps: int
    ptx: TokenData | None = None
    backend: Backend | None = None
    playground: Playground | None = None


def build(run: Run, renderer: Renderer, cast: ModelFolders, plan: Plan) -> Online:
    """Load the models and put the loop's parts together."""
    config, method, steps = run.config, method_of(run.config), plan.steps
    models, reward_model = load_models(run, renderer, cast.value_model)
    updates, first = config.epochs_per_rollout * config.num_mini_batches, config.value_warmup_steps
    settings = OptimiserSettings.of(config, (steps - first) * updates)
    engines = {"policy": make_engine(models.policy, settings, run.zero, run.dtype)}
    mixed = plan.ptx and PtxBatches(models.policy, plan.ptx.rows, config, run.micro_batch_tokens)
    if config.imitates:
        rewards = feature_rewards(config, models, renderer)
    else:
        rewards = load_rewards(run, renderer, cast.rewards, reward_model, scored_by(plan.playground))
    learners = [PolicyLearner(engines["policy"], method, config, models.passes, first * updates, mixed)]
    if models.value is not None:
        settings = OptimiserSettings.of(config, steps * updates, learning_rate=config.value_learning_rate)
        engines["value"] = make_engine(models.value, settings, run.zero, run.dtype)
        learners.append(ValueLearner(engines["value"], config, models.passes))
    return Online(
        models=models,
        engines=engines,
        sampler=make_sampler(config, renderer, engines["policy"], plan.backend),
        rewards=rewards,
        renderer=renderer,
        method=method,
        update=Update(learners, config),
        player=make_player(config, renderer, plan.playground, lambda: run.stop.requested),
    )


def scored_by(playground: Playground | None) -> str | None:
    """The name of the environment, where it scores episodes."""
    return playground.environment.name if playground and playground.environment.rewards else None


def check_scored(config: OnlineConfig, playground: Playground | None) -> None:
    """Raise InputError when nothing would score what is sampled."""
    if not (config.reward_model or config.scored_elsewhere or scored_by(playground)):
        raise InputError(
            f"--environment {config.environment}: has no get_reward, and there is no other reward; give it one, or "
            "--reward_funcs, --reward_model or --reward_url"
        )
