"""The life of one stage in its output folder: claimed, begun, checkpointed, stopped or completed."""

import dataclasses
import importlib.metadata
import shutil
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import NoReturn

import torch
import yaml

from easyrlhf.engine import world
from easyrlhf.engine.checkpoint import (
    CHECKPOINTS,
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    read_state,
    remove_checkpoints_after,
    save_checkpoint,
)
from easyrlhf.engine.device import dtype_name, pick_device, pick_dtype, pick_micro_batch_tokens, reuse_memory
from easyrlhf.engine.engine import Engine
from easyrlhf.engine.faults import is_full_disk, is_out_of_memory
from easyrlhf.engine.lock import held
from easyrlhf.engine.manifest import STAGE_FILE, make_folder, read_stage, write_stage
from easyrlhf.engine.signals import StopRequest
from easyrlhf.engine.zero import read_zero_config
from easyrlhf.errors import EasyRLHFError, InputError, RunError, RunStopped
from easyrlhf.settings import convert, is_path

SETTINGS_FILE = "args.yaml"
# Settings that change no number of a run but by rounding: they may differ when it is continued. The folder is known by
# being there; a reward server may have moved.
FREE_TO_CHANGE = {"output_dir", "resume", "overwrite", "dry_run", "allow_incomplete"}
FREE_TO_CHANGE |= {"log_steps", "report_to", "save_total_limit", "reward_timeout", "reward_workers", "reward_url"}
FREE_TO_CHANGE |= {"stop_on_alarm", "devices", "nnodes", "node_rank", "master_addr", "master_port", "ddp_timeout"}
FREE_TO_CHANGE |= {"deepspeed", "micro_batch_tokens", "vllm_host", "vllm_port", "vllm_timeout", "vllm_weight_transfer"}
FREE_TO_CHANGE |= {"vllm_mode", "vllm_tensor_parallel_size", "vllm_gpu_memory_utilization", "reuse_memory"}
FREE_TO_CHANGE |= {"log_rollouts", "log_rollout_ids"}
FREE_TO_CHANGE |= {"examine_rows", "eval_at_start"}
ROWS = ("train_data", "valid_data", "ptx_data")
LENGTHS = ("max_length", "max_prompt_length", "overlength")  # those whose defaults follow from other settings
INPUT_FOLDERS = ("model", "ref_model", "reward_model", "value_model")
BEFORE_THE_START = {"cache", ".lock", "bad_rows.jsonl", "logs"}
OUR_FILES = (
    f"{STAGE_FILE} {SETTINGS_FILE} {CHECKPOINTS} metrics.jsonl samples.jsonl rollouts.jsonl rm_eval.json doctor.json "
    "report.html README.md plots runs adapter value_model .final config.json generation_config.json "
    "value_head.safetensors model*.safetensors model.safetensors.index.json tokenizer* special_tokens_map.json "
    "vocab.json merges.txt added_tokens.json chat_template.jinja"
).split()


