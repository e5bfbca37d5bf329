"""Models as a stage takes them: loaded, given adapters and our attention, counted, saved."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from accelerate import init_empty_weights
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from easyrlhf.config import TrainConfig
from easyrlhf.config.lists import split_list
from easyrlhf.data.render import Renderer
from easyrlhf.engine import processes
from easyrlhf.engine.device import computes_bf16, has_room
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.fsdp import spread
from easyrlhf.engine.sharding import spreads_by_fsdp
from easyrlhf.engine.zero import spread_frozen
from easyrlhf.errors import InputError, RunError
from easyrlhf.models.adapters import quietly
from easyrlhf.models.folder import check_probes, load_scalar_model, probe, probe_ids, prove_folder, save_lm
from easyrlhf.models.four_bit import bytes_of, quantise
from easyrlhf.models.load import load_causal_lm, load_config, new_tokens
from easyrlhf.models.lora import LoraSettings, add_lora
from easyrlhf.models.parts import plain_lm
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.unread import once_read, read_now
from easyrlhf.models.untrained import untrained_tokens
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.report.console import Console
from easyrlhf.run.run import Run
from easyrlhf.stages.saved_parts import save_parts, writes_parts

GIB = 2**30


def how_to_load(run: Run) -> dict:
    """The keywords of load_causal_lm that the settings decide."""
    config = run.config
    return {
        "dtype": run.dtype,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }


def load_lm(run: Run, renderer: Renderer, path: str, **how) -> PreTrainedModel:
    """A causal language model on the run's device, in 4 bits where the settings say so, with our attention.

    how  further keywords of load_causal_lm
    Raises InputError as attend_our_way does.
    """
    lm = load_causal_lm(path, renderer.tokenizer, **how_to_load(run), **how, spread_on=spread_device(run))
    if run.config.load_in_4bit:
        quantise(lm, run.device, split_list(run.config.modules_to_save))
    if spread_device(run) is None:  # else it is put there layer by layer
        lm.to(run.device)
    once_read(lm, lambda: attend_our_way(run, lm, path))
    return lm


def spread_device(run: Run) -> torch.device | None:
    """Where models are to be spread from the start; None where they are read whole."""
    return run.device if spreads_by_fsdp(run.config) else None


def attend_our_way(run: Run, lm: nn.Module, path: str) -> None:
    """Make a model able to share prompts or rows where the settings ask for that, and to attend faster where it can.

    Raises InputError when they insist on either and the model, which is the one of this path, cannot.
    """
    share, cut = getattr(run.config, "share_prefix", "off"), run.config.context_parallel_size > 1
    faster = run.dtype == torch.bfloat16  # whether or not prompts are shared
    reasons: list[str] = []
    able = (share != "off" or faster or cut) and enable_sharing(lm, run.config.max_length, reasons.append)
    if faster and run.device.type == "cuda":
        say_what_is_padded(run, path, reasons)
    if cut and not able:
        raise uncut_error(path, run.config, f"{type(lm).__name__} does not let its attention be computed in parts")
    if cut:
        plain_lm(lm).row_group = processes.row_group
    if share == "on" and not able:
        raise InputError(
            f"--share_prefix on: {path} ({type(lm).__name__} with {lm.config._attn_implementation} attention) cannot "
            f"compute a prompt once for several answers: {reasons[0]}. Use --share_prefix auto"
        )


def say_what_is_padded(run: Run, path: str, reasons: list[str]) -> None:
    """Warn where a GPU in bf16 computes padding, and prompts once for each answer, and say why."""
    if not computes_bf16(run.device):
        reasons = ["this GPU is older than Ampere, and torch's kernel for rows of various lengths is not for it"]
    if reasons:
        Console(run.config.stage).warn(
            f"{path}: rows do not lie one behind the other in a pass, so padding is computed too: {reasons[0]}. "
            "Numbers are the same, steps take longer"
        )


def uncut_error(path: str, config: TrainConfig, why: str, way_out: str = "use another model") -> InputError:
    """What to say of a model whose rows cannot be shared by several processes."""
    return InputError(
        f"--context_parallel_size {config.context_parallel_size}: {path}: {why}, so processes cannot share its rows; "
        f"{way_out}, or leave the flag out"
    )


def load_trained_lm(run: Run, renderer: Renderer, path: str, **how) -> nn.Module:
    """The causal language model a stage trains, on the run's device, with LoRA if the settings say so.

    how  further keywords of load_causal_lm
    """
    config = run.config
    lm = load_lm(run, renderer, path, **how)
    if config.gradient_checkpointing:
        with quietly():  # newer transformers call it activation_checkpointing_enable
            lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
        lm.offloads = config.offload_activations
    if config.lora_r:
        settings = LoraSettings(
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target=config.lora_target,
            modules_to_save=config.modules_to_save,
        )
        tokens = tokens_to_learn(path, renderer, lm, config.trust_remote_code)
        if spreads_by_fsdp(config) and (tokens or config.modules_to_save):
            read_now(lm, "LoRA trains copies of its weights beside the adapters")
        lm = add_lora(lm, settings, tokens)
    return lm.train()


def spread_first(run: Run, model: nn.Module, path: str) -> nn.Module:
    """The model of a path that is to be trained, which FSDP2 spreads before anything is asked of it.

    DeepSpeed spreads it with its engine. Raises InputError as the checks do that waited for the weights.
    """
    if not spreads_by_fsdp(run.config):
        return model
    reason = plain_lm(getattr(model, "lm", model)).unread.whole
    if reason:
        Console(run.config.stage).note(f"{path} is read whole by every process before it is spread: {reason}")
    return spread(model, run.device, run.dtype)


def spread_asked(run: Run, model: nn.Module, path: str) -> nn.Module:
    """The model of a path that is only asked, spread as the settings say."""
    if run.zero is not None:
        return spread_frozen(model, run.zero, run.dtype)
    return spread_first(run, model, path)


def tokens_to_learn(path: str, renderer: Renderer, lm: nn.Module, trust_remote_code: bool) -> list[int]:
    """Ids of the tokens whose rows LoRA has to train beside its adapters: the model cannot know them. Reads few rows.

    lm  the model, with or without its weights
    """
    new = new_tokens(path, renderer.tokenizer, trust_remote_code=trust_remote_code)
    return sorted({*new, *untrained_tokens(path, renderer.tokenizer, lm)})


def load_frozen_lm(run: Run, renderer: Renderer, path: str) -> nn.Module:
    """A causal language model that is only asked, on the run's device or spread over all of them."""
    lm = load_lm(run, renderer, path).eval().requires_grad_(False)
    return spread_asked(run, lm, path)


