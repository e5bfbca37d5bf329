"""What every stage does around its loop: check its parents, read its data, load models, say what it will do, finish."""

import dataclasses
from contextlib import suppress
from pathlib import Path

import torch
from datasets import Dataset
from torch import nn
from transformers import AutoModelForCausalLM, PreTrainedModel

from easyrlhf.config import OnlineConfig
from easyrlhf.config.shared import DEFAULT_LENGTH
from easyrlhf.data.lengths import TOLERATED
from easyrlhf.data.render import Renderer
from easyrlhf.data.sources import open_sources
from easyrlhf.data.splitting import Part, hold_out
from easyrlhf.data.summary import DataSummary
from easyrlhf.data.tokenizer import load_tokenizer, tokenizer_fingerprint
from easyrlhf.data.tokens import TokenData, load_tokens
from easyrlhf.engine import world
from easyrlhf.engine.compare import as_begun
from easyrlhf.engine.device import choose_threads, dtype_name, other_device
from easyrlhf.engine.manifest import read_stage, require_whole
from easyrlhf.engine.renderers import open_renderer
from easyrlhf.engine.run import Run
from easyrlhf.engine.unfinished import shape_of
from easyrlhf.engine.upload import check_push, push_or_say
from easyrlhf.engine.zero import spread_frozen
from easyrlhf.errors import InputError
from easyrlhf.models.adapters import quietly
from easyrlhf.models.folder import probe, probe_ids, prove_folder, save_lm
from easyrlhf.models.four_bit import bytes_of, check_four_bit, quantise
from easyrlhf.models.load import check_text_alone, load_causal_lm, load_config, new_tokens, positions_of
from easyrlhf.models.lora import add_lora, modules_trained_whole, trained_rows
from easyrlhf.models.parents import root_of
from easyrlhf.models.prefix import enable_sharing
from easyrlhf.models.untrained import untrained_tokens
from easyrlhf.models.value_head import ScalarModel
from easyrlhf.offline.evaluations import Evaluations
from easyrlhf.report.card import RESULTS, write_model_card
from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.console import Console
from easyrlhf.report.diagnostics import verdicts
from easyrlhf.report.html import REPORT_FILE, write_report
from easyrlhf.report.info import BEST, facts
from easyrlhf.report.log import METRICS_FILE, MetricsLog, SilentLog, read_rows
from easyrlhf.report.metadata import hub_facts
from easyrlhf.report.metrics import ranked
from easyrlhf.report.next_steps import next_commands
from easyrlhf.report.plots import plot_run
from easyrlhf.report.trackers.chosen import check_report_to
from easyrlhf.settings import split_list
from easyrlhf.stages.remarks import say_what_is_left_out, say_what_is_trained_on

GIB = 2**30


def settled(config):
    """The settings with every default filled in: lengths that were not given are those of the run in the folder, or
    follow from the others and from what the model was made for."""
    config, places = as_begun(config.resolved()), None
    if config.max_length is None:
        with suppress(InputError):  # prepare says what is wrong with the model, after what is wrong with the folder
            places = positions_of(shape_of(config.model), trust_remote_code=config.trust_remote_code)
    return config.with_lengths(places)


def prepare(run: Run, console: Console) -> Renderer:
    """Check the starting model's folder and load its tokenizer. Raises InputError; loads no weights."""
    config = run.config
    world.on_main(lambda: check_report_to(config.report_to))
    check_keep_best(config)
    check_parent("--model", config.model, config)
    check_text_alone("--model", config.model, trust_remote_code=config.trust_remote_code)
    check_positions("--model", config.model, config)
    if config.push_to_hub:
        world.on_main(lambda: check_push("--push_to_hub", config.push_to_hub, config.hub_private))
    renderer = open_renderer(config.model, config, chat_template=config.chat_template)
    check_lora(run, renderer, console)
    say_what_is_left_out(config, console)
    if renderer.date_dependent():
        console.warn(
            "the chat template writes today's date into every prompt: runs on other days see other prompts. "
            "Give --chat_template a copy with a fixed date to avoid it"
        )
    return renderer


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
        what = f"rows of their own for {counted(len(tokens), 'token')} that {config.model} has never seen ({names})"
        remedy = "let an sft_train of all weights (--lora_r 0) learn them first, or leave --chat_template out"
    if tokens and run.zero and run.zero["zero_optimization"]["stage"] == 3:
        raise InputError(f"--deepspeed: ZeRO stage 3 cannot train {what}; use --deepspeed zero2, or {remedy}")
    if getattr(config, "share_backbone", False):
        raise InputError(f"--share_backbone: parts that share a backbone cannot have {what}; {remedy}")
    if getattr(config, "rollout", "hf") == "vllm":
        raise InputError(f"--rollout vllm: vLLM takes no adapter with {what}; {remedy}, or use --rollout hf")
    if tokens:
        console.note(f"beside the adapters, the run trains {what}")


