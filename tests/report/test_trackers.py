"""Trackers: what arrives in each, by value; one that fails costs itself alone; what is said before training."""

import json
import sys
import time
import types
from pathlib import Path

import pytest

from easyrlhf.errors import InputError
from easyrlhf.report.log import MetricsLog, read_rows
from easyrlhf.report.trackers import chosen
from easyrlhf.report.trackers.chosen import CLASSES, Trackers, check_trackers, is_installed, tracker_names
from easyrlhf.report.trackers.tracker import TrackedRun, Tracker, as_markdown

SETTINGS = {"learning_rate": 0.5, "model": "outputs/sft", "lora_r": 0, "gradient_checkpointing": True, "field": None}
ABOUT = {"stage": "ppo", "settings": SETTINGS, "results": ("objective/kl", "loss")}
SAMPLE = {"prompt": "Why?\n# So", "completion": "<b>Because</b>", "score": 1.5, "kl": None, "finished": True}
SAMPLE_TEXT = "**1.** score +1.500\n\nprompt:\n\n    Why?\n    # So\n\ncompletion:\n\n    <b>Because</b>\n"


class Kept(Tracker):
    """Keeps in memory what it is told; raises at the calls that `faults` names."""

    packages = ("pytest",)
    told: list
    faults: tuple = ()

    def __init__(self, run):
        self._take("open", run.given)
        self.where = f"kept: {run.folder.name}"

    def scalars(self, step, row):
        self._take("scalars", (step, row))

    def samples(self, step, rows):
        self._take("samples", (step, rows))

    def close(self, complete):
        self._take("close", complete)

    def _take(self, call, what):
        if call in self.faults:
            raise OSError("no such\nserver")
        self.told.append((call, what))


@pytest.fixture
def kept(monkeypatch):
    """Two fakes in place of wandb and mlflow: name → class."""
    fakes = {name: type(name, (Kept,), {"told": []}) for name in ("wandb", "mlflow")}
    monkeypatch.setattr(chosen, "CLASSES", CLASSES | fakes)
    return fakes


def run_of_two_steps(folder, report_to, said=None, last_step=0, steps=(1, 2), complete=True):
    """Log loss = step / 10 and one sample at each step."""
    say = [(lambda line: None) if said is None else said.append] * 2
    log = MetricsLog(folder, last_step=last_step, report_to=report_to, about=ABOUT, say=tuple(say))
    for step in steps:
        log.log(step, {"loss": step / 10})
        log.samples(step, [SAMPLE])
    log.close(complete)


def test_several_trackers_get_settings_numbers_and_samples(kept, tmp_path):
    said = []
    run_of_two_steps(tmp_path / "ppo", "mlflow,wandb", said)
    given = {"stage": "ppo"} | {name: value for name, value in SETTINGS.items() if value is not None}
    numbers = [[("scalars", (step, {"loss": step / 10})), ("samples", (step, [SAMPLE]))] for step in (1, 2)]
    wanted = [("open", given), *numbers[0], *numbers[1], ("close", True)]
    assert kept["wandb"].told == kept["mlflow"].told == wanted
    assert said == ["kept: ppo", "kept: ppo"]


@pytest.mark.parametrize("fault, left", [("open", []), ("scalars", ["open"]), ("samples", ["open", "scalars"])])
def test_a_tracker_that_fails_costs_itself_alone_and_one_line(kept, tmp_path, fault, left):
    kept["wandb"].faults, said = (fault,), []
    run_of_two_steps(tmp_path / "ppo", "wandb,mlflow", said)
    assert [call for call, _ in kept["wandb"].told] == left
    assert len(kept["mlflow"].told) == 6
    assert [line for line in said if "nothing more" in line] == [
        "wandb gets nothing more of this run (OSError: no such server); metrics.jsonl has every number"
    ]
    assert [row["loss"] for row in read_rows(tmp_path / "ppo" / "metrics.jsonl")] == [0.1, 0.2]


