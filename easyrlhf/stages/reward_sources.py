"""The reward sources of an online stage: checked before any model is loaded, then loaded and weighed together."""

import json
from dataclasses import dataclass

from easyrlhf.callables import HANDED, in_file
from easyrlhf.config import CompareConfig, OnlineConfig
from easyrlhf.config.lists import split_list
from easyrlhf.data.formats import FORMATS
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.data.tokens import TokenData
from easyrlhf.errors import InputError
from easyrlhf.models.folder import check_probes, load_scalar_model
from easyrlhf.models.load import load_config
from easyrlhf.models.prefix_sharing import sharing_of
from easyrlhf.models.sequence_classifier import check_classifier, is_classifier
from easyrlhf.models.unread import once_read
from easyrlhf.models.value_head import ScalarModel, check_head_file
from easyrlhf.nemo_gym.reward import GymReward
from easyrlhf.nemo_gym.servers import GymServers
from easyrlhf.paths import split_paths
from easyrlhf.rewards.async_source import AsyncSource, RewardFunction
from easyrlhf.rewards.combined import Rewards
from easyrlhf.rewards.environment import EnvironmentReward
from easyrlhf.rewards.functions import (
    check_parameters,
    load_functions,
    names_environments,
    required_columns,
    takes_any_column,
)
from easyrlhf.rewards.model import ModelSource, ScoringModel, rendered
from easyrlhf.rewards.server import RewardServer, check_server
from easyrlhf.rewards.workers import WorkerFunction, Workers
from easyrlhf.run.manifest import read_stage
from easyrlhf.run.renderers import own_renderer
from easyrlhf.run.run import Run
from easyrlhf.stages.checks import check_parent, check_positions
from easyrlhf.stages.models import attend_our_way, how_to_load, spread_asked, spread_device
from easyrlhf.stages.nemo_gym import gym_servers
from easyrlhf.userfile import Function


@dataclass(frozen=True)
class RewardPlan:
    """Where scores will come from.

    functions    in the order of --reward_funcs
    renderer     the reward model's own; None without a reward model
    same_tokens  whether the reward model reads the policy's tokens as they are: the same tokenizer and rendering
    value_model  the reward model's folder where a value model can start from it: the same tokens, a value head
    gym          the servers of NeMo Gym
    """

    functions: list[Function]
    renderer: Renderer | None = None
    same_tokens: bool = False
    value_model: str | None = None
    gym: GymServers | None = None


def check_rewards(config: OnlineConfig, renderer: Renderer) -> RewardPlan:
    """Check every reward source of the settings. Raises InputError."""
    specs = split_paths(config.reward_funcs)
    functions = load_functions(specs)
    for spec, function in zip(specs, functions, strict=True):
        check_parameters(spec, function)
    if config.reward_workers and (lost := handed_only(config)):
        raise InputError(
            f"--reward_workers {config.reward_workers}: its processes cannot be given {', '.join(lost)}; write it as a "
            "function of a file, or leave --reward_workers at 0"
        )
    ask = [spec for spec, function in zip(specs, functions, strict=True) if names_environments(function)]
    if config.reward_workers and config.environment and ask:
        raise InputError(
            f"--reward_workers {config.reward_workers}: its processes cannot be given the environments of episodes, "
            f"for which {', '.join(ask)} asks; leave it at 0"
        )
    for url in split_list(config.reward_url):
        check_server(url)
    gym = gym_servers(config)
    if not config.reward_model:
        return RewardPlan(functions, gym=gym)
    check_reward_model("--reward_model", config.reward_model, config)
    check_positions("--reward_model", config.reward_model, config)
    own = own_renderer(config.reward_model, trust_remote_code=config.trust_remote_code)
    same = tokenizer_fingerprint(own.tokenizer) == tokenizer_fingerprint(renderer.tokenizer)
    alike = same and own.rendering.as_dict() == renderer.rendering.as_dict()
    headed = same and not is_classifier(config.reward_model, trust_remote_code=config.trust_remote_code)
    return RewardPlan(functions, own, alike, config.reward_model if headed else None, gym)


def handed_only(config: OnlineConfig) -> list[str]:
    """The reward functions that only this process has: Python code handed them over, and no file names them."""
    return [spec for spec in split_paths(config.reward_funcs) if spec in HANDED and not in_file(spec)]


def check_reward_columns(config: OnlineConfig, cast: RewardPlan, data: dict[str, TokenData | None]) -> None:
    """Raise InputError when a reward function cannot be called with the columns of the prompts."""
    if all(takes_any_column(function) and not required_columns(function) for function in cast.functions):
        return
    parts = [data[name].rows for name in ("train", "valid") if data[name]]
    formats = {name.split(",")[0] for part in data.values() if part for name in part.summary.formats}
    asked = {key for name in formats for key in FORMATS[name].asks}
    columns = {name for rows in parts for cell in rows["columns"] for name in json.loads(cell)}
    for spec, function in zip(split_paths(config.reward_funcs), cast.functions, strict=True):
        check_parameters(spec, function, columns, asked, environments=bool(config.environment))


