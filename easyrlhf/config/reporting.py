"""Settings of what leaves the machine: curves to trackers, the finished folder to the Hugging Face hub."""

import difflib
import re
from dataclasses import dataclass
from typing import Any, ClassVar

from easyrlhf.config.base import FREE, RUN, Settings, opt
from easyrlhf.config.lists import split_list
from easyrlhf.config.values import TRUTH
from easyrlhf.errors import SettingError

TRACKERS = ("tensorboard", "wandb", "mlflow", "trackio")  # what report_to may name, one or several of them
NO_TRACKER, EVERY_TRACKER = "none", "all"
PART = r"[A-Za-z0-9_](?:[\w.-]{0,94}[A-Za-z0-9_])?"
REPOSITORY = re.compile(rf"(?:{PART}/)?{PART}", re.ASCII)
ADDRESS = re.compile(r"(?:https?://[^/]+/|hf://)(?:models/)?(?P<name>[^/]+/[^/]+)")


def wrong_tracker(name: str) -> str | None:
    """What is wrong with an item of report_to, and the nearest one where there is one; None if nothing."""
    known = (*TRACKERS, NO_TRACKER, EVERY_TRACKER)
    if name in known:
        return None
    near = difflib.get_close_matches(name.lower(), known, 1, cutoff=0.75)
    return f"must be one or several of {', '.join(TRACKERS)}; or none; or all, which is every one that is installed" + (
        f"; did you mean {near[0]}?" if near else ""
    )


@dataclass(kw_only=True, frozen=True)
class TrackerNames(Settings):
    """Where curves go while a run lasts."""

    group: ClassVar[str] = RUN

    report_to: str = opt(
        TRACKERS[0],
        "Live curves beside metrics.jsonl: TensorBoard files in output_dir/runs, Weights & Biases, MLflow, Trackio, or "
        "several of them; all that are installed; or none.",
        metavar="NAME[,…]|all|none",
        many=True,
        wrong=wrong_tracker,
        on_resume=FREE,
    )


def check_report_to(report_to: str) -> None:
    """Raise SettingError for a tracker that is named twice, and for none or all beside others."""
    names = split_list(report_to)
    if not names:
        raise SettingError("report_to", f"report_to {report_to!r}: names no tracker; write none")
    alone = next((name for name in names if name in (NO_TRACKER, EVERY_TRACKER)), None)
    if len(names) > 1 and (alone or len(set(names)) < len(names)):
        rule = f"{alone} stands alone" if alone else "each tracker once"
        raise SettingError("report_to", f"report_to {report_to}: {rule}")


def wrong_repository(name: str) -> str | None:
    """What is wrong with the name of a repository on the hub, and the right one where it can be guessed."""
    if REPOSITORY.fullmatch(name) and not re.search(r"--|\.\.|\.git$", name) and name.lower() not in TRUTH:
        return None
    rule = "must be the repository: OWNER/NAME, or NAME for one of yours, of letters, digits, _, - and ."
    meant = ADDRESS.match(name)
    return rule + (f"; write {meant['name']}" if meant else "")


def push_to_hub(what: str) -> Any:
    """The setting `push_to_hub`."""
    return opt(
        None,
        f"{what} to this repository of the Hugging Face hub. The token is that of hf auth login or HF_TOKEN; easyrlhf "
        "push does it later.",
        metavar="[OWNER/]NAME",
        shown="nothing is uploaded",
        wrong=wrong_repository,
        on_resume=FREE,
    )


@dataclass(kw_only=True, frozen=True)
class Hub(Settings):
    """Where the finished folder goes."""

    group: ClassVar[str] = RUN

    push_to_hub: str | None = push_to_hub("When the run is complete, upload output_dir, without checkpoints,")
    hub_private: bool = opt(True, "Keep a repository that push_to_hub makes to yourself.", on_resume=FREE)


def check_hub(repository: str | None, private: bool) -> None:
    """Raise SettingError when a repository is to be public and none is given."""
    if repository is None and not private:
        raise SettingError("hub_private", "hub_private false: belongs to push_to_hub, which is not given")
