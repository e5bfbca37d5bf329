"""What an output folder is to a run: new, unfinished, complete, taken, foreign."""

import errno
import json
import os
import shutil
import signal
from dataclasses import replace
from pathlib import Path

import pytest
import yaml

from easyrlhf.config import PPOConfig, RMConfig, SFTConfig
from easyrlhf.errors import InputError, RunError, RunStopped
from easyrlhf.run.manifest import read_stage, write_stage
from easyrlhf.run.run import open_run
from easyrlhf.run.signals import StopRequest

INFO = {"parents": {"model": "m"}, "data": {"train": {"sha256": "abc", "used": 3}}}


class Numbers:
    """Stands for an engine: what it saves is one number."""

    number = 0
    changes = 0

    def check_finite(self):
        pass

    def save(self, folder):
        folder.mkdir(parents=True)
        (folder / "number").write_text(str(self.number))

    def load(self, folder):
        self.number = int((folder / "number").read_text())


@pytest.fixture
def config(tmp_path) -> SFTConfig:
    return SFTConfig(model="m", train_data="x.jsonl", output_dir=str(tmp_path / "out"), devices="cpu").resolved()


def begin(run, engines: dict, info: dict = INFO) -> dict:
    """What a stage does before its loop; returns the state of the checkpoint that is continued."""
    assert run.recognise(info)
    return run.begin(engines)


def train(config, steps: int, finish: bool = False) -> int | None:
    """A run that makes so many steps, saves after each, and ends; returns the step it began at, None when complete."""
    with open_run(config) as run:
        if run is None:
            return None
        engine = Numbers()
        begin(run, {"model": engine})
        began = run.step
        assert engine.number == began
        for _ in range(steps):
            run.step += 1
            engine.number = run.step
            run.save({"model": engine})
        if finish:
            run.complete(metrics={"loss": 1.0})
        return began