def test_a_run_that_stops_is_closed_as_one_that_is_not_complete(kept, tmp_path):
    with pytest.raises(KeyboardInterrupt), MetricsLog(tmp_path, report_to="wandb", about=ABOUT) as log:
        log.log(1, {"loss": 0.5})
        raise KeyboardInterrupt
    assert kept["wandb"].told[-1] == ("close", False)
    with MetricsLog(tmp_path, report_to="mlflow", about=ABOUT):
        pass
    assert kept["mlflow"].told[-1] == ("close", True)


def test_a_tracker_that_cannot_be_closed_does_not_fail_a_finished_run(kept, tmp_path):
    kept["wandb"].faults, said = ("close",), []
    run_of_two_steps(tmp_path, "wandb", said)
    assert said[-1].startswith("wandb gets nothing more of this run (OSError")


@pytest.mark.parametrize("name", ["wandb", "mlflow", "trackio"])
def test_a_tracker_is_asked_for_only_when_it_is_there(monkeypatch, tmp_path, name):
    monkeypatch.chdir(tmp_path)
    (tmp_path / name).mkdir()  # what an earlier run leaves is not the package
    monkeypatch.setattr("importlib.metadata.version", not_installed)
    with pytest.raises(
        InputError, match=rf"--report_to {name},none.*{name} package is not installed; pip install {name}"
    ):
        check_trackers(f"{name},none")


def test_all_are_those_that_are_installed(monkeypatch):
    monkeypatch.setattr(
        "importlib.metadata.version", lambda name: not_installed(name) if name != "mlflow-skinny" else "3"
    )
    assert tracker_names("all") == ("mlflow",)
    assert tracker_names("none") == ()
    assert tracker_names("trackio, wandb") == ("trackio", "wandb")


def test_what_a_tracker_says_of_itself_is_an_error_before_training(kept, monkeypatch):
    monkeypatch.setattr(kept["wandb"], "check", lambda: 1 / 0)
    with pytest.raises(InputError, match=r"--report_to wandb: wandb cannot be used now \(ZeroDivisionError: division"):
        check_trackers("wandb")


def test_a_continued_run_goes_on_under_its_name_and_a_new_one_does_not(tmp_path):
    TrackedRun(tmp_path).keep("wandb", "abc")
    assert TrackedRun(tmp_path, last_step=3).known("wandb") == "abc"
    assert TrackedRun(tmp_path).known("wandb") is None
    assert TrackedRun(tmp_path, last_step=3).known("mlflow") is None


def test_no_tracker_gets_a_password(tmp_path):
    settings = {"reward_url": "http://me:secret@host:80/score,https://other/x", "judge": "a@b", "seed": 1}
    assert TrackedRun(tmp_path, "ppo", settings).given == {
        "stage": "ppo",
        "reward_url": "http://…@host:80/score,https://other/x",
        "judge": "a@b",
        "seed": 1,
    }


def test_samples_are_markdown_in_which_no_text_is_markup():
    assert as_markdown([SAMPLE]) == SAMPLE_TEXT


def not_installed(name):
    from importlib.metadata import PackageNotFoundError

    raise PackageNotFoundError(name)


def needs(name):
    """Skip a test, with the reason, where the real library is not there."""
    return pytest.mark.skipif(
        not is_installed(name), reason=f"{name} is not installed; scripts/test_trackers.sh has it"
    )