class Run:
    """One stage at work in one folder. Made by open_run.

    step         steps done; saved: those that a checkpoint holds
    best         {"metric", "step", "value"} of the best evaluation by --keep_best so far; None without one
    zero         DeepSpeed's configuration; None without DeepSpeed
    passed_over  a line on every damaged checkpoint that is newer than the one to continue
    """

    def __init__(self, config, folder: Path, stop: StopRequest):
        self.config, self.folder, self.stop = config, folder, stop
        self.device = pick_device(config.devices)
        if config.reuse_memory:
            reuse_memory(self.device)
        self.dtype = pick_dtype(config.precision, self.device)
        self.micro_batch_tokens = pick_micro_batch_tokens(config.micro_batch_tokens, self.device)
        self.started = time.monotonic()  # the clock may be set while a run goes on
        self.zero = zero_config(config)
        resume = "never" if config.overwrite else config.resume
        self.origin = origin_of(config)  # the folder of another run that this one branches from
        real = Path(config.output_dir)  # a dry run says what a run there would do
        if self.origin and list_checkpoints(real):
            self.origin, resume = None, "auto"  # it has branched already: the same command continues it
        self.checkpoint, self.passed_over = world.on_main(lambda: find_checkpoint(real, resume))
        self.step = self.saved = 0
        self.best: dict | None = None
        self.earlier_seconds = 0.0

    def beginning(self) -> str:
        """Where the run begins, for the start summary."""
        if self.origin is None:
            return f"continues after {self.checkpoint.name}" if self.checkpoint else "from the beginning"
        differences = "; ".join(changed_settings(self.origin, self.config)) or "none"
        return f"branches from {self.checkpoint}; settings that differ: {differences.replace(' → ', ' -> ')}"

    @property
    def cache(self) -> Path:
        """Folder for tokenised data; gone when the run is complete."""
        return self.folder / "cache"

    @property
    def seconds(self) -> float:
        """Wall time of the run so far, earlier sittings included."""
        return self.earlier_seconds + time.monotonic() - self.started

    def begin(self, info: dict, engines: dict[str, Engine]) -> dict:
        """Mark the run as started, and take back its newest checkpoint if it has one.

        info     facts for stage.json: parents, data, tokenizer…
        returns  the state saved with the checkpoint; {} for a fresh start
        Raises InputError when the data are no longer those the run was started with.
        """
        self.info = {
            "status": "running",
            "easyrlhf_version": importlib.metadata.version("easyrlhf"),
            "stage": self.config.stage,
            **info,
            "precision": dtype_name(self.dtype),
            "seed": self.config.seed,
            "processes": world.size(),
            "libraries": library_versions(),
        }
        world.on_main(self.mark_begun)
        self.stop.holding, self.stop.at_stake = True, self.at_stake
        if world.rank():
            torch.manual_seed(self.config.seed + world.rank())  # new weights were the same everywhere, dropout is not
        state = load_checkpoint(self.checkpoint, engines) if self.checkpoint else {}
        self.step, self.earlier_seconds = state.get("step", 0), state.get("seconds", 0.0)
        self.saved = self.step
        self.best = None if self.origin else state.get("best")  # that of another run is in its folder
        world.on_main(lambda: remove_checkpoints_after(self.folder, self.step))
        return state

    def mark_begun(self) -> None:
        """Check the folder once more, and write what says that the run is under way. Raises InputError."""
        known = read_stage(self.folder)
        if self.origin:
            require_same_course(self.origin, self.config, self.info)
            self.info["branched_from"] = str(self.checkpoint)
        elif self.checkpoint and not same_rows(known.get("data", {}), self.info["data"]):
            raise InputError(
                f"{self.folder}: the rows of --train_data or --valid_data have changed since this run started; "
                "put them back, give another --output_dir, or start anew with --overwrite"
            )
        if self.checkpoint and not self.origin:
            self.require_best(read_state(self.checkpoint).get("best"))
        if self.config.overwrite and known:  # where no stage has written, nothing is ours
            remove_ours(self.folder)
        write_settings(self.folder, self.config)
        write_stage(self.folder, self.info)

    def save(self, engines: dict[str, Engine], **state) -> Path:
        """Write a checkpoint of the present step. Raises RunError when the disk does not take it."""
        state = {**state, "seconds": self.seconds}
        if self.best:
            state["best"] = self.best
        checkpoint = save_checkpoint(self.folder, self.step, engines, state, self.config.save_total_limit)
        self.saved = self.step
        return checkpoint

    def at_stake(self) -> str:
        """What an end at once would lose: whole steps, and the one under way."""
        lost = self.step - self.saved
        since = f"{self.checkpoint_of(self.saved)} holds the rest" if self.saved else "no checkpoint was written yet"
        return f"{lost} step{'' if lost == 1 else 's'} and the one under way ({since})"

    @property
    def is_best(self) -> bool:
        """Whether the present step is the best so far."""
        return self.best is not None and self.best["step"] == self.step

    def checkpoint_of(self, step: int) -> Path:
        """Where the checkpoint of a step is, if it was saved."""
        return self.folder / CHECKPOINTS / f"step-{step}"

    def require_best(self, best: dict | None) -> None:
        """Raise InputError when the checkpoint of the best step, as the one to continue remembers it, is not there."""
        if best and not self.checkpoint_of(best["step"]).is_dir():
            raise InputError(
                f"{self.checkpoint_of(best['step'])}: is missing, and holds the best {best['metric']} up to "
                f"{self.checkpoint}, which this run continues; put it back, or start anew with --resume never"
            )

    def take_best(self, engines: dict[str, Engine]) -> bool:
        """Put the weights of the best step into the engines' models; False when there are no better ones."""
        if self.best is None or self.is_best:
            return False
        for name, engine in engines.items():
            engine.load(self.checkpoint_of(self.best["step"]) / name)
        return True

    def stop_if_requested(self, engines: dict[str, Engine], **state) -> None:
        """After a stop request: save, mark the run as stopped, and raise RunStopped."""
        if world.any_of(self.stop.requested):
            self.halt("stopped on request", f" {self.how_to_go_on}", engines, state)

    def stop_on_alarm(self, alarms: list[str], engines: dict[str, Engine], **state) -> None:
        """With --stop_on_alarm, when there are alarms: save, mark the run as stopped, and raise RunStopped."""
        if not (self.config.stop_on_alarm and world.any_of(bool(alarms))):
            return
        way_out = (
            f"{self.how_to_go_on} It goes on past this alarm, and with --no_stop_on_alarm past every other. "
            "Other settings need another --output_dir, or --overwrite."
        )
        self.halt("stopped by an alarm", "\n" + "\n".join([*alarms, way_out]), engines, state)

    def halt(self, why: str, more: str, engines: dict[str, Engine], state: dict) -> NoReturn:
        """Save, mark the run as stopped, and raise RunStopped: why and where, then more."""
        checkpoint = self.save(engines, **state)
        world.on_main(lambda: write_stage(self.folder, {**self.info, "status": "stopped", "step": self.step}))
        raise RunStopped(f"{why} after step {self.step}; {checkpoint} holds it.{more}")

    @property
    def how_to_go_on(self) -> str:
        """The last sentence of a message about a run that did not finish."""
        return how_to_go_on(self.config)

    def complete(self, **results) -> None:
        """Mark the run as complete and drop its cache; what follows it may now read the folder."""
        shutil.rmtree(self.cache, ignore_errors=True)
        write_stage(
            self.folder,
            {
                **self.info,
                "status": "complete",
                "step": self.step,
                **({"best": self.best} if self.best else {}),
                **results,
                "wall_seconds": round(self.seconds, 1),
            },
        )


