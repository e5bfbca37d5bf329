"""Causal language models and LoRA adapters: loading them, and finding their parts."""

import logging
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from torch import nn
from transformers import AutoConfig, AutoModelForCausalLM, GenerationConfig, PreTrainedModel
from transformers.utils import logging as transformers_logging

from easyrlhf.data.hub import require_model
from easyrlhf.data.tokenizer import own_vocabulary
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import is_adapter, is_classifier_adapter, merge_adapter, quietly
from easyrlhf.models.parents import base_of, naming_adapter, root_of
from easyrlhf.models.parts import evaluating, hidden_states, logits_of
from easyrlhf.models.unread import ReadWholeError, Unread, once_read, unread_lm
from easyrlhf.models.vocabulary import end_ids

transformers_logging.disable_progress_bar()
logging.getLogger("peft").setLevel(logging.ERROR)

# Of generation_config.json, without sampling or beams.
IGNORED_SETTINGS = (
    *("temperature", "top_p", "top_k", "min_p", "top_h", "typical_p", "epsilon_cutoff", "eta_cutoff"),
    *("early_stopping", "length_penalty"),
)


def load_config(path: str, *, trust_remote_code: bool = False):
    """The transformers configuration of a folder or hub id; reads no weights.

    Raises InputError when there is none, or when it cannot be reached.
    """
    base = root_of(path)
    with naming_adapter(path, base):
        return read_config(base, trust_remote_code)


def read_config(path: str, trust_remote_code: bool):
    """The configuration of a folder or hub id that is no adapter. Raises InputError."""
    require_model(path)
    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=trust_remote_code)
    except (OSError, ValueError) as error:
        reason = str(error).strip().splitlines()[0]
        raise InputError(
            f"{path}: no model configuration can be read here ({reason}); give a folder with a config.json, "
            "or a hub id that this machine can reach"
        ) from error


def positions_of(path: str, *, trust_remote_code: bool = False) -> int | None:
    """Tokens that the model of a folder or hub id was made for; None where it has no limit. Reads no weights."""
    text = load_config(path, trust_remote_code=trust_remote_code).get_text_config()
    return getattr(text, "max_position_embeddings", None)


def check_text_alone(flag: str, path: str, *, trust_remote_code: bool = False) -> None:
    """Raise InputError for a model that sees or hears as well: a folder saved of it would have lost that in silence."""
    whole = load_config(path, trust_remote_code=trust_remote_code)
    text = whole.get_text_config()
    others = [name for name in whole.sub_configs if getattr(whole, name, None) not in (None, text)]
    if text is not whole and others:
        family = ", ".join(whole.architectures or [type(whole).__name__])
        raise InputError(
            f"{flag} {path}: {family} is more than a language model ({', '.join(others)} in config.json), and a folder "
            "trained from it would lose the rest, or the files that process images and sound. Use a model of text "
            "alone, or save its language model as a folder of its own with transformers, whose config.json is then "
            f"that of {type(text).__name__}"
        )


def ends_of(path: str, tokenizer, *, trust_remote_code: bool = False) -> tuple[int, ...]:
    """The ids that end an answer of a folder's or hub id's model, as end_ids says. Reads no weights."""
    text = load_config(path, trust_remote_code=trust_remote_code).get_text_config()
    named = configured = getattr(text, "eos_token_id", None)
    root = root_of(path)
    folder = Path(root).expanduser()
    if not folder.is_dir() or (folder / "generation_config.json").exists():
        # transformers' own loading passes over one it cannot read, too
        with quietly(), suppress(OSError, ValueError, TypeError):
            named = GenerationConfig.from_pretrained(folder if folder.is_dir() else root).eos_token_id
    return end_ids(named, configured, tokenizer)


def new_tokens(path: str, tokenizer, *, trust_remote_code: bool = False) -> list[int]:
    """Ids of a tokenizer's tokens that the model of a folder or hub id has never seen; reads no weights.

    They are not in the model's own tokenizer, or its embeddings have no row for them. A token for padding alone is
    none: nothing is learned of it.
    """
    known = own_vocabulary(path, trust_remote_code)
    if not is_adapter(path):  # an adapter brings the rows of its own tokenizer
        rows = load_config(path, trust_remote_code=trust_remote_code).get_text_config().vocab_size
        known = {token for token in known if token < rows}
    new = set(tokenizer.get_vocab().values()) - known
    return sorted(new) if new - {tokenizer.pad_token_id} else []


