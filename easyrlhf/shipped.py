"""What comes with the package beside its code: settings files, toy data, pages of documentation.

In a checkout they lie where README.md says, in configs/, data/ and docs/; setup.py puts them into an installed package.
"""

import filecmp
import shutil
from pathlib import Path

from easyrlhf.errors import InputError

PACKAGE = Path(__file__).parent
TO_COPY = ("configs/**/*.*", "data/README.md", "data/toy/*.*", "scripts/quickstart_report.py")
OTHER_PAGES = {"readme": "README.md", "formats": "data/README.md", "toy": "data/toy/README.md"}


def root() -> Path:
    """The folder that holds configs/, data/ and docs/."""
    installed = PACKAGE / "files"
    return installed if installed.is_dir() else PACKAGE.parent


def settings_files() -> dict[str, Path]:
    """Every settings file by its name without folder and ending, stages first: "ppo", "toy_ppo", "zero2"."""
    patterns = ("configs/*.yaml", "configs/recipes/*.yaml", "configs/deepspeed/*.json")
    return {file.stem: file for pattern in patterns for file in sorted(root().glob(pattern))}


def pages() -> dict[str, Path]:
    """Every page of documentation by the name that `easyrlhf docs` takes."""
    own = {file.stem: file for file in sorted(root().glob("docs/*.md")) if file.stem != "README"}
    return {name: root() / path for name, path in OTHER_PAGES.items()} | own


def files_to_copy() -> list[str]:
    """What a folder needs for the commands of the quickstart, as paths below `root`."""
    found = {file for pattern in TO_COPY for file in root().glob(pattern) if file.is_file()}
    return sorted(file.relative_to(root()).as_posix() for file in found)


def copy_files(folder: Path) -> list[Path]:
    """Copy settings files and toy data below a folder; what is there already with the same content is left alone.

    Raises InputError, before anything is copied, for files that are there with another content.
    """
    targets = {name: folder / name for name in files_to_copy()}
    there = [target for name, target in targets.items() if target.exists()]
    changed = [str(target) for target in there if not same(root() / target.relative_to(folder), target)]
    if changed:
        more = f" and {len(changed) - 3} more" if len(changed) > 3 else ""
        raise InputError(
            f"--copy {folder}: {', '.join(changed[:3])}{more} would be replaced by another file; give another folder, "
            "or move what is there"
        )
    try:
        for name, target in targets.items():
            if target not in there:
                target.parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(root() / name, target)
    except OSError as error:
        raise InputError(f"--copy {folder}: cannot be written ({error.strerror}); give another folder") from error
    return list(targets.values())


def same(one: Path, other: Path) -> bool:
    """Whether both are files of the same bytes."""
    return other.is_file() and filecmp.cmp(one, other, shallow=False)


def how_to_get(path: str | Path) -> str:
    """What to add to the message that a file is missing: how to get it, where the package brings it along; else ""."""
    name = Path(path).as_posix().removeprefix("./")
    return "; easyrlhf recipes --copy . brings it" if name in files_to_copy() else ""