@contextmanager
def open_run(config) -> Iterator[Run | None]:
    """Claim the output folder and yield the run, or None when an equal run is already complete there.

    One of several processes joins the others first; the main one does what concerns the folder.
    A dry run works in a temporary folder. Raises InputError when the folder holds another run or foreign files,
    or when another run works in it. Errors on the way out say what is safe.
    """
    torch.manual_seed(config.seed)
    device = pick_device(config.devices)
    with StopRequest() as stop:
        try:
            with ExitStack() as stack:
                stack.enter_context(world.joined(device, config.ddp_timeout, alone=wants_group(config)))
                folder, found = world.on_main(lambda: entered(stack, config))
                if found == "complete":
                    yield None
                    return
                run = Run(config, folder, stop)
                with out_of_memory_explained(run), full_disk_explained(run):
                    yield run
        except RunError as error:
            raise further(error, what_is_safe(config)) from error


def entered(stack: ExitStack, config) -> tuple[Path, str]:
    """The folder, made and locked as long as the stack lasts, and what it is to this run, as claim says."""
    if config.dry_run:
        real = Path(config.output_dir)
        found = claim(config, real) if real.is_dir() else "new"
        return Path(stack.enter_context(tempfile.TemporaryDirectory())), found
    folder = Path(config.output_dir)
    make_folder(folder)
    stack.enter_context(locked(folder))
    return folder, claim(config, folder)


def further(error: RunError, text: str) -> RunError:
    """The error with one more line."""
    found = type(error)(f"{error}\n{text}")
    found.shown_by = error.shown_by
    return found


@contextmanager
def out_of_memory_explained(run: Run) -> Iterator[None]:
    """Turn torch's error for a full memory into advice."""
    try:
        yield
    except (MemoryError, RuntimeError, OSError) as error:
        if isinstance(error, EasyRLHFError) or not is_out_of_memory(error):
            raise
        text = str(error)
        found = RunError(
            f"out of memory on {run.device}: {(text or 'MemoryError').splitlines()[0][:200]}\n"
            f"A forward pass had up to --micro_batch_tokens {run.micro_batch_tokens} tokens; try --micro_batch_tokens "
            f"{max(1, run.micro_batch_tokens // 2)}, which needs half the activations and gives the same result, then "
            "--gradient_checkpointing, --lora_r 16, or --deepspeed zero3 on several devices. easyrlhf fit "
            f"{run.config.stage} --model {run.config.model} says what fits"
        )
        found.shown_by = world.rank()
        raise found from error


