"""Models as a stage takes them: loaded, given adapters and our attention, counted, saved."""

import torch
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from easyrlhf.data.render import Renderer
from easyrlhf.engine.zero import spread_frozen
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import quietly
from easyrlhf.models.folder import save_lm
from easyrlhf.models.load import load_causal_lm, load_config, new_tokens
from easyrlhf.models.lora import add_lora
from easyrlhf.models.prefix_sharing import enable_sharing
from easyrlhf.models.untrained import untrained_tokens
from easyrlhf.run.run import Run

GIB = 2**30


def how_to_load(run: Run) -> dict:
    """The keywords of load_causal_lm that the settings decide."""
    config = run.config
    return {
        "dtype": run.dtype,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }


def load_lm(run: Run, renderer: Renderer, path: str, *, dropout: bool = False) -> PreTrainedModel:
    """A causal language model on the run's device, with our attention. Raises InputError as attend_our_way does."""
    lm = load_causal_lm(path, renderer.tokenizer, dropout=dropout, **how_to_load(run)).to(run.device)
    attend_our_way(run, lm, path)
    return lm


def attend_our_way(run: Run, lm: nn.Module, path: str) -> None:
    """Make a model able to share prompts where the settings ask for that, and to attend faster where it can.

    Raises InputError when they insist on sharing and the model, which is the one of this path, cannot.
    """
    share = getattr(run.config, "share_prefix", "off")
    faster = run.dtype == torch.bfloat16  # whether or not prompts are shared
    able = (share != "off" or faster) and enable_sharing(lm, run.config.max_length)
    if share == "on" and not able:
        raise InputError(
            f"--share_prefix on: {path} ({type(lm).__name__} with {lm.config._attn_implementation} attention) cannot "
            "compute a prompt once for several answers; that needs sdpa attention to everything before. Use "
            "--share_prefix auto"
        )


def load_trained_lm(run: Run, renderer: Renderer, path: str, *, dropout: bool = False) -> nn.Module:
    """The causal language model a stage trains, on the run's device, with LoRA if the settings say so."""
    config = run.config
    lm = load_lm(run, renderer, path, dropout=dropout)
    if config.gradient_checkpointing:
        with quietly():  # newer transformers call it activation_checkpointing_enable
            lm.gradient_checkpointing_enable(gradient_checkpointing_kwargs={"use_reentrant": False})
    if config.lora_r:
        lm = add_lora(
            lm,
            r=config.lora_r,
            alpha=config.lora_alpha,
            dropout=config.lora_dropout,
            target=config.lora_target,
            modules_to_save=config.modules_to_save,
            new_tokens=tokens_to_learn(path, renderer, lm, config.trust_remote_code),
        )
    return lm.train()


def tokens_to_learn(path: str, renderer: Renderer, lm: nn.Module, trust_remote_code: bool) -> list[int]:
    """Ids of the tokens whose rows LoRA has to train beside its adapters: the model cannot know them. Reads few rows.

    lm  the model, with or without its weights
    """
    new = new_tokens(path, renderer.tokenizer, trust_remote_code=trust_remote_code)
    return sorted({*new, *untrained_tokens(path, renderer.tokenizer, lm)})


def load_frozen_lm(run: Run, renderer: Renderer, path: str) -> nn.Module:
    """A causal language model that is only asked, on the run's device or spread over all of them."""
    lm = load_lm(run, renderer, path).eval().requires_grad_(False)
    return lm if run.zero is None else spread_frozen(lm, run.zero, run.dtype)


def save_trained_lm(run: Run, lm: nn.Module, renderer: Renderer) -> dict:
    """Write a trained language model; nothing is to be added to stage.json."""
    save_lm(run.folder, lm, renderer.tokenizer)
    return {}


def describe_model(run: Run, name: str, path: str, count: int) -> str:
    """One line on a model: where it comes from, its size, and the memory its weights and optimiser need."""
    width = run.dtype.itemsize
    trained = name in ("model", "policy", "value model")
    full = trained and not run.config.lora_r
    # Trained in full: float32 master, gradient and two Adam moments; the master is the weight itself in float32.
    bytes_each = width + (12 if width == 4 else 16) * full
    how = "LoRA" if trained and run.config.lora_r else "trained" if trained else "frozen"
    return f"{name}: {path}, {count / 1e6:,.1f}M parameters, {how}, about {count * bytes_each / GIB:,.2f} GiB"


def count_parameters(path: str, trust_remote_code: bool) -> int:
    """Parameters of the model a path names, from its configuration alone."""
    return sum(p.numel() for p in model_without_weights(path, trust_remote_code).parameters())


def model_without_weights(path: str, trust_remote_code: bool) -> PreTrainedModel:
    """The language model of a path as its configuration describes it, on no device."""
    config = load_config(path, trust_remote_code=trust_remote_code)
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)