def save_trained_lm(run: Run, lm: nn.Module, renderer: Renderer) -> dict:
    """Write a trained language model; nothing is to be added to stage.json."""
    save_part_or_whole(run.folder, lm, renderer)
    return {}


def save_part_or_whole(folder: Path, lm: nn.Module, renderer: Renderer) -> None:
    """Write a language model: by this process, or by all of them where each has a part of it."""
    if writes_parts(lm):
        save_parts(folder, lm, renderer.tokenizer)
    else:
        save_lm(folder, lm, renderer.tokenizer)


def saved(engine: Engine, save: Callable[[nn.Module], Any]) -> Any:
    """What `save` gives of an engine's model: all processes call it where each has a part, else the main one alone."""
    if writes_parts(engine.model):
        return save(engine.model)
    with engine.full_weights() as whole:
        return processes.on_main(lambda: save(whole))


def save_scalar_model(run: Run, folder: Path, model: ScalarModel, renderer: Renderer) -> list[dict]:
    """Write backbone and head, and prove that the folder scores as the model does; returns the probes.

    The model is then the merged one, but for one in 4 bits: what that is in full may be larger than its device.
    """
    if writes_parts(model):
        save_parts(folder, model, renderer.tokenizer)
        probes = probe(model, probe_ids(renderer))
        prove_parts(run, folder, probes, renderer)
        return probes
    merged = save_lm(folder, model.lm, renderer.tokenizer, model.head)
    if not run.config.load_in_4bit:
        model.lm = merged
    probes = probe(model, probe_ids(renderer))
    size = sum(parameter.nbytes for parameter in model.parameters())
    beside = not run.config.load_in_4bit and has_room(run.device, size)  # a second model, beside the trained one
    device = run.device if beside else torch.device("cpu")
    trusted = {"trust_remote_code": run.config.trust_remote_code}
    prove_folder(folder, probes, renderer.tokenizer, device, run.dtype, **trusted)
    return probes


def prove_parts(run: Run, folder: Path, probes: list[dict], renderer: Renderer) -> None:
    """As prove_folder, without any process that reads the whole model."""
    trusted = {"trust_remote_code": run.config.trust_remote_code}
    try:
        again = load_scalar_model(str(folder), renderer.tokenizer, dtype=run.dtype, spread_on=run.device, **trusted)
        once_read(again.lm, lambda: check_probes(again, probes, folder, run.dtype))
        spread(again.eval().requires_grad_(False), run.device, run.dtype)
    except InputError as error:
        raise RunError(f"the saved model is not the trained one. {error}") from error


def describe_model(run: Run, name: str, path: str, count: int) -> str:
    """One line on a model: where it comes from, its size, and the memory its weights and optimiser need."""
    width = run.dtype.itemsize
    trained = name in ("model", "policy", "value model")
    full = trained and not run.config.lora_r
    # Trained in full: float32 master, gradient and two Adam moments; the master is the weight itself in float32.
    size = count * (width + (12 if width == 4 else 16) * full)
    how = "LoRA" if trained and run.config.lora_r else "trained" if trained else "frozen"
    if run.config.load_in_4bit and name != "reward model":
        how += " in 4 bits"
        lm = model_without_weights(path, run.config.trust_remote_code)
        size = bytes_of(lm, width, split_list(run.config.modules_to_save))
    return f"{name}: {path}, {count / 1e6:,.1f}M parameters, {how}, about {size / GIB:,.2f} GiB"


def count_parameters(path: str, trust_remote_code: bool) -> int:
    """Parameters of the model a path names, from its configuration alone."""
    return sum(p.numel() for p in model_without_weights(path, trust_remote_code).parameters())


def model_without_weights(path: str, trust_remote_code: bool) -> PreTrainedModel:
    """The language model of a path as its configuration describes it, on no device."""
    config = load_config(path, trust_remote_code=trust_remote_code)
    with init_empty_weights(include_buffers=True):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