def check_keep_best(config) -> None:
    """Raise InputError when --keep_best names a metric that this stage's evaluations cannot be ranked by."""
    usable = ranked(config.stage)
    if config.keep_best and config.keep_best not in usable:
        raise InputError(
            f"--keep_best {config.keep_best}: is not a metric that tells the better of two evaluations of "
            f"{config.stage}; use {' or '.join(usable)}"
        )


def check_positions(flag: str, path: str, config) -> None:
    """Raise InputError when a model has no place for sequences as long as the settings allow."""
    places = positions_of(path, trust_remote_code=config.trust_remote_code)
    if places and config.max_length > places:
        whose = path if flag == "--model" else f"{flag} {path}"
        raise InputError(
            f"--max_length {config.max_length}: {whose} was made for {places} tokens at most; use --max_length "
            f"{places} or less, and a --max_prompt_length below it"
        )


def check_probes_render(flag: str, folder: str, renderer: Renderer) -> None:
    """Raise InputError when the texts by which a saved head is proven cannot be rendered."""
    try:
        probe_ids(renderer)
    except InputError as error:
        raise InputError(
            f"{flag} {folder}: a question with its answer cannot be rendered, which proves a head when it "
            f"is saved: {error}"
        ) from error


def check_parent(flag: str, folder: str, config) -> None:
    """Raise InputError unless a folder that the stage builds on is complete and as its own stage left it."""
    require_whole(flag, folder, allow_incomplete=config.allow_incomplete, result=config.output_dir)


def require_policy_tokenizer(flag: str, folder: str, config, renderer: Renderer) -> None:
    """Raise InputError when a model that must read the policy's tokens has another tokenizer or template."""
    theirs = tokenizer_fingerprint(load_tokenizer(folder, trust_remote_code=config.trust_remote_code))
    ours = tokenizer_fingerprint(renderer.tokenizer)
    different = [name.replace("_", " ") for name in ours if ours[name] != theirs[name]]
    if different:
        raise InputError(
            f"{flag} {folder}: its {' and '.join(different)} differs from that of --model {config.model}; the two must "
            "read the same tokens. Use a model trained from the same SFT folder"
        )


def read_sets(run: Run, renderer: Renderer, kind: str) -> dict[str, TokenData | None]:
    """The training rows, `train`, and the held-out rows, `valid`: from files of their own, or out of the same ones."""
    config, parts = run.config, {}
    if config.valid_split:
        how = {"format": config.format, "on_bad_row": config.on_bad_row}
        files = {"field": config.field, "transform": config.transform}
        held_out = world.on_main(
            lambda: hold_out(open_sources(config.train_data, **files), kind, config.valid_split, config.seed, **how)
        )
        parts = {"train": Part(held_out, validation=False), "valid": Part(held_out, validation=True)}
    sources = {"train": config.train_data, "valid": config.train_data if parts else config.valid_data}
    return {name: read_data(run, renderer, kind, source, name, parts.get(name)) for name, source in sources.items()}


def read_data(
    run: Run, renderer: Renderer, kind: str, source: str | None, name: str, part: Part | None = None
) -> TokenData | None:
    """Tokenise one of the run's data settings, or a part of it; None when it is not given. Raises InputError."""
    if source is None:
        return None
    config = run.config

    def read() -> DataSummary:
        return load_tokens(
            source,
            kind,
            renderer,
            max_length=config.max_length,
            max_prompt_length=config.max_prompt_length,
            cache_dir=run.cache,
            format=config.format,
            field=config.field,
            transform=config.transform,
            overlength=config.overlength or "drop",
            too_long=1.0 if config.overlength == "drop" else TOLERATED,
            on_bad_row=config.on_bad_row,
            name=name,
            bad_rows=run.folder / "bad_rows.jsonl",
            places=positions_of(config.model, trust_remote_code=config.trust_remote_code),
            seed=config.seed,
            part=part,
        ).summary

    summary = world.on_main(read)
    return TokenData(Dataset.from_file(str(run.cache / f"{name}.arrow")), summary)