@contextmanager
def full_disk_explained(run: Run) -> Iterator[None]:
    """Turn what the system says of a disk that is full or has become read-only into a RunError that names the file."""
    try:
        yield
    except OSError as error:
        if not is_full_disk(error):
            raise
        found = RunError(f"{error.filename or run.folder}: could not be written: {error.strerror}; make room there")
        found.shown_by = world.rank()
        raise found from error


def wants_group(config) -> bool:
    """Whether a process that is alone has to be a group of one, which DeepSpeed and a vLLM inside of it ask for."""
    rollout = getattr(config, "rollout", "hf"), getattr(config, "vllm_mode", None)
    return asks_for_zero(config) or rollout == ("vllm", "colocate")


def asks_for_zero(config) -> bool:
    """Whether the settings name a DeepSpeed configuration."""
    return config.deepspeed not in ("auto", "none")


def zero_config(config) -> dict | None:
    """DeepSpeed's configuration for a run: by default zero2 with several processes, and none alone.

    Adapters on a shared backbone are too small to be worth spreading. Raises InputError.
    """
    shared = getattr(config, "share_backbone", False)
    if shared and asks_for_zero(config):
        raise InputError(
            f"--deepspeed {config.deepspeed}: cannot be used with --share_backbone, where two models are trained on "
            "one backbone; use --deepspeed none, which also works on several devices"
        )
    chosen = config.deepspeed
    if chosen == "auto":
        chosen = "zero2" if world.size() > 1 and not shared else "none"
    return None if chosen == "none" else read_zero_config(chosen)


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold the folder for this process alone; the operating system lets go of it when the process ends."""
    with ExitStack() as stack:
        try:
            stack.enter_context(held(folder / ".lock"))
        except BlockingIOError as error:
            raise InputError(
                f"--output_dir {folder}: another run is working there; wait for it, or give another folder"
            ) from error
        yield


def claim(config, folder: Path) -> str:
    """Decide what the folder is to this run: "new", "unfinished" or "complete". Raises InputError when it is taken."""
    settings = dataclasses.asdict(config)
    for name in INPUT_FOLDERS:
        if settings.get(name) and Path(settings[name]).resolve() == folder.resolve():
            raise InputError(
                f"--output_dir {folder}: is also --{name}, which the run would write over; give another --output_dir"
            )
    if config.overwrite:  # what is there is deleted when training begins: bad input must not cost a finished run
        return "new"
    known = read_stage(folder)
    if not known:
        foreign = sorted(path.name for path in folder.iterdir() if path.name not in BEFORE_THE_START)
        if foreign:
            raise InputError(
                f"--output_dir {folder}: holds files this stage did not write ({', '.join(foreign[:3])}); "
                "give another folder, or --overwrite to write beside them"
            )
        return "new"
    differences = changed_settings(folder, config)
    if known["status"] != "complete":  # whose rows are known by their content when training begins
        differences = [line for line in differences if line.partition(":")[0] not in ROWS]
    if known["stage"] != config.stage or differences:
        listed = "\n".join(f"  {line}" for line in differences)
        raise InputError(
            f"--output_dir {folder}: holds a {known['status']} run of {known['stage']} with other settings:\n{listed}\n"
            "give another folder, the same settings to continue it, or --overwrite to start anew"
        )
    return "complete" if known["status"] == "complete" else "unfinished"


def as_begun(config):
    """A copy with the lengths that were not given as the run in its folder began with them, so that it can go on.

    What follows from other settings may have followed otherwise then. A folder without a run, or one with other
    lengths than those that were given, changes nothing.
    """
    file = Path(config.output_dir) / SETTINGS_FILE
    try:
        then = yaml.safe_load(file.read_text()) if file.exists() and not config.overwrite else None
    except (OSError, ValueError, yaml.YAMLError):
        return config
    if not isinstance(then, dict):
        return config
    given = {name: getattr(config, name) for name in LENGTHS if getattr(config, name) is not None}
    if any(then.get(name) != value for name, value in given.items()):
        return config
    return dataclasses.replace(config, **{name: then[name] for name in LENGTHS if name in then})


def changed_settings(folder: Path, config) -> list[str]:
    """Lines `name: then → now` for every setting that differs from the run in the folder."""
    file = folder / SETTINGS_FILE
    then = yaml.safe_load(file.read_text()) if file.exists() else {}
    now = dataclasses.asdict(config)
    names = sorted((then.keys() | now.keys()) - FREE_TO_CHANGE)
    if then:  # a setting that is newer than the run had its default
        then = {setting.name: setting.default for setting in dataclasses.fields(config)} | then
        paths = {s.name: s for s in dataclasses.fields(config) if is_path(s) and then[s.name] is not None}
        then |= {name: convert(setting, then[name]) for name, setting in paths.items()}  # once they were kept as given
    return [f"{name}: {then.get(name)} → {now.get(name)}" for name in names if then.get(name) != now.get(name)]


def origin_of(config) -> Path | None:
    """The folder of the run whose checkpoint --resume names, when it is another one than output_dir."""
    if config.overwrite or config.resume in ("auto", "never"):
        return None
    folder = Path(config.resume).resolve().parent.parent
    return None if folder == Path(config.output_dir).resolve() else folder


def require_same_course(origin: Path, config, info: dict) -> None:
    """Raise InputError when a run cannot branch from one of the folder `origin`: another stage, LoRA or rows."""
    known = read_stage(origin)
    if not known:
        raise InputError(
            f"--resume {config.resume}: there is no {STAGE_FILE} in {origin}, so nobody knows what it was trained on; "
            f"give a checkpoint where its run left it, in DIR/{CHECKPOINTS}"
        )
    if known["stage"] != config.stage:
        raise InputError(f"--resume {config.resume}: is of {known['stage']}, and this is {config.stage}")
    lora = [
        line for line in changed_settings(origin, config) if line.startswith(("lora_r:", "lora_target:", "modules"))
    ]
    if lora:
        raise InputError(
            f"--resume {config.resume}: trains other weights ({'; '.join(lora)}); give the settings of its run"
        )
    rows = [{name: part for name, part in data.items() if name != "valid"} for data in (known["data"], info["data"])]
    if not same_rows(*rows):
        raise InputError(
            f"--resume {config.resume}: its run trains on other rows of --train_data than this one, so the step it "
            "would go on from has no place in them; give the rows of that run"
        )


def remove_ours(folder: Path) -> None:
    """Delete what an earlier stage wrote into the folder and nothing else."""
    for path in {path for pattern in OUR_FILES for path in folder.glob(pattern)}:
        if path.is_dir():
            shutil.rmtree(path)
        else:
            path.unlink()


def same_rows(known: dict, found: dict) -> bool:
    """Whether two accounts of data, name → summary, are of the same token rows in the same order."""
    digests = [{name: part["sha256"] for name, part in account.items()} for account in (known, found)]
    return digests[0] == digests[1]


def what_is_safe(config) -> str:
    """One sentence on what a failed run leaves behind and how to go on."""
    folder = Path(config.output_dir)
    try:
        newest = next(reversed(list_checkpoints(folder)), None)
    except OSError as error:  # a process without memory cannot even read a folder, and has to say what happened to it
        kept = f"what is in {folder / CHECKPOINTS}, which could not be listed: {error.strerror}"
        return f"Safe on disk: {kept}. {how_to_go_on(config)}"
    if newest:
        other = f"Other settings, such as a lower --learning_rate, need --resume {newest} and another --output_dir."
        return f"Safe on disk: {newest}. {how_to_go_on(config)} {other}"
    return (
        "No checkpoint had been written yet; the same command starts from the beginning. Other settings need another "
        "--output_dir, or --overwrite."
    )


def how_to_go_on(config) -> str:
    """The last sentence of a message about a run that did not finish."""
    return f"The same command{' without --overwrite' * config.overwrite} continues the run."


def write_settings(folder: Path, config) -> None:
    """Write the resolved settings as args.yaml, which --config accepts."""
    (folder / SETTINGS_FILE).write_text(config.to_yaml())


def library_versions() -> dict[str, str]:
    """Versions of the libraries that decide the numbers."""
    found = {}
    for name in ("torch", "transformers", "peft", "datasets", "tokenizers", "deepspeed"):
        with suppress(importlib.metadata.PackageNotFoundError):  # DeepSpeed is for Linux alone
            found[name] = importlib.metadata.version(name)
    return found
