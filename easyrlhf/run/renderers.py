"""Renderers as a folder and the settings want them: a stage keeps in stage.json how it rendered conversations."""

import re
from pathlib import Path

from easyrlhf.config import LookConfig, PolicyConfig, RewardModelConfig, TrainConfig
from easyrlhf.config.rendering import template_kwargs
from easyrlhf.data.chat_template import Rendering
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer
from easyrlhf.errors import InputError
from easyrlhf.models.load import ends_of
from easyrlhf.models.parents import tokenizer_folder
from easyrlhf.run.manifest import INSIDE, STAGE_FILE, read_stage

Renders = TrainConfig | LookConfig | PolicyConfig | RewardModelConfig


def open_renderer(
    path: str, config: Renders, *, strict: bool = True, samples: bool = True, holder: str = "", **how
) -> Renderer:
    """The renderer of a model that the settings are for: as its folder says, but for what the settings say.

    strict   whether a variable of --chat_template_kwargs that the template does not read is an error
    samples  whether the model itself will be asked; else only its tokenizer need be there
    holder   folder of the tokenizer, where it is not the model's
    how      goes to load_tokenizer
    Raises InputError.
    """
    own = rendering_of(path)
    given, folds = template_kwargs(config), config.fold_system
    rendering = Rendering(
        template_kwargs=own.template_kwargs | given,
        fold_system=own.fold_system if folds is None else folds,
        continue_final_message=config.may_continue,
        learn=config.learned,
    )
    tokenizer = load_tokenizer(holder or path, trust_remote_code=config.trust_remote_code, **how)
    template = tokenizer.chat_template
    for name in given if strict and isinstance(template, str) else ():
        if not re.search(rf"\b{re.escape(name)}\b", template):
            flag = "--chat_template_kwargs"
            if name == "enable_thinking" and config.enable_thinking is not None:
                flag = "--enable_thinking"
            raise InputError(
                f"{flag}: the chat template of {path} has no variable '{name}', so it would change nothing"
            )
    ends = ends_of(path, tokenizer, trust_remote_code=config.trust_remote_code) if samples else ()
    return Renderer(tokenizer, ends, config.stop_texts, rendering)


def own_renderer(path: str, *, trust_remote_code: bool = False) -> Renderer:
    """The renderer of a model that renders as its folder says, such as a reward model. Raises InputError."""
    tokenizer = load_tokenizer(path, trust_remote_code=trust_remote_code)
    return Renderer(tokenizer, ends_of(path, tokenizer, trust_remote_code=trust_remote_code), (), rendering_of(path))


def rendering_of(path: str) -> Rendering:
    """How the stage of a folder rendered conversations; the defaults where there is none. Raises InputError.

    An adapter goes by the stage that wrote it, else by the model whose tokenizer it has.
    """
    folder = Path(path)
    stage = read_stage(folder)
    if not stage:
        stage = read_stage(folder.parent if folder.name in INSIDE else tokenizer_folder(path))
    saved = stage.get("rendering", {})
    keys = (("chat_template_kwargs", {}), ("fold_system", False))
    kwargs, folds = (saved.get(key, default) if isinstance(saved, dict) else None for key, default in keys)
    if not isinstance(kwargs, dict) or not isinstance(folds, bool):
        raise InputError(f"{folder / STAGE_FILE}: key 'rendering' is not what a stage writes; restore the file")
    return Rendering(template_kwargs=kwargs, fold_system=folds)
