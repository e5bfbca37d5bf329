"""What is checked of settings and models before a stage reads its rows."""

from collections.abc import Iterable

from easyrlhf.config import TrainConfig
from easyrlhf.config.lists import split_list
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.data.tokens import TokenData, check_winners
from easyrlhf.errors import InputError
from easyrlhf.models.context_parallel import heads_of
from easyrlhf.models.folder import probe_ids
from easyrlhf.models.four_bit import check_four_bit
from easyrlhf.models.load import positions_of
from easyrlhf.models.lora import modules_trained_whole, trained_rows
from easyrlhf.models.prefix_sharing import sees_all
from easyrlhf.offline.loop import offline_evaluations
from easyrlhf.report.console import Console
from easyrlhf.report.metrics import ranked
from easyrlhf.run.manifest import require_whole
from easyrlhf.run.run import Run
from easyrlhf.stages.models import model_without_weights, tokens_to_learn, uncut_error


def check_lora(run: Run, renderer: Renderer, console: Console) -> None:
    """Say which tokens LoRA trains beside its adapters. Raises InputError where it cannot, or for unknown modules."""
    config = run.config
    if not config.lora_r:
        return
    lm = model_without_weights(config.model, config.trust_remote_code)
    if config.load_in_4bit:
        zero_stage = run.zero["zero_optimization"]["stage"] if run.zero else 0
        check_four_bit(lm, split_list(config.modules_to_save), run.device, zero_stage)
    tokens = tokens_to_learn(config.model, renderer, lm, config.trust_remote_code)
    if not (tokens or config.modules_to_save):
        return
    whole = modules_trained_whole(lm, split_list(config.modules_to_save))
    trained_rows(lm, split_list(config.lora_target), whole, tokens)
    what = f"--modules_to_save {config.modules_to_save}"
    remedy = "leave it out"
    if tokens:
        names = ", ".join(renderer.tokenizer.convert_ids_to_tokens(tokens[:3]))
        what = f"rows of their own for {count_of(len(tokens), 'token')} that {config.model} has never seen ({names})"
        remedy = "let an sft_train of all weights (--lora_r 0) learn them first, or leave --chat_template out"
    if tokens and run.zero and run.zero["zero_optimization"]["stage"] == 3:
        raise InputError(f"--deepspeed: ZeRO stage 3 cannot train {what}; use --deepspeed zero2, or {remedy}")
    if config.share_backbone:
        raise InputError(f"--share_backbone: parts that share a backbone cannot have {what}; {remedy}")
    if config.uses_vllm:
        raise InputError(f"--rollout vllm: vLLM takes no adapter with {what}; {remedy}, or use --rollout hf")
    if tokens:
        console.note(f"beside the adapters, the run trains {what}")


def check_keep_best(config: TrainConfig) -> None:
    """Raise InputError when --keep_best names a metric that this stage's evaluations cannot be ranked by."""
    usable = ranked(config.stage)
    if config.keep_best and config.keep_best not in usable:
        raise InputError(
            f"--keep_best {config.keep_best}: is not a metric that tells the better of two evaluations of "
            f"{config.stage}; use {' or '.join(usable)}"
        )


def check_positions(flag: str, path: str, config: TrainConfig) -> None:
    """Raise InputError when a model has no place for sequences as long as the settings allow."""
    places = positions_of(path, trust_remote_code=config.trust_remote_code)
    if places and config.max_length > places:
        whose = path if flag == "--model" else f"{flag} {path}"
        raise InputError(
            f"--max_length {config.max_length}: {whose} was made for {places} tokens at most; use --max_length "
            f"{places} or less, and a --max_prompt_length below it"
        )


def check_cut(config: TrainConfig, paths: Iterable[str]) -> None:
    """Raise InputError when processes are to share rows, and a model does not let them; reads no weights."""
    size = config.context_parallel_size
    for path in dict.fromkeys(paths) if size > 1 else ():
        lm = model_without_weights(path, config.trust_remote_code)
        if lm.config._attn_implementation != "sdpa":
            raise uncut_error(path, config, f"{type(lm).__name__} has no sdpa attention")
        if (heads := heads_of(lm.config)) % size:
            why = f"its {heads} attention heads cannot be dealt out to {size} processes"
            raise uncut_error(path, config, why, f"give a divisor of {heads}")
        if not sees_all(lm.config, config.max_length):
            raise uncut_error(path, config, f"its attention sees less than --max_length {config.max_length} tokens")


def check_probes_render(flag: str, folder: str, renderer: Renderer) -> None:
    """Raise InputError when the texts by which a saved head is proven cannot be rendered."""
    try:
        probe_ids(renderer)
    except InputError as error:
        raise InputError(
            f"{flag} {folder}: a question with its answer cannot be rendered, which proves a head when it "
            f"is saved: {error}"
        ) from error


def check_held_out_pairs(config: TrainConfig, data: dict[str, TokenData | None]) -> None:
    """Raise InputError when of no pair that an evaluation looks at it is known which answer is the better one."""
    if data["valid"]:
        valid = data["valid"].rows
        evaluations = offline_evaluations(config, len(data["train"].rows), valid)
        check_winners("valid", evaluations.chosen(valid)["chosen_probability"][:])


def check_parent(flag: str, folder: str, config: TrainConfig) -> None:
    """Raise InputError unless a folder that the stage builds on is complete and as its own stage left it."""
    require_whole(flag, folder, allow_incomplete=config.allow_incomplete, result=config.output_dir)


def require_policy_tokenizer(flag: str, folder: str, config: TrainConfig, renderer: Renderer) -> None:
    """Raise InputError when a model that must read the policy's tokens has another tokenizer or template."""
    theirs = tokenizer_fingerprint(load_tokenizer(folder, trust_remote_code=config.trust_remote_code))
    ours = tokenizer_fingerprint(renderer.tokenizer)
    different = [name.replace("_", " ") for name in ours if ours[name] != theirs[name]]
    if different:
        raise InputError(
            f"{flag} {folder}: its {' and '.join(different)} differs from that of --model {config.model}; the two must "
            "read the same tokens. Use a model trained from the same SFT folder"
        )


def count_of(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"
