"""The reward sources of an online stage: checked before any model is loaded, then loaded and weighed together."""

from dataclasses import dataclass

from easyrlhf.config import OnlineConfig, split_list
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.engine.run import Run, read_stage
from easyrlhf.errors import InputError
from easyrlhf.models.folder import check_probes, load_scalar_model
from easyrlhf.models.load import load_config
from easyrlhf.models.value_head import check_head_file
from easyrlhf.rewards.sources import RewardFunction, RewardModel, Rewards, load_reward_function
from easyrlhf.stages import common


@dataclass(frozen=True)
class RewardCast:
    """Where scores will come from.

    renderer     the reward model's own; None without a reward model
    same_tokens  whether the reward model reads the policy's tokens as they are
    """

    functions: list[RewardFunction]
    renderer: Renderer | None
    same_tokens: bool


def check_rewards(config: OnlineConfig, renderer: Renderer) -> RewardCast:
    """Check every reward source of the settings. Raises InputError."""
    functions = [load_reward_function(spec, renderer) for spec in split_list(config.reward_funcs)]
    if not config.reward_model:
        return RewardCast(functions, None, False)
    check_head("--reward_model", config.reward_model, config)
    tokenizer = load_tokenizer(config.reward_model, trust_remote_code=config.trust_remote_code)
    same = tokenizer_fingerprint(tokenizer) == tokenizer_fingerprint(renderer.tokenizer)
    return RewardCast(functions, Renderer(tokenizer), same)


def check_head(flag: str, folder: str, config: OnlineConfig) -> None:
    """Raise InputError unless the folder is a finished model with a value head that fits it."""
    common.check_parent(flag, folder, config)
    model_config = load_config(folder, trust_remote_code=config.trust_remote_code)
    try:
        check_head_file(folder, model_config.get_text_config().hidden_size)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def load_rewards(run: Run, renderer: Renderer, cast: RewardCast) -> Rewards:
    """The reward model, if any, and the reward functions, weighted."""
    config, sources = run.config, list(cast.functions)
    if config.reward_model:
        model = load_scalar_model(config.reward_model, cast.renderer.tokenizer, **common.how_to_load(run))
        model = model.to(run.device).eval().requires_grad_(False)
        check_probes(model, read_stage(config.reward_model).get("probes", []), config.reward_model, run.dtype)
        sources.insert(0, RewardModel(model, cast.renderer, renderer, cast.same_tokens, run.micro_batch_tokens))
    weights = list(config.reward_weight_values)
    return Rewards(sources, weights, config.reward_clip, config.missing_eos_penalty, renderer)
