"""What a stage holds in memory, phase by phase, from its settings."""

import os
from dataclasses import replace

import torch

from easyrlhf.config import OnlineConfig, ReferenceConfig, ScoredConfig, TrainConfig
from easyrlhf.engine.device import pick_dtype, pick_micro_batch_tokens
from easyrlhf.models.load import load_config, positions_of
from easyrlhf.models.prefix_sharing import TREES, sees_all
from easyrlhf.models.sequence_classifier import is_classifier
from easyrlhf.rollout.room import bytes_of_completion, decoded_together
from easyrlhf.run.manifest import require_whole
from easyrlhf.run.unfinished import shape_of
from easyrlhf.stages.checks import check_cut, check_positions
from easyrlhf.stages.recorded_parents import model_settings
from easyrlhf.tools.fitting.memory import ACTIVATIONS, HOST, OPTIMISER, VLLM, WEIGHTS, Bytes, Machine, MemoryPlan, Phase
from easyrlhf.tools.fitting.model_shape import (
    FROZEN,
    SCORER,
    TRAINED,
    TRAINED_SCORER,
    ModelShape,
    copied_weights,
    count_held,
)
from easyrlhf.tools.fitting.shape_pass import ShapeBatch, decoding_peak, scoring_peak, update_peak

ANSWERS = {"sft": 1, "kto": 1, "rrhf": 4}  # of a row in a forward pass, 2 for comparisons; a ranking may have others


def with_models(config: TrainConfig) -> TrainConfig:
    """The settings with the models that the stage would take; a reward model that is not there yet is like the policy.

    Raises InputError when the starting model has no place for rows as long as the settings allow.
    """
    config = with_start_model(replace(config, model=config.model or config.default_model()))
    config = config.with_lengths(positions_of(config.model, trust_remote_code=config.trust_remote_code))
    check_positions("--model", config.model, config)
    check_cut(config, [config.model])
    if isinstance(config, ScoredConfig) and not (config.reward_model or config.scored_elsewhere):
        config = replace(config, reward_model="outputs/rm" if os.path.isdir("outputs/rm") else config.model)
    if isinstance(config, OnlineConfig | ReferenceConfig):
        config = replace(config, ref_model=config.ref_model or config.model)
    return config


def with_start_model(config: TrainConfig) -> TrainConfig:
    """The settings with what an unfinished run started from in place of its folder: the two have one shape.

    Raises InputError for an unfinished run that the settings do not let the stage take.
    """
    found = {}
    for name, path in model_settings(config).items():
        if (shape := shape_of(path)) != path:
            require_whole(f"--{name}", path, allow_incomplete=config.allow_incomplete)
            found[name] = shape
    return replace(config, **found)


def row_length(config: TrainConfig) -> int:
    """Tokens of the longest row that the settings allow."""
    if isinstance(config, OnlineConfig):
        return config.max_prompt_length + config.completion_limit
    return config.max_length


def answers(config: TrainConfig) -> int:
    """Sequences that one row has in a forward pass."""
    return 1 if isinstance(config, OnlineConfig) else ANSWERS.get(config.stage, 2)


def token_budget(config: TrainConfig, machine: Machine) -> int:
    """Tokens of a forward pass on each device of this machine."""
    return pick_micro_batch_tokens(config.micro_batch_tokens, torch.device(machine.kind))


def decoded_at_once(config: OnlineConfig, machine: Machine) -> int:
    """Completions that a device of this machine decodes together."""
    shape = load_config(config.model, trust_remote_code=config.trust_remote_code).get_text_config()
    dtype = pick_dtype(config.precision, torch.device(machine.kind))
    each = bytes_of_completion(shape, dtype, row_length(config))
    return decoded_together(config.local_rollout_forward_batch_size, machine.kind, machine.memory, each)