def how_to_load(run: Run) -> dict:
    """The keywords of load_causal_lm that the settings decide."""
    config = run.config
    return {
        "dtype": run.dtype,
        "attn_implementation": config.attn_implementation,
        "trust_remote_code": config.trust_remote_code,
    }


def load_lm(run: Run, renderer: Renderer, path: str, *, dropout: bool = False) -> PreTrainedModel:
    """A causal language model on the run's device, in 4 bits where the settings say so, with our attention.

    Raises InputError as attend_our_way does.
    """
    lm = load_causal_lm(path, renderer.tokenizer, dropout=dropout, **how_to_load(run))
    if run.config.load_in_4bit:
        quantise(lm, run.device, split_list(run.config.modules_to_save))
    attend_our_way(run, lm.to(run.device), path)
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


def save_scalar_model(run: Run, folder: Path, model: ScalarModel, renderer: Renderer) -> list[dict]:
    """Write backbone and head, and prove that the folder scores as the model does; returns the probes.

    The model is then the merged one, but for one in 4 bits: what that is in full may be larger than its device.
    """
    saved = save_lm(folder, model.lm, renderer.tokenizer, model.head)
    if not run.config.load_in_4bit:
        model.lm = saved
    probes = probe(model, probe_ids(renderer))
    device = torch.device("cpu") if run.config.load_in_4bit else run.device
    trusted = {"trust_remote_code": run.config.trust_remote_code}
    prove_folder(folder, probes, renderer.tokenizer, device, run.dtype, **trusted)
    return probes


def parents_of(config) -> dict[str, str]:
    """Part → folder of the models that an offline stage reads."""
    ref_model = getattr(config, "ref_model", None)
    return {"model": config.model} | ({"reference": ref_model} if ref_model not in (None, config.model) else {})


def start(
    run: Run,
    console: Console,
    title: str,
    steps: int,
    data: dict[str, TokenData | None],
    models: dict[str, str],
    beside: dict[str, str] | None = None,
    evaluations: Evaluations | None = None,
) -> None:
    """Choose the CPU threads for models of this size, and say what will be done: data, models with memory, plan.

    models       name → folder or hub id of every model
    beside       name → what a model, or a part that has none, is in place of weights of its own
    evaluations  None without held-out rows
    """
    beside = beside or {}
    config = run.config
    sizes = {path: count_parameters(path, config.trust_remote_code) for path in set(models.values())}
    choose_threads(run.device, max(sizes.values()))
    online = isinstance(config, OnlineConfig)
    how = f"rollouts of {config.batch_size} completions" if online else counted(config.epochs, "epoch")
    if not online and steps == config.max_steps:
        how = f"of at most {how}"
    for line in run.passed_over:
        console.warn(f"{line}; the one before is continued")
    for line in run.remarks:
        console.warn(line)
    say_what_is_trained_on(config, data, console)
    begin = run.beginning()
    where = f"on {run.device.type if world.size() > 1 else run.device}"
    if world.size() > 1:
        where += f" in {world.size()} processes"
    if run.device.type == "cpu":
        where += f" with {counted(torch.get_num_threads(), 'thread')}{' each' if world.size() > 1 else ''}"
    where += other_device(config.devices, run.device)
    if run.zero:
        where += f", DeepSpeed ZeRO-{run.zero['zero_optimization']['stage']},"
    sections = {
        "data": [line for part in data.values() if part for line in part.summary.lines()],
        "models": [
            f"{name}: {beside[name]}"
            if name in beside
            else describe_model(run, name, models[name], sizes[models[name]])
            for name in models | beside
        ],
        "plan": [
            f"{steps:,} steps of {config.batch_size} ({how}) at learning rate {config.learning_rate:g}, {begin}",
            f"{where} in {dtype_name(run.dtype)}, seed {config.seed}, into {config.output_dir}",
            *([evaluations.line()] if evaluations else []),
        ],
    }
    if config.max_length == positions_of(config.model, trust_remote_code=config.trust_remote_code) < DEFAULT_LENGTH:
        sections["plan"].append(f"rows of up to {config.max_length} tokens, for which {config.model} was made")
    if config.push_to_hub:
        sections["plan"].append(f"{upload_planned(config)} when it is complete")
    if config.dry_run:
        sections["settings"] = config.to_yaml().splitlines()
    console.summary(title, sections)


