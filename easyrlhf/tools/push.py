"""easyrlhf push: a finished folder, of a stage or not, to the Hugging Face hub."""

from pathlib import Path

from easyrlhf.config.reporting import wrong_repository
from easyrlhf.errors import InputError
from easyrlhf.run.manifest import require_whole
from easyrlhf.run.upload import check_push, push

MODELS = ("config.json", "adapter_config.json")


def push_run(folder: str, repository: str, private: bool) -> None:
    """Upload a folder with a model or an adapter; prints where to.

    Raises InputError for a folder without one or whose run is not complete, and when the hub would not take it;
    RunError when the upload fails.
    """
    if wrong := wrong_repository(repository):
        raise InputError(f"REPO {repository}: {wrong}")
    path = Path(folder)
    if not any((path / name).is_file() for name in MODELS):
        there = f"has neither {' nor '.join(MODELS)}" if path.is_dir() else "no such folder"
        raise InputError(f"DIR {folder}: {there}; give the output folder of a run, of easyrlhf export, or an adapter")
    require_whole("DIR", folder)
    check_push("REPO", repository, private)
    print(f"uploaded to {push(path, repository, private)}")