def batch_of(config: TrainConfig, machine: Machine, rows: int) -> ShapeBatch:
    """The largest micro-batch of at most so many rows: rows of the same length that fill the budget of tokens."""
    budget = config.context_parallel_size * token_budget(config, machine) // answers(config)
    longest = row_length(config)
    prompts = min(rows, max(1, -(-budget // longest)))
    length = min(longest, budget // prompts) if budget > longest else longest
    completion = config.completion_limit if isinstance(config, OnlineConfig) else length - 1
    completion = min(completion, length - 1)
    return ShapeBatch(prompts, length - completion, completion, answers(config))


def batches_of(config: OnlineConfig, machine: Machine, rows: int) -> list[ShapeBatch]:
    """The micro-batches of at most so many rows that may take most: of rows apart, and of answers that share a prompt.

    Keys and values of a shared prompt are kept once for each of its answers, though its tokens count once. Where texts
    are continued from many places, all that the budget has room for goes on from one text.
    """
    apart = batch_of(config, machine, rows)
    prompt, answer = config.max_prompt_length, config.completion_limit
    budget = config.context_parallel_size * token_budget(config, machine)
    if config.sharing == TREES and may_share(config):
        branches = min(rows, (budget - prompt) // answer)
        return [apart, ShapeBatch(branches, prompt, answer, share=TREES)] if branches > 1 else [apart]
    together = min(config.num_generations, rows, (budget - prompt) // answer)
    if together < 2 or not may_share(config):
        return [apart]
    prompts = min(rows // together, budget // (prompt + together * answer))
    return [apart, ShapeBatch(prompts, prompt, answer, together, share="on")]


def may_share(config: OnlineConfig) -> bool:
    """Whether the policy is of a kind that can compute a prompt once for its answers, as far as its settings tell."""
    if config.share_prefix == "off" or config.attn_implementation not in (None, "sdpa"):
        return False
    return sees_all(load_config(config.model, trust_remote_code=config.trust_remote_code), row_length(config))


def largest(workings: list[Bytes]) -> Bytes:
    """The one that takes most in all."""
    return max(workings, key=lambda working: sum(working.values()) - working.get(HOST, 0))


# --- passes


def rows_of_a_pass(config: TrainConfig, machine: Machine) -> int:
    """Most rows of a batch that one pass may hold: those of the devices that share it."""
    return -(-config.batch_size * config.context_parallel_size // machine.count)


def scoring(config: TrainConfig, machine: Machine, shape: ModelShape, batch: ShapeBatch, reads: str) -> Bytes:
    """What a pass without gradient takes on each of the devices that share it; arguments as scoring_peak's."""
    return of_each(config, scoring_peak(shape, batch, reads, machine.kind))


def updating(config: TrainConfig, machine: Machine, shape: ModelShape, batch: ShapeBatch, reads: str) -> Bytes:
    """The same of a pass forward and backward, without what waits in the host's memory, which is there as HOST."""
    working = of_each(config, update_peak(shape, batch, reads, machine.kind))
    if config.offload_activations and machine.kind == "cuda":
        text = load_config(shape.path, trust_remote_code=shape.trust_remote_code).get_text_config()
        state = text.num_hidden_layers * text.hidden_size * shape.dtype.itemsize  # of one token, between all layers
        working[HOST] = min(working[ACTIVATIONS], batch.tokens * state / config.context_parallel_size)
        working[ACTIVATIONS] -= working[HOST]
    return working


def of_each(config: TrainConfig, working: Bytes) -> Bytes:
    """What a pass takes on each of the devices that share it: logits come in chunks of one size on all of them."""
    return working | {ACTIVATIONS: working[ACTIVATIONS] / config.context_parallel_size}


# --- plans


def memory_plan(config: TrainConfig, machine: Machine) -> MemoryPlan:
    """What the stage holds and does on this machine. Raises InputError."""
    return (online_plan if isinstance(config, OnlineConfig) else offline_plan)(config, machine)


def shapes_of(config: TrainConfig, machine: Machine) -> tuple[ModelShape, ModelShape]:
    """The shape of the model that is trained, and of the same one frozen, without adapter."""
    frozen = ModelShape(
        config.model,
        pick_dtype(config.precision, torch.device(machine.kind)),
        modules_to_save=config.modules_to_save,
        four_bit=config.load_in_4bit,
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )
    trained = replace(
        frozen,
        lora_r=config.lora_r,
        lora_target=config.lora_target,
        lora_dropout=config.lora_dropout,
        dropout=config.stage == "sft",
        gradient_checkpointing=config.gradient_checkpointing,
    )
    return trained, frozen


def offline_plan(config: TrainConfig, machine: Machine) -> MemoryPlan:
    """Reference, if there is one, then updates of one model."""
    trained, frozen = shapes_of(config, machine)
    batch = batch_of(config, machine, rows_of_a_pass(config, machine))
    scorer = config.stage == "rm"
    models = {"model": count_held(trained, TRAINED_SCORER if scorer else TRAINED)}
    phases = []
    if isinstance(config, ReferenceConfig):
        other = () if config.ref_model == config.model else ("reference",)
        shape = replace(frozen, path=config.ref_model)
        if other:
            models["reference"] = count_held(shape, FROZEN)
        working = scoring(config, machine, shape, batch, "logprobs")
        phases.append(Phase("reference", ("model", *other), working=working))
    working = updating(config, machine, trained, batch, "scores" if scorer else "logprobs")
    phases += update_phases("model", "", ("model",), ("model",), working, models["model"].step_scratch(machine))
    return MemoryPlan(models, phases, machine)


def online_plan(config: OnlineConfig, machine: Machine) -> MemoryPlan:
    """Rollout, scoring, then updates of the policy and of the value model, if there is one."""
    trained, frozen = shapes_of(config, machine)
    models = {"policy": count_held(trained, TRAINED)}
    if config.holds_reference:
        models["reference"] = count_held(replace(frozen, path=config.ref_model), FROZEN)
    scorers = scorer_shapes(config, trained, frozen)
    # a shared backbone is counted with the policy; each of the others is an adapter and a head
    base = count_held(frozen, FROZEN).weights if config.share_backbone else 0
    for name, shape in scorers.items():
        held = count_held(shape, SCORER if name == "reward model" else TRAINED_SCORER)
        models[name] = replace(held, weights=held.weights - base)
    every, learning = tuple(models), tuple(name for name in ("policy", "value model") if name in models)

    here = rows_of_a_pass(config, machine)
    decoded = min(decoded_at_once(config, machine), -(-config.batch_size // machine.count))
    if config.rollout == "hf":
        sampled = decoding_peak(trained, decoded, config.max_prompt_length, config.completion_limit, machine.kind)
        sampled = {**sampled, WEIGHTS: copied_weights(trained) * (machine.kind == "cpu")}
    else:  # a colocated vLLM takes the share it is given while it samples, and nothing while it sleeps
        sampled = {VLLM: config.vllm_gpu_memory_utilization * machine.memory * (config.vllm_mode == "colocate")}
    reads = {"value model": "values", "reward model": "scores"}
    asked = [(trained, "entropies"), *((shape, reads[name]) for name, shape in scorers.items())]
    if config.imitates:
        asked.append((trained if config.own_reference else replace(frozen, path=config.ref_model), "features"))
    passes = [
        scoring(config, machine, shape, batch, read)
        for batch in batches_of(config, machine, here)
        for shape, read in asked
    ]
    phases = [
        Phase("rollout", every, learning, working=sampled, gathered=("policy",)),
        Phase("scoring", every, learning, working=largest(passes)),
    ]
    parts = batches_of(config, machine, -(-here // config.num_mini_batches))
    for name in learning:
        shape, read = (trained, "logprobs") if name == "policy" else (scorers[name], "values")
        working = largest([updating(config, machine, shape, part, read) for part in parts])
        phases += update_phases(name, f"{name} ", every, learning, working, models[name].step_scratch(machine))
    return MemoryPlan(models, phases, machine)


def scorer_shapes(config: OnlineConfig, trained: ModelShape, frozen: ModelShape) -> dict[str, ModelShape]:
    """The shapes of the models that score beside the policy, by name."""
    shapes = {}
    if config.learns_values:
        shapes["value model"] = replace(trained, path=value_path(config))
    if config.reward_model:
        classifier = is_classifier(config.reward_model, trust_remote_code=config.trust_remote_code)
        found = {"path": config.reward_model, "classifier": classifier}
        shapes["reward model"] = replace(frozen, **found, modules_to_save=None, four_bit=False)
    return dict.fromkeys(shapes, trained) if config.share_backbone else shapes


def value_path(config: OnlineConfig) -> str:
    """Folder whose backbone the value model has."""
    if config.value_model or not config.reward_model:
        return config.value_model or config.model
    classifier = is_classifier(config.reward_model, trust_remote_code=config.trust_remote_code)
    return config.model if classifier else config.reward_model


def update_phases(
    name: str, prefix: str, held: tuple[str, ...], learning: tuple[str, ...], working: Bytes, scratch: float
) -> list[Phase]:
    """A model's backward passes, and its optimiser's step.

    held, learning  as Phase has them
    working         bytes of a pass
    scratch         bytes of the step
    """
    return [
        Phase(f"{prefix}update", held, learning, (name,), working),
        Phase(f"{prefix}optimiser step", held, learning, (name,), {OPTIMISER: scratch}),
    ]
