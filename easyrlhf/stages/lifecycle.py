"""What every stage does around its loop: check its parents, read its data, finish."""

import dataclasses
from contextlib import suppress
from pathlib import Path

from easyrlhf.config import TrainConfig
from easyrlhf.data.render import Renderer
from easyrlhf.data.tokenizer import tokenizer_fingerprint
from easyrlhf.data.tokens import TokenData
from easyrlhf.engine import processes
from easyrlhf.errors import InputError
from easyrlhf.models.load import check_text_alone, positions_of
from easyrlhf.models.parents import root_of
from easyrlhf.report.card import write_model_card
from easyrlhf.report.conclusion import concluded, examined_by
from easyrlhf.report.console import Console
from easyrlhf.report.diagnostics import verdicts
from easyrlhf.report.html import REPORT_FILE, write_report
from easyrlhf.report.info import BEST, facts
from easyrlhf.report.log import METRICS_FILE, MetricsLog, SilentLog, read_rows
from easyrlhf.report.metadata import hub_facts
from easyrlhf.report.next_steps import next_commands
from easyrlhf.report.plots import plot_run
from easyrlhf.report.stage_view import VIEWS
from easyrlhf.report.trackers.chosen import check_trackers
from easyrlhf.run.differences import as_begun
from easyrlhf.run.manifest import read_stage
from easyrlhf.run.renderers import open_renderer
from easyrlhf.run.run import Run
from easyrlhf.run.unfinished import shape_of
from easyrlhf.run.upload import check_push, push_or_say
from easyrlhf.stages.checks import check_cut, check_keep_best, check_lora, check_parent, check_positions
from easyrlhf.stages.plan import upload_planned
from easyrlhf.stages.recorded_parents import model_settings
from easyrlhf.stages.remarks import say_what_is_left_out


def settled(config: TrainConfig) -> TrainConfig:
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
    processes.on_main(lambda: check_trackers(config.report_to))
    check_keep_best(config)
    check_parent("--model", config.model, config)
    check_text_alone("--model", config.model, trust_remote_code=config.trust_remote_code)
    check_positions("--model", config.model, config)
    check_cut(config, model_settings(config).values())
    if config.push_to_hub:
        processes.on_main(lambda: check_push("--push_to_hub", config.push_to_hub, config.hub_private))
    renderer = open_renderer(config.model, config, chat_template=config.chat_template)
    check_lora(run, renderer, console)
    say_what_is_left_out(config, console)
    if renderer.date_dependent():
        console.warn(
            "the chat template writes today's date into every prompt: runs on other days see other prompts. "
            "Give --chat_template a copy with a fixed date to avoid it"
        )
    return renderer


def parents_of(config: TrainConfig) -> dict[str, str]:
    """Part → folder of the models that an offline stage reads."""
    apart = config.ref_model not in (None, config.model)
    return {"model": config.model} | ({"reference": config.ref_model} if apart else {})


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
    if not processes.is_main():
        return SilentLog()
    config = run.config
    about = {"stage": config.stage, "settings": dataclasses.asdict(config), "results": VIEWS[config.stage].results}
    say = console.warn, console.note
    return MetricsLog(run.folder, last_step=run.step, report_to=config.report_to, about=about, say=say)


def end_run(run: Run, console: Console, metrics: dict, **results) -> Path:
    """Mark the run complete and write what a person reads: plots, report, model card, verdicts, last words."""
    processes.on_main(lambda: present(run, console, metrics, results))
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


def already_complete(config: TrainConfig, console: Console) -> Path:
    """Say that there is nothing left to do."""
    early = read_stage(config.output_dir).get("ended_early")
    ended = f" (ended early, after step {early['step']} of {early['of']}, by easyrlhf finish)" if early else ""
    ways = "Give another --output_dir, or --overwrite to train it again"
    if early:
        ways = "--resume CHECKPOINT with another --output_dir trains it further, --overwrite trains it again"
    console.note(f"{config.output_dir}: this run is already complete{ended}; nothing to do. {ways}")
    processes.on_main(lambda: upload(config, console))
    return Path(config.output_dir)


def upload(config: TrainConfig, console: Console) -> None:
    """Bring a complete run to the hub where the settings say so; what goes wrong is said, and fails nothing."""
    if config.push_to_hub and config.dry_run:
        console.note(f"{upload_planned(config)} as it is")
    elif config.push_to_hub:
        console.note(push_or_say(Path(config.output_dir), config.push_to_hub, config.hub_private))