def check_readable(config: OnlineConfig, cast: RewardPlan, data: dict[str, TokenData | None]) -> None:
    """Raise InputError when a reward model that renders texts anew has a template that refuses prompts of the data.

    Of prompts with the same roles and keys one is tried, since templates refuse by these.
    """
    if cast.renderer is None or cast.same_tokens:
        return
    seen = set()
    for name in (name for name in ("train", "valid") if data.get(name)):
        for number, row in enumerate(data[name].rows.select_columns(["prompt", "columns"]), 1):
            prompt, columns = json.loads(row["prompt"]), json.loads(row["columns"])
            turns = [] if isinstance(prompt, str) else [(turn["role"], *turn) for turn in prompt]
            shape = (isinstance(prompt, str), *turns, *columns)
            if shape in seen:
                continue
            seen.add(shape)
            if turns and not cast.renderer.tokenizer.chat_template:
                raise InputError(
                    f"--reward_model {config.reward_model}: its tokenizer has no chat template, and prompts of the "
                    f"{name} data are conversations; put the template that it was trained with there, as "
                    "chat_template.jinja (--chat_template is that of the policy)"
                )
            try:
                rendered(cast.renderer, row, "Hello.", True)
            except InputError as error:
                raise InputError(
                    f"--reward_model {config.reward_model}: cannot read prompt {number:,} of the {name} data: {error}. "
                    "A reward model renders as its own folder says: put a chat_template.jinja there, or train it with "
                    "such a setting"
                ) from error


def check_reward_model(flag: str, folder: str, config: OnlineConfig | CompareConfig) -> None:
    """Raise InputError unless the folder is a finished reward model: with a value head, or a sequence classifier."""
    check_parent(flag, folder, config)
    if not is_classifier(folder, trust_remote_code=config.trust_remote_code):
        check_value_head(flag, folder, config)
        return
    try:
        check_classifier(folder, trust_remote_code=config.trust_remote_code)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def check_value_head(flag: str, folder: str, config: OnlineConfig | CompareConfig) -> None:
    """Raise InputError unless the folder has a value head that fits its model."""
    model_config = load_config(folder, trust_remote_code=config.trust_remote_code)
    try:
        check_head_file(folder, model_config.get_text_config().hidden_size)
    except InputError as error:
        raise InputError(f"{flag} {error}") from error


def load_rewards(
    run: Run, renderer: Renderer, cast: RewardPlan, model: ScalarModel | None = None, environment: str | None = None
) -> Rewards:
    """Every source, weighted: the reward model, functions, servers, the punishment of long completions, an environment.

    model        the reward model, where another part has loaded it already
    environment  name of one that scores episodes
    """
    config, limit = run.config, run.config.reward_timeout
    sources = [model_source(run, renderer, cast, model)] if config.reward_model else []
    functions, workers = function_sources(config, cast.functions)
    sources += functions
    if config.reward_url:
        tokenizer = tokenizer_fingerprint(renderer.tokenizer)
        sources += [RewardServer(url, tokenizer, limit) for url in split_list(config.reward_url)]
    if cast.gym:
        sources.append(EnvironmentReward(environment) if environment else GymReward(cast.gym, limit))
    if config.soft_punish_cache:
        from trl.rewards import get_soft_overlong_punishment

        punish = get_soft_overlong_punishment(config.completion_limit, config.soft_punish_cache)
        sources.append(RewardFunction(punish, "soft_overlong_punishment", limit))
    weights = list(config.reward_weight_values)
    if environment and not cast.gym:
        sources.append(EnvironmentReward(environment))
        weights.append(1.0)
    clip, penalty = config.reward_clip, config.missing_eos_penalty
    return Rewards(sources, weights, clip, penalty, renderer, workers, config.stream_rewards)


def model_source(run: Run, renderer: Renderer, cast: RewardPlan, model: ScalarModel | None) -> ModelSource:
    """The reward model as a source; it is loaded, and spread over the processes, where it is not there yet."""
    config = run.config
    if model is None:
        model = load_reward_model(run, cast.renderer, config.reward_model)
    else:
        check_saved_scores(run, model, config.reward_model)
    scorer = ScoringModel(model, cast.renderer, run.micro_batch_tokens)
    return ModelSource(scorer, renderer, cast.same_tokens, sharing_of(model.lm, config.share_prefix))


def load_reward_model(run: Run, renderer: Renderer, path: str) -> ScalarModel:
    """The reward model of a folder, proven and spread as the settings say. Raises InputError."""
    model = load_scalar_model(path, renderer.tokenizer, **how_to_load(run), spread_on=spread_device(run))
    model = model.eval().requires_grad_(False)
    if spread_device(run) is None:
        model = model.to(run.device)
    once_read(model.lm, lambda: attend_our_way(run, model.lm, path))
    once_read(model.lm, lambda: check_saved_scores(run, model, path))
    return spread_asked(run, model, path)


def check_saved_scores(run: Run, model: ScalarModel, path: str) -> None:
    """Raise InputError unless a reward model scores its probes as it did when its folder was written."""
    check_probes(model, read_stage(path).get("probes", []), path, run.dtype)


def function_sources(config: OnlineConfig, functions: list[Function]) -> tuple[list[AsyncSource], Workers | None]:
    """The reward functions as sources, and the processes that call them, if any do."""
    specs, limit = split_paths(config.reward_funcs), config.reward_timeout
    named = list(zip(functions, [spec.rpartition(":")[2] for spec in specs], strict=True))
    if not config.reward_workers:
        return [RewardFunction(function, name, limit) for function, name in named], None
    workers = Workers(list(specs), config.reward_workers, limit)
    return [WorkerFunction(workers, place, function, name) for place, (function, name) in enumerate(named)], workers
