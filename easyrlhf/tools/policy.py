"""The language model that chat and generate sample from, with the reward model that judges it."""

from pathlib import Path

from transformers import PreTrainedModel

from easyrlhf.config import PolicyConfig
from easyrlhf.data.render import Renderer
from easyrlhf.engine.device import choose_threads, pick_dtype, take_device
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import merge_adapter
from easyrlhf.models.load import load_causal_lm
from easyrlhf.models.parts import leave_out_spare
from easyrlhf.models.sequence_classifier import is_classifier
from easyrlhf.models.value_head import HEAD_FILE
from easyrlhf.rollout.ending import Ending
from easyrlhf.rollout.sampler import HFSampler
from easyrlhf.rollout.shape import SamplingShape
from easyrlhf.run.manifest import require_whole
from easyrlhf.run.renderers import open_renderer
from easyrlhf.tools.at_hand import at_hand
from easyrlhf.tools.scoring import longest


def read_renderer(config: PolicyConfig, flag: str = "--model", *, strict: bool = True) -> Renderer:
    """Check the folders that the settings name, and load the tokenizer. Loads no weights.

    flag    the setting that the model came from, for messages
    strict  as in open_renderer

    Raises InputError for a model that is unfinished or scores instead of writing, and for an adapter that is none.
    """
    path = at_hand(flag, config.model, allow_incomplete=config.allow_incomplete)
    require_whole(flag, path, allow_incomplete=config.allow_incomplete)
    scores = is_classifier(path, trust_remote_code=config.trust_remote_code)
    if scores or (Path(path) / HEAD_FILE).exists():
        raise InputError(
            f"{flag} {config.model}: is a reward model, which scores answers and writes none; give a language model, "
            "and this folder with --reward_model"
        )
    adapter = adapter_of(config)
    if adapter and not (Path(adapter) / "adapter_config.json").exists():
        raise InputError(
            f"--adapter {config.adapter}: has no adapter_config.json; give a folder that peft wrote, such as "
            "outputs/sft/adapter"
        )
    own = adapter and any(Path(adapter).glob("tokenizer*"))  # it may know tokens that its base does not
    holder = adapter if own else path
    return open_renderer(path, config, strict=strict, chat_template=config.chat_template, holder=holder)


def adapter_of(config: PolicyConfig) -> str | None:
    """The folder of the adapter to put on the model; that of a checkpoint where its run has not ended."""
    return config.adapter and at_hand("--adapter", config.adapter, allow_incomplete=config.allow_incomplete)


def room_for_prompt(config: PolicyConfig) -> int | None:
    """Tokens that a prompt may have so that the longest answer fits; None: no limit. Raises InputError for none."""
    limit = longest("--model", config.model, config)
    if limit is not None and limit <= config.max_new_tokens:
        raise InputError(
            f"--max_new_tokens {config.max_new_tokens}: {config.model} was made for {limit} tokens at most, prompt and "
            f"answer together; use --max_new_tokens {limit // 2} or less"
        )
    return None if limit is None else limit - config.max_new_tokens


def load_sampler(config: PolicyConfig, renderer: Renderer, batch_size: int) -> HFSampler:
    """The model of the settings, ready to sample as they say. Raises InputError."""
    return sampler_of(load_policy_lm(config, renderer), config, renderer, batch_size)


def load_policy_lm(config: PolicyConfig, renderer: Renderer) -> PreTrainedModel:
    """The model of the settings on its device, its adapter merged. Raises InputError."""
    device = take_device(config.devices)
    lm = load_causal_lm(
        at_hand("--model", config.model, allow_incomplete=config.allow_incomplete),
        renderer.tokenizer,
        dtype=pick_dtype(config.precision, device),
        attn_implementation=config.attn_implementation,
        trust_remote_code=config.trust_remote_code,
    )
    if adapter := adapter_of(config):
        lm = merge_named_adapter(lm, adapter, config.model)
    leave_out_spare(lm, renderer.tokenizer)
    lm = lm.to(device).eval().requires_grad_(False)
    choose_threads(device, sum(p.numel() for p in lm.parameters()))
    return lm


def sampler_of(lm: PreTrainedModel, config: PolicyConfig, renderer: Renderer, batch_size: int) -> HFSampler:
    """What samples from a loaded model as the settings say."""
    ending = Ending.of(renderer, config.stop_finishes)
    shape = SamplingShape(config.top_p, config.top_k, config.repetition_penalty)
    return HFSampler(lm, renderer.pad_id, ending, config.max_new_tokens, config.temperature, batch_size, shape)


def merge_named_adapter(lm: PreTrainedModel, adapter: str, model: str) -> PreTrainedModel:
    """The model with an adapter merged into it. Raises InputError when the two do not belong together."""
    try:
        return merge_adapter(lm, adapter, name=f"--model {model}")
    except InputError as error:
        raise InputError(f"--adapter {error}") from error