def files(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def out(config) -> Path:
    return Path(config.output_dir)


def test_a_new_run_begins_at_step_0_and_is_marked_running_only_once_begun(config):
    with open_run(config) as run:
        assert (run.step, run.checkpoint) == (0, None)
        assert read_stage(out(config)) == {}
        assert begin(run, {}) == {}
        stage = read_stage(out(config))
        assert (stage["status"], stage["stage"], stage["seed"], stage["precision"]) == ("running", "sft", 42, "float32")
        assert stage["data"] == INFO["data"]
    assert yaml.safe_load((out(config) / "args.yaml").read_text())["train_data"] == "x.jsonl"
    assert files(out(config)) == {"stage.json", "args.yaml"}  # the lock is gone


def test_the_written_settings_are_read_back_as_settings(config):
    train(config, 0)
    assert SFTConfig.from_yaml(out(config) / "args.yaml") == config


def test_the_same_settings_continue_from_the_newest_checkpoint(config):
    assert train(config, 3) == 0
    assert train(config, 2) == 3
    with open_run(config) as run:
        state = begin(run, {"model": Numbers()})
        assert (run.step, state["step"]) == (5, 5)
        assert run.seconds >= state["seconds"] > 0


def test_an_unfinished_run_without_checkpoint_starts_from_the_beginning(config):
    assert train(config, 0) == 0
    assert train(config, 1) == 0


def test_a_complete_run_is_left_alone(config):
    train(config, 2, finish=True)
    stage = read_stage(out(config))
    assert (stage["status"], stage["step"], stage["metrics"]) == ("complete", 2, {"loss": 1.0})
    before = (out(config) / "stage.json").read_bytes()
    assert train(config, 1) is None
    assert (out(config) / "stage.json").read_bytes() == before


def test_completing_drops_the_cache(config):
    with open_run(config) as run:
        begin(run, {})
        run.cache.mkdir()
        (run.cache / "train.arrow").write_text("rows")
        run.complete()
    assert not (out(config) / "cache").exists()


def test_other_settings_are_refused_and_listed(config):
    train(config, 1)
    other = replace(config, learning_rate=1e-3, batch_size=8)
    with pytest.raises(InputError) as caught, open_run(other):
        pass
    lines = str(caught.value).splitlines()
    assert lines[1:3] == ["  batch_size: 64 → 8", "  learning_rate: 2e-5 → 0.001"]
    assert "run of sft with other settings:" in lines[0]
    assert "--overwrite to start anew" in lines[-1]


def test_a_setting_that_is_newer_than_the_run_had_its_default(config):
    train(config, 1)
    file = out(config) / "args.yaml"
    file.write_text("".join(line for line in file.read_text().splitlines(True) if not line.startswith("seed:")))
    assert train(config, 0) == 1
    with pytest.raises(InputError, match="seed: 42 → 7"), open_run(replace(config, seed=7)):
        pass


def test_a_run_that_kept_its_paths_as_they_were_given_is_continued(config, monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    config = replace(config, model="/home/me/m")
    train(config, 1)
    file = out(config) / "args.yaml"
    file.write_text(file.read_text().replace("/home/me/m", "~/m"))
    assert train(config, 0) == 1


def test_settings_that_say_how_to_start_may_differ(config):
    train(config, 2)
    assert train(replace(config, allow_incomplete=True, resume="auto"), 0) == 2


def test_another_stage_in_the_folder_is_refused(config):
    train(config, 1, finish=True)
    rm = RMConfig(model="m", train_data="x.jsonl", output_dir=config.output_dir, devices="cpu").resolved()
    with pytest.raises(InputError, match=r"run of sft"), open_run(rm):
        pass


def test_a_folder_of_init_is_refused_without_a_traceback(config):
    out(config).mkdir()
    write_stage(out(config), {"status": "complete", "stage": "init"})  # init writes no args.yaml
    (out(config) / "config.json").write_text("{}")
    with pytest.raises(InputError, match="init"), open_run(config):
        pass


def test_foreign_files_are_named_and_kept(config):
    out(config).mkdir()
    for name in ("thesis.tex", "a.txt"):
        (out(config) / name).write_text("mine")
    with pytest.raises(InputError, match=r"did not write \(a.txt, thesis.tex\)"), open_run(config):
        pass
    assert files(out(config)) == {"thesis.tex", "a.txt"}


def test_a_cache_and_a_lock_of_a_run_that_died_early_are_not_foreign(config):
    (out(config) / "cache").mkdir(parents=True)
    (out(config) / ".lock").write_text("")
    assert train(config, 1) == 0


def test_overwrite_deletes_ours_when_training_begins_and_not_before(config):
    train(config, 3, finish=True)
    (out(config) / "model.safetensors").write_text("weights")
    (out(config) / "notes.txt").write_text("mine")
    anew = replace(config, overwrite=True, batch_size=8)
    with open_run(anew) as run:
        assert run.checkpoint is None
        assert read_stage(out(config))["status"] == "complete"  # bad input now costs nothing
        assert (out(config) / "model.safetensors").exists()
        begin(run, {"model": Numbers()})
        assert run.step == 0
        assert files(out(config)) - {".lock"} == {"stage.json", "args.yaml", "notes.txt"}
        assert read_stage(out(config))["status"] == "running"
    assert (out(config) / "notes.txt").read_text() == "mine"


def test_overwrite_in_a_folder_no_stage_wrote_deletes_nothing(config):
    out(config).mkdir()
    (out(config) / "runs").mkdir()
    for name in ("README.md", "model.safetensors", "tokenizer.json", "runs/notes.txt"):
        (out(config) / name).write_text("mine")
    with open_run(replace(config, overwrite=True)) as run:
        begin(run, {})
    for name in ("README.md", "model.safetensors", "tokenizer.json", "runs/notes.txt"):
        assert (out(config) / name).read_text() == "mine"


def test_an_overwriting_run_is_continued_without_the_flag(config):
    train(replace(config, overwrite=True), 2)
    assert train(config, 0) == 2
    assert train(replace(config, overwrite=True), 0) == 0


def test_changed_data_are_refused_when_a_checkpoint_would_be_taken_back(config):
    train(config, 1)
    changed = {**INFO, "data": {"train": {"sha256": "other", "used": 3}}}
    with (
        pytest.raises(
            InputError, match=r"whose rows have changed since it started:\n  the train rows, --train_data x\.jsonl"
        ),
        open_run(config) as run,
    ):
        begin(run, {"model": Numbers()}, changed)
    assert train(config, 0) == 1  # nothing was lost


def test_resume_never_and_resume_path(config):
    train(config, 2)
    assert train(replace(config, resume=str(out(config) / "checkpoints" / "step-1")), 0) == 1
    assert sorted(p.name for p in (out(config) / "checkpoints").iterdir()) == ["step-1"]
    assert train(replace(config, resume="never"), 1) == 0


@pytest.fixture
def branch(config, tmp_path) -> SFTConfig:
    """Settings of a run that goes on from step 2 of another one, with another learning rate."""
    train(config, 3)
    resume = str(out(config) / "checkpoints" / "step-2")
    return replace(config, resume=resume, output_dir=str(tmp_path / "new"), learning_rate=1e-6)


def test_a_checkpoint_is_continued_in_another_folder_with_other_settings(config, branch):
    with open_run(branch) as run:
        assert run.recognise(INFO)
        assert run.beginning() == f"branches from {branch.resume}; settings that differ: learning_rate: 2e-5 -> 1e-6"
    assert train(branch, 3) == 2
    assert read_stage(out(branch))["branched_from"] == branch.resume
    assert train(branch, 0) == 5  # the same command continues it
    moved = out(config).rename(out(config).parent / "moved")  # and knows the checkpoint by its content
    assert train(replace(branch, resume=f"{moved}/checkpoints/step-2"), 0) == 5
    with pytest.raises(InputError, match=f"holds a run that branched from {branch.resume}, not from there"):
        train(replace(branch, resume=f"{moved}/checkpoints/step-3"), 0)
    moved.rename(out(config))
    assert files(out(config) / "checkpoints") == {"step-2", "step-3"}


def test_a_branch_is_of_the_same_rows(branch, monkeypatch):
    monkeypatch.setitem(INFO, "data", {"train": {"sha256": "other", "used": 3}})
    with pytest.raises(InputError, match="its run trains on other rows of --train_data than this one"):
        train(branch, 1)


def test_a_branch_trains_the_same_weights(branch):
    with pytest.raises(InputError, match=r"trains other weights \(lora_r: 0 → 16\)"):
        train(replace(branch, lora_r=16), 1)


def test_a_run_whose_data_have_moved_is_known_by_their_rows(config):
    train(config, 2)
    assert train(replace(config, train_data="moved/y.jsonl"), 1) == 2


def test_a_dry_run_says_what_the_run_would_do(config):
    train(config, 2)
    with open_run(replace(config, dry_run=True)) as run:
        assert run.beginning() == "continues after step-2"
    with pytest.raises(InputError, match="seed: 42 → 7"), open_run(replace(config, dry_run=True, seed=7)):
        pass
    train(config, 1, finish=True)
    with open_run(replace(config, dry_run=True)) as run:
        assert run is None


def test_a_dry_run_says_what_will_be_gone(config):
    train(config, 3)
    for settings, says in (
        ({"resume": "never"}, "from the beginning, without step-2, step-3"),
        ({"resume": str(out(config) / "checkpoints" / "step-2")}, "continues after step-2, without step-3"),
        ({"overwrite": True}, "from the beginning, in place of an unfinished run of sft"),
    ):
        with open_run(replace(config, dry_run=True, **settings)) as run:
            assert run.beginning() == says
    assert files(out(config) / "checkpoints") == {"step-2", "step-3"}


def test_a_dry_run_looks_for_the_best_step_where_the_run_is(config):
    with open_run(config) as run:
        engine = Numbers()
        begin(run, {"model": engine})
        for run.step in (1, 2, 3):
            run.best = {"metric": "eval/loss", "step": 1, "value": 0.5}
            run.save({"model": engine})
    dry = replace(config, dry_run=True)
    with open_run(dry) as run:
        assert run.recognise(INFO) and run.beginning() == "continues after step-3"
    shutil.rmtree(out(config) / "checkpoints" / "step-1")
    found = refusal(config)
    assert "step-1: is missing, and holds the best eval/loss" in found and refusal(dry) == found


def refusal(config, info: dict = INFO) -> str:
    """Why a run cannot begin."""
    with pytest.raises(InputError) as caught, open_run(config) as run:
        run.recognise(info)
    return str(caught.value)


def test_a_dry_run_refuses_in_the_words_of_the_run(config, branch, tmp_path):
    others = {**INFO, "data": {"train": {"sha256": "other", "used": 4}}}
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "thesis.tex").write_text("mine")
    cases = [
        (replace(config, seed=7), INFO, "seed: 42 → 7"),
        (config, others, "3 rows then, 4 now"),
        (replace(config, output_dir=str(tmp_path / "foreign")), INFO, "did not write (thesis.tex)"),
        (replace(branch, lora_r=8), INFO, "trains other weights (lora_r: 0 → 8)"),
        (branch, others, "its run trains on other rows"),
        (replace(branch, resume=f"{tmp_path}/nothing/step-1"), INFO, "not a checkpoint"),
        (
            replace(config, resume=f"{tmp_path}/no/checkpoints/step-1"),
            INFO,
            "began by its",
        ),
        (replace(config, output_dir=str(tmp_path / "foreign" / "thesis.tex")), INFO, "cannot be created (File exists)"),
    ]
    for settings, info, says in cases:
        found = refusal(settings, info)
        assert says in found and refusal(replace(settings, dry_run=True), info) == found
    with open_run(config):
        found = refusal(config)
        assert "another run is working there" in found and refusal(replace(config, dry_run=True)) == found
    before = files(out(config))
    with open_run(replace(config, dry_run=True)):
        assert files(out(config)) == before


def test_a_complete_run_of_other_names_is_done_when_its_rows_are_the_same(config):
    train(config, 1, finish=True)
    other = replace(config, train_data="y.jsonl")
    before = (out(config) / "stage.json").read_bytes()
    with open_run(other) as run:
        assert run.recognise(INFO) is False
        assert run.folder != out(config)
    assert "holds a complete run of sft, whose rows have changed since it started" in refusal(
        other, {**INFO, "data": {"train": {"sha256": "other", "used": 3}}}
    )
    assert (out(config) / "stage.json").read_bytes() == before


def test_a_template_that_was_edited_is_told_from_rows(config):
    train(config, 1)
    stage = read_stage(out(config))
    write_stage(out(config), stage | {"tokenizer": "a", "chat_template": "b"})
    edited = {**INFO, "tokenizer": "a", "chat_template": "c", "data": {"train": {"sha256": "other", "used": 3}}}
    says = "whose tokens have changed since it started:\n  the chat template of --model m\nput them back"
    assert says in refusal(config, edited)


def test_two_processes_cannot_work_in_one_folder(config):
    with open_run(config):
        with pytest.raises(InputError, match="another run is working there"), open_run(config):
            pass
        with pytest.raises(InputError, match="another run is working there"), open_run(replace(config, overwrite=True)):
            pass
    with open_run(config) as run:  # free again
        assert run is not None


def test_a_dry_run_works_elsewhere_and_leaves_nothing(config):
    with open_run(replace(config, dry_run=True)) as run:
        assert run.folder != out(config)
        run.cache.mkdir(parents=True)
        scratch = run.folder
    assert not out(config).exists()
    assert not scratch.exists()


def test_a_failure_says_what_is_safe(config):
    with pytest.raises(RunError, match="No checkpoint had been written yet"), open_run(config) as run:
        begin(run, {})
        raise RunError("boom")
    train(config, 2)
    with pytest.raises(RunError) as caught, open_run(config):
        raise RunError("boom")
    assert str(caught.value).startswith("boom\nSafe on disk: ")
    assert "step-2" in str(caught.value)


def test_a_failure_is_said_where_not_even_the_checkpoints_can_be_listed(config, monkeypatch):
    def fail(folder):
        raise OSError(errno.ENOMEM, "Cannot allocate memory", str(folder))

    with pytest.raises(RunError) as caught, open_run(config):
        monkeypatch.setattr("easyrlhf.run.advice.list_checkpoints", fail)
        raise MemoryError
    assert str(caught.value).startswith("out of memory on cpu: MemoryError\n")
    kept = f"{out(config)}/checkpoints, which could not be listed: Cannot allocate memory"
    assert f"Safe on disk: what is in {kept}. The same command" in str(caught.value)


def test_a_full_disk_while_saving_is_a_run_error(config):
    class FullDisk(Numbers):
        def save(self, folder):
            raise OSError(28, "No space left on device")

    message = r"step-1: could not be written: .*No space left"
    with pytest.raises(RunError, match=message), open_run(config) as run:
        begin(run, {})
        run.step = 1
        run.save({"model": FullDisk()})


@pytest.mark.parametrize(
    "error", [OSError(errno.ENOMEM, "Cannot allocate memory"), MemoryError()], ids=["call", "heap"]
)
def test_memory_that_runs_out_is_a_run_error_with_advice(config, error):
    with pytest.raises(RunError) as caught, open_run(replace(config, micro_batch_tokens=1000)) as run:
        begin(run, {})
        raise error
    text = str(caught.value)
    assert text.startswith(f"out of memory on cpu: {str(error) or 'MemoryError'}\n")
    assert "--micro_batch_tokens 1000 tokens; try --micro_batch_tokens 500" in text
    assert "easyrlhf fit sft --model m says what fits" in text and "No checkpoint had been written yet" in text


def test_another_error_of_the_system_keeps_its_own_words(config):
    with pytest.raises(PermissionError), open_run(config) as run:
        begin(run, {})
        raise OSError(errno.EACCES, "Permission denied")


def test_an_output_dir_that_is_a_file_is_bad_input(config, tmp_path):
    (tmp_path / "out").write_text("a file")
    with pytest.raises(InputError, match="cannot be created"), open_run(config):
        pass


def test_a_broken_stage_file_is_bad_input(config):
    out(config).mkdir()
    (out(config) / "stage.json").write_text('{"status": ')
    with pytest.raises(InputError, match=r"stage.json: is not JSON"), open_run(config):
        pass


def test_every_setting_of_ppo_survives_its_file(tmp_path):
    ppo = PPOConfig(
        model="m",
        train_data="a,b",
        output_dir=str(tmp_path / "out"),
        reward_model="rm",
        kl_target=6.0,
        reward_clip=1e-5,
        devices="cpu",
    ).resolved()
    assert train(ppo, 1) == 0
    assert train(ppo, 0) == 1


# --- stopping


def test_a_stop_request_saves_marks_and_ends_the_run(config):
    with pytest.raises(RunStopped) as caught, open_run(config) as run:
        engine = Numbers()
        begin(run, {"model": engine})
        run.step = engine.number = 4
        run.stop_if_requested({"model": engine}, kl_coef=0.5)  # nothing was requested
        os.kill(os.getpid(), signal.SIGTERM)
        run.stop_if_requested({"model": engine}, kl_coef=0.5)
    assert "Stopped on request after step 4" in str(caught.value)
    stage = read_stage(out(config))
    assert (stage["status"], stage["step"]) == ("stopped", 4)
    state = json.loads((out(config) / "checkpoints" / "step-4" / "state.json").read_text())
    assert state["kl_coef"] == 0.5
    assert train(config, 0) == 4


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_before_training_ends_the_run_at_once(number):
    with pytest.raises(RunStopped, match="before training began"), StopRequest():
        os.kill(os.getpid(), number)


def test_a_signal_during_training_waits_and_a_second_one_does_not():
    with pytest.raises(RunStopped, match="a second time"), StopRequest() as stop:
        stop.holding = True
        os.kill(os.getpid(), signal.SIGINT)
        assert stop.requested
        os.kill(os.getpid(), signal.SIGTERM)


def test_a_stop_request_is_answered_at_once_with_what_another_one_would_lose(config, capfd):
    with pytest.raises(RunStopped, match="lost 2 steps and the one under way"), open_run(config) as run:
        begin(run, {"model": Numbers()})
        run.step = 3
        run.save({"model": Numbers()})
        run.step = 5
        os.kill(os.getpid(), signal.SIGINT)
        checkpoint = out(config) / "checkpoints" / "step-3"
        assert capfd.readouterr().err == (
            "\nSIGINT received: stopping after this step; again stops now and loses 2 steps and the one under way "
            f"({checkpoint} holds the rest)\n"
        )
        os.kill(os.getpid(), signal.SIGINT)


def test_a_closed_terminal_asks_once_however_many_signals_it_sends():
    with StopRequest() as stop:
        stop.holding = True
        for _ in range(3):
            os.kill(os.getpid(), signal.SIGHUP)
        assert stop.requested


def test_a_run_under_nohup_does_not_hear_the_terminal_close():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopRequest() as stop:
            stop.holding = True
            os.kill(os.getpid(), signal.SIGHUP)
            assert not stop.requested
    finally:
        signal.signal(signal.SIGHUP, before)


def test_the_handlers_from_before_come_back():
    before = signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)
    with StopRequest():
        assert signal.getsignal(signal.SIGTERM) != before[0]
    assert (signal.getsignal(signal.SIGTERM), signal.getsignal(signal.SIGINT)) == before