def load_causal_lm(
    path: str,
    tokenizer,
    *,
    dtype: torch.dtype,
    attn_implementation: str | None = None,
    trust_remote_code: bool = False,
    dropout: bool = False,
    read: Callable[..., PreTrainedModel] | None = None,
    spread_on: torch.device | None = None,
) -> PreTrainedModel:
    """Load a causal language model whose special tokens are the tokenizer's.

    An adapter folder is merged into its base model. The embeddings grow when the tokenizer has more
    tokens than they have rows. Every weight may be trained. Dropout is set to 0 unless asked for.
    `read` gives the weights of a folder or hub id, as read_weights does, which is the default. A model that is to be
    spread over the processes, on that device, is unread where that can be (models/unread.py), and checked later.
    Raises InputError when the weights cannot be read, or the logits are not a plain function of the last hidden state.
    """
    settings = load_config(path, trust_remote_code=trust_remote_code)
    how = {"dtype": dtype, "attn_implementation": attn_implementation, "trust_remote_code": trust_remote_code}
    if spread_on is None:
        lm = (read or read_weights)(path, **how)
    else:
        lm = read_later(path, settings, len(tokenizer), spread_on, read or read_weights, how)
    if len(tokenizer) > lm.get_input_embeddings().num_embeddings:
        with quietly():
            lm.resize_token_embeddings(len(tokenizer))
    configured = getattr(lm.config.get_text_config(), "eos_token_id", None)
    ends = end_ids(lm.generation_config.eos_token_id, configured, tokenizer)
    for settings in (lm.config, lm.generation_config):
        settings.pad_token_id = tokenizer.pad_token_id
        settings.eos_token_id = tokenizer.eos_token_id
        settings.bos_token_id = tokenizer.bos_token_id
    if len(ends) > 1:
        lm.generation_config.eos_token_id = list(ends)
    if not dropout:
        disable_dropout(lm)
    once_read(lm, lambda: check_lm_head(lm, path))
    folder = Path(path).expanduser()
    lm.name_or_path = str(folder.resolve()) if folder.exists() else path  # what an adapter of it will name as its base
    return lm


def read_later(
    path: str, settings, tokens: int, device: torch.device, read: Callable[..., PreTrainedModel], how: dict
) -> PreTrainedModel:
    """A model with its weights unread until it is spread; read whole, which it then says, where they must be.

    tokens  of the tokenizer
    Raises InputError as `read` does.
    """
    try:
        return make_savable(unread_lm(path, settings, tokens, device, **how))
    except ReadWholeError as reason:
        lm = read(path, **how)
        lm.unread = Unread(whole=str(reason))
        return lm


def damaged_file(path: str) -> Path | None:
    """The first weights file of a folder that cannot be opened, such as one whose download broke off."""
    for file in sorted(Path(path).expanduser().glob("*.safetensors")):
        try:
            with safe_open(file, "pt"):
                pass
        except (OSError, SafetensorError):
            return file
    return None


def read_weights(path: str, **how) -> PreTrainedModel:
    """The model of a folder or hub id as its files have it, adapters merged into what they were trained on.

    Raises InputError for weights that are missing or cannot be read.
    """
    if is_adapter(path):
        if is_classifier_adapter(path):
            raise InputError(
                f"{path}: is an adapter of a sequence classifier (task_type in adapter_config.json), which scores "
                "answers and writes none; give a language model"
            )
        base = base_of(path)
        return merge_adapter(read_weights(base, **how), path, name=f"its base model {base}")
    try:
        lm, loading = AutoModelForCausalLM.from_pretrained(path, **how, output_loading_info=True)
    except (OSError, ValueError, RuntimeError, ImportError, SafetensorError) as error:
        raise InputError(f"{damaged_file(path) or path}: the model cannot be loaded: {str(error).strip()}") from error
    if missing := sorted(loading["missing_keys"]):
        raise InputError(
            f"{path}: its weights lack {', '.join(missing[:3])} ({len(missing)} in all), which would be random; "
            "restore the folder, or train it again"
        )
    make_savable(lm)
    return lm


def make_savable(lm: PreTrainedModel) -> PreTrainedModel:
    """Take out of the generation settings what nothing reads and transformers will not save, such as a temperature
    without sampling: many models have one, and a run would end after its last step. Returns the model.
    """

    def valid() -> bool:
        with quietly(), suppress(ValueError):
            lm.generation_config.validate(strict=True)
            return True
        return False

    if not valid():
        for name in IGNORED_SETTINGS:
            setattr(lm.generation_config, name, None)
    if not valid():
        lm.generation_config = GenerationConfig(eos_token_id=lm.generation_config.eos_token_id)
    return lm


def disable_dropout(model: nn.Module) -> None:
    """Set every dropout probability of the model to 0, the ones kept as plain attributes included."""
    for module in model.modules():
        if isinstance(module, nn.Dropout):
            module.p = 0.0
        for holder in (module, getattr(module, "config", None)):  # Falcon asks its configuration
            for name, value in list(vars(holder).items()) if holder is not None else ():
                if "drop" in name and isinstance(value, float):
                    setattr(holder, name, 0.0)


@torch.no_grad()
def check_lm_head(lm: PreTrainedModel, path: str) -> None:
    """Raise InputError when logits_of differs from the model's own logits: its log-probabilities would be wrong."""
    ids = torch.arange(4, device=lm.device).unsqueeze(0)
    with evaluating(lm):
        ours = logits_of(lm, hidden_states(lm, ids))
        theirs = lm(input_ids=ids, use_cache=False).logits.float()
    if not torch.allclose(ours, theirs, rtol=1e-2, atol=1e-2 * theirs.abs().max().item() + 1e-6):
        raise InputError(
            f"{path}: {type(lm).__name__} changes its logits after the output embedding in a way easyrlhf does not "
            "know; use a model of another family"
        )