def test_tensorboard_shows_the_continued_run_without_its_lost_steps(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    for steps, last_step, shift in (([1, 2, 3], 0, 0.0), ([3], 2, 5.0)):
        log = MetricsLog(tmp_path, last_step=last_step)
        for step in steps:
            log.log(step, {"loss": step + shift})
        log.close()
    events = EventAccumulator(str(tmp_path / "runs")).Reload().Scalars("loss")
    assert [(event.step, event.value) for event in events] == [(1, 1.0), (2, 2.0), (3, 8.0)]


def test_tensorboard_has_the_samples_and_the_settings(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator
    from tensorboard.plugins.hparams.plugin_data_pb2 import HParamsPluginData

    run_of_two_steps(tmp_path, "tensorboard")
    events = EventAccumulator(str(tmp_path / "runs")).Reload()
    texts = events.Tensors("samples/text_summary")
    assert [(text.step, text.tensor_proto.string_val[0].decode()) for text in texts] == [
        (1, SAMPLE_TEXT),
        (2, SAMPLE_TEXT),
    ]
    content = events.summary_metadata["_hparams_/session_start_info"].plugin_data.content
    hparams = HParamsPluginData.FromString(content).session_start_info.hparams
    assert {name: value.string_value or value.number_value for name, value in hparams.items()} == {
        "stage": "ppo",
        "learning_rate": 0.5,
        "model": "outputs/sft",
        "lora_r": 0.0,
        "gradient_checkpointing": 1.0,
    }
    content = events.summary_metadata["_hparams_/experiment"].plugin_data.content
    compared = HParamsPluginData.FromString(content).experiment.metric_infos
    assert [metric.name.tag for metric in compared] == ["objective/kl", "loss"]


@needs("mlflow")
def test_mlflow_keeps_one_run_over_a_stop(tmp_path, monkeypatch):
    from mlflow import MlflowClient

    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/mlflow.db")
    monkeypatch.setenv("MLFLOW_EXPERIMENT_NAME", "mine")
    monkeypatch.chdir(tmp_path)
    check_trackers("mlflow")
    run_of_two_steps(tmp_path / "ppo", "mlflow", said := [], complete=False)
    client, known = MlflowClient(), (tmp_path / "ppo" / "runs" / "mlflow_id").read_text()
    assert client.get_run(known).info.status == "KILLED"
    run_of_two_steps(tmp_path / "ppo", "mlflow", said, last_step=2, steps=(3,))
    assert not [line for line in said if "nothing more" in line]
    (run,) = client.search_runs([client.get_experiment_by_name("mine").experiment_id])
    assert (run.info.run_name, run.info.status) == ("ppo", "FINISHED")
    assert [(m.step, m.value) for m in client.get_metric_history(run.info.run_id, "loss")] == [
        (1, 0.1),
        (2, 0.2),
        (3, 0.3),
    ]
    assert run.data.params == {
        "stage": "ppo",
        "learning_rate": "0.5",
        "model": "outputs/sft",
        "lora_r": "0",
        "gradient_checkpointing": "True",
    }
    text = client.download_artifacts(run.info.run_id, "samples/step-00000003.md", str(tmp_path))
    assert Path(text).read_text() == SAMPLE_TEXT


@needs("mlflow")
def test_an_mlflow_server_that_is_not_there_is_said_before_training(monkeypatch):
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:9")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with pytest.raises(InputError, match=r"--report_to mlflow: mlflow cannot be used now \(MlflowException"):
        check_trackers("mlflow")


@needs("trackio")
def test_trackio_keeps_one_run_over_a_stop(tmp_path, monkeypatch, capsys):
    from trackio.sqlite_storage import SQLiteStorage

    monkeypatch.setenv("TRACKIO_PROJECT", "mine")
    check_trackers("trackio")
    run_of_two_steps(tmp_path / "ppo", "trackio", said := [])
    run_of_two_steps(tmp_path / "ppo", "trackio", said, last_step=2, steps=(3,))
    name = (tmp_path / "ppo" / "runs" / "trackio_id").read_text()
    assert said == [f"trackio: run {name}; trackio show --project mine"] * 2
    rows = SQLiteStorage.get_logs("mine", name)
    assert [(row["step"], row["loss"]) for row in rows if "loss" in row] == [(1, 0.1), (2, 0.2), (3, 0.3)]
    texts = [(row["step"], row["samples"]["_value"]) for row in rows if "samples" in row]
    assert texts == [(step, SAMPLE_TEXT) for step in (1, 2, 3)]
    config = SQLiteStorage.get_run_config("mine", name)
    assert (config["stage"], config["learning_rate"], "field" in config) == ("ppo", 0.5, False)
    assert capsys.readouterr().out == ""


@needs("wandb")
def test_wandb_keeps_one_run_over_a_stop(tmp_path, monkeypatch):
    import wandb

    monkeypatch.setenv("WANDB_MODE", "offline")
    wandb.teardown()  # what this process knew of settings
    check_trackers("wandb")
    run_of_two_steps(tmp_path / "ppo", "wandb", said := [])
    run_of_two_steps(tmp_path / "ppo", "wandb", said, last_step=2, steps=(3,))
    assert said == []
    name = (tmp_path / "ppo" / "runs" / "wandb_id").read_text()
    sittings = sorted((tmp_path / "ppo" / "runs" / "wandb").glob(f"offline-run-*-{name}"))
    assert len(sittings) == 2
    wanted, deadline, found = [[(1, 0.1), (2, 0.2)], [(3, 0.3)]], time.monotonic() + 20, None
    while found != wanted and time.monotonic() < deadline:  # another process writes the files, perhaps a little later
        found = [wandb_rows(next(folder.glob("*.wandb"))) for folder in sittings]
    assert found == wanted
    table = json.loads(next(sittings[1].rglob("samples*.table.json")).read_text())
    assert dict(zip(table["columns"], table["data"][0], strict=True)) == SAMPLE


def wandb_rows(file):
    """(step, loss) of the rows of a file that wandb has written offline."""
    from wandb.proto.wandb_internal_pb2 import Record

    data, place, rows, record = file.read_bytes(), 7, [], b""
    while place < len(data):  # a log of LevelDB: checksum, length, kind (1 whole, 2 first, 3 middle, 4 last), bytes
        size, kind = int.from_bytes(data[place + 4 : place + 6], "little"), data[place + 6]
        record += data[place + 7 : place + 7 + size]
        place += 7 + size
        if kind in (1, 4):
            items = Record.FromString(record).history.item
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in items}
            rows += [(row["step"], row["loss"])] if "loss" in row else []
            record = b""
    return rows


@needs("wandb")
def test_wandb_without_an_account_is_said_before_training(monkeypatch, tmp_path):
    import wandb

    wandb.teardown()
    for name in ("WANDB_API_KEY", "WANDB_MODE"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("NETRC", str(tmp_path / "none"))
    monkeypatch.setenv("WANDB_CONFIG_DIR", str(tmp_path))
    with pytest.raises(InputError, match=r"--report_to wandb: wandb cannot be used now .*No API key"):
        check_trackers("wandb")


def test_wandb_is_told_the_run_of_before(monkeypatch, tmp_path):
    calls = []
    run = types.SimpleNamespace(
        define_metric=lambda *a, **k: calls.append(("axis", a, k)),
        log=lambda row: calls.append(("log", row)),
        finish=lambda exit_code: calls.append(exit_code),
    )
    wandb = types.ModuleType("wandb")
    wandb.init = lambda **how: calls.append(how) or run
    monkeypatch.setitem(sys.modules, "wandb", wandb)
    monkeypatch.setenv("WANDB_PROJECT", "mine")
    for last_step in (0, 2):
        trackers = Trackers("wandb", TrackedRun(tmp_path / "sft", "sft", {"seed": 1}, last_step=last_step))
        trackers.scalars(last_step + 1, {"loss": 0.5})
        trackers.close(complete=last_step == 2)
    first, again = (call for call in calls if isinstance(call, dict))
    assert first == again and len(first["id"]) == 8
    assert (first["project"], first["name"], first["config"]) == ("mine", "sft", {"stage": "sft", "seed": 1})
    assert ("log", {"step": 3, "loss": 0.5}) in calls and [call for call in calls if isinstance(call, int)] == [1, 0]
