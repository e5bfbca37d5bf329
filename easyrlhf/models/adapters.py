"""Adapter folders of peft: what they are, and merging them into what they were trained on. Light to import."""

import json
import logging
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from easyrlhf.errors import InputError

CONFIG_FILE = "adapter_config.json"
WEIGHT_FILES = ("model*.safetensors", "pytorch_model*.bin", "*.safetensors.index.json")
CLASSIFIER = "SEQ_CLS"  # peft's name of the task
# peft imports bitsandbytes where it is installed, which tells of kernels to download and loads old parts of torch.
logging.getLogger("bitsandbytes").setLevel(logging.ERROR)
warnings.filterwarnings("ignore", ".*torch.jit.script_method", DeprecationWarning)


def is_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter and not the weights it belongs to.

    Raises InputError for a folder that holds both: transformers would put the adapter on top of weights that may be
    merged already.
    """
    folder = Path(path).expanduser()
    if not (folder / CONFIG_FILE).is_file():
        return False
    if weights := sorted(file.name for pattern in WEIGHT_FILES for file in folder.glob(pattern)):
        raise InputError(
            f"{path}: holds full weights ({weights[0]}) and an adapter ({CONFIG_FILE}), so it is not clear which model "
            f"is meant; move {CONFIG_FILE} and adapter_model.safetensors into a folder of their own"
        )
    return True


def read_adapter_config(path: str | Path) -> dict:
    """adapter_config.json of a folder. Raises InputError when it is not what peft writes."""
    file = Path(path).expanduser() / CONFIG_FILE
    try:
        settings = json.loads(file.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise InputError(f"{file}: is not JSON ({error}); restore the file, or train the adapter again") from error
    if not isinstance(settings, dict) or not isinstance(settings.get("base_model_name_or_path"), str):
        raise InputError(
            f"{file}: names no base model; write the folder or hub id that the adapter was trained on at "
            "base_model_name_or_path"
        )
    return settings


def is_classifier_adapter(path: str | Path) -> bool:
    """Whether a folder holds an adapter of a sequence classifier, as TRL's RewardTrainer leaves it."""
    return is_adapter(path) and read_adapter_config(path).get("task_type") == CLASSIFIER


@contextmanager
def quietly() -> Iterator[None]:
    """Without what transformers and peft say to their own developers, and of embeddings that grow."""
    loud = [logging.getLogger(name) for name in ("transformers", "peft")]
    levels = [logger.level for logger in loud]
    for logger in loud:
        logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for logger, level in zip(loud, levels, strict=True):
            logger.setLevel(level)


def merge_adapter(lm, path: str, *, name: str):
    """The model with an adapter folder merged into it, all of its weights free to be trained.

    lm      the model that the adapter was trained on; its embeddings get as many rows as the adapter asks for
    name    what the caller knows the model by, for messages
    Raises InputError when the two do not belong together.
    """
    from peft import PeftModel

    with fitting(path, name):
        if (rows := adapter_rows(path, lm)) is not None and rows != lm.get_input_embeddings().num_embeddings:
            lm.resize_token_embeddings(rows)
        merged = PeftModel.from_pretrained(lm, path).merge_and_unload()
    return merged.requires_grad_(True)  # peft has frozen what it wrapped


def put_on(lm, path: str, adapter: str, *, name: str):
    """The model with an adapter folder on it that stays apart, beside those put on it before; all weights frozen.

    lm       the model that the adapter was trained on, or what this function made of it
    adapter  what the adapter is called from then on
    name     what the caller knows the model by, for messages
    Raises InputError when the two do not belong together.
    """
    from peft import PeftModel

    with fitting(path, name):
        if isinstance(lm, PeftModel):
            lm.load_adapter(path, adapter)
        else:
            lm = PeftModel.from_pretrained(lm, path, adapter)
    return lm.eval().requires_grad_(False)


@contextmanager
def fitting(path: str, name: str) -> Iterator[None]:
    """Let what peft says of an adapter that does not fit its model be an InputError."""
    from safetensors import SafetensorError

    faults = (OSError, ValueError, KeyError, RuntimeError, AttributeError, ImportError, SafetensorError, UserWarning)
    try:
        with quietly():
            warnings.filterwarnings("error", message=".*missing adapter keys")
            yield
    except faults as error:
        reason = " ".join(str(error).split())
        raise InputError(f"{path}: does not fit {name} ({reason[:200]}); give the model it was trained on") from error


def adapter_rows(path: str, lm) -> int | None:
    """Rows of the embeddings that an adapter was trained over, as far as its files tell; None: any number."""
    shapes = adapter_shapes(path)
    layers = (lm.get_input_embeddings(), lm.get_output_embeddings())
    names = {name for name, module in lm.named_modules() if any(module is layer for layer in layers)}
    for name in names:
        for end in (f"{name}.weight", f"{name}.base_layer.weight"):
            if found := [shape[0] for key, shape in shapes.items() if key.endswith(f".{end}")]:
                return found[0]
    indices = read_adapter_config(path).get("trainable_token_indices")
    lists = indices.values() if isinstance(indices, dict) else [indices] if indices else []
    least = max((max(numbers) + 1 for numbers in lists if numbers), default=0)
    return least if least > lm.get_input_embeddings().num_embeddings else None


def adapter_shapes(path: str | Path) -> dict[str, tuple[int, ...]]:
    """Name → shape of an adapter's tensors. Raises InputError for files that cannot be read."""
    from safetensors import safe_open

    folder = Path(path).expanduser()
    file, old = folder / "adapter_model.safetensors", folder / "adapter_model.bin"
    try:
        if file.exists() or not old.exists():
            with safe_open(file, framework="pt") as tensors:
                return {name: tuple(tensors.get_slice(name).get_shape()) for name in tensors.keys()}  # noqa: SIM118
        import torch

        return {name: tuple(tensor.shape) for name, tensor in torch.load(old, weights_only=True).items()}
    except Exception as error:  # a missing, cut or foreign file, of either library
        raise InputError(f"{file}: not a readable adapter ({error}); restore it, or train the adapter again") from error