def upload_planned(config) -> str:
    """What --push_to_hub does, for people."""
    whose = "private" if config.hub_private else "public"
    return f"uploads {config.output_dir}, without checkpoints, to {config.push_to_hub} on the hub ({whose})"


def counted(number: int, noun: str) -> str:
    """`1 epoch`, `2 epochs`."""
    return f"{number} {noun}{'' if number == 1 else 's'}"


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
    with torch.device("meta"):
        return AutoModelForCausalLM.from_config(config, trust_remote_code=trust_remote_code)


def stage_info(run: Run, renderer: Renderer, data: dict[str, TokenData | None], parents: dict[str, str]) -> dict:
    """Facts about a run for stage.json: parents, tokenizer, data."""
    config, tokenizer = run.config, renderer.tokenizer
    parent, root = read_stage(config.model), root_of(config.model)
    summaries = {name: part.summary for name, part in data.items() if part}
    return {
        "base": parent.get("base", config.model),
        "parents": parents,
        **tokenizer_fingerprint(tokenizer),
        "rendering": renderer.rendering.as_dict(),
        "special_tokens": {name: getattr(tokenizer, f"{name}_token_id") for name in ("bos", "eos", "pad")},
        "max_length": config.max_length,
        **({"load_in_4bit": True} if config.load_in_4bit else {}),
        "data": {name: summary.as_dict() for name, summary in summaries.items()},
        "hub": hub_facts(root, parent or read_stage(root), {name: one.files for name, one in summaries.items()}),
    }


def open_log(run: Run, console: Console) -> MetricsLog:
    """The run's log of metrics, in the main process; the others have one that keeps nothing."""
    if not world.is_main():
        return SilentLog()
    config = run.config
    about = {"stage": config.stage, "settings": dataclasses.asdict(config), "results": RESULTS[config.stage]}
    say = console.warn, console.note
    return MetricsLog(run.folder, last_step=run.step, report_to=config.report_to, about=about, say=say)


def finish(run: Run, console: Console, metrics: dict, **results) -> Path:
    """Mark the run complete and write what a person reads: plots, report, model card, verdicts, last words."""
    world.on_main(lambda: present(run, console, metrics, results))
    return run.folder


def present(run: Run, console: Console, metrics: dict, results: dict) -> None:
    """What finish does, in the main process."""
    stage = run.config.stage
    run.complete(metrics=metrics, **results)
    info = read_stage(run.folder)
    plot_run(run.folder, stage)
    write_report(run.folder, stage=stage, settings=dataclasses.asdict(run.asked), info=info)
    write_model_card(run.folder, stage=stage, info=info)
    rows = read_rows(run.folder / METRICS_FILE)
    console.verdicts(verdicts(stage, rows))
    console.finish(
        [
            f"{stage} complete in {run.seconds:,.0f} s: {run.folder}",
            *(f"{name}: {text}" for name, text in facts(info) if name == BEST),
            concluded(stage, rows, examined_by(stage, run.folder)).sentence,
            f"report: {run.folder / REPORT_FILE}",
        ],
        next_commands(stage, dataclasses.asdict(run.asked)),
    )
    upload(run.asked, console)


def already_complete(config, console: Console) -> Path:
    """Say that there is nothing left to do."""
    early = read_stage(config.output_dir).get("ended_early")
    ended = f" (ended early, after step {early['step']} of {early['of']}, by easyrlhf finish)" if early else ""
    ways = "Give another --output_dir, or --overwrite to train it again"
    if early:
        ways = "--resume CHECKPOINT with another --output_dir trains it further, --overwrite trains it again"
    console.note(f"{config.output_dir}: this run is already complete{ended}; nothing to do. {ways}")
    world.on_main(lambda: upload(config, console))
    return Path(config.output_dir)


def upload(config, console: Console) -> None:
    """Bring a complete run to the hub where the settings say so; what goes wrong is said, and fails nothing."""
    if config.push_to_hub and config.dry_run:
        console.note(f"{upload_planned(config)} as it is")
    elif config.push_to_hub:
        console.note(push_or_say(Path(config.output_dir), config.push_to_hub, config.hub_private))
