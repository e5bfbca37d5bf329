"""Models that a tool may read though their run has not ended: their newest checkpoint becomes a folder for a while."""

import atexit
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from easyrlhf.files import written_to
from easyrlhf.run.manifest import STAGE_FILE, STATE, is_unfinished
from easyrlhf.run.unfinished import Stand, stand_in

_made: dict[Path, TemporaryDirectory] = {}  # checkpoint → where its model lies until this process ends
_stands: dict[tuple[str, bool], Stand | None] = {}  # path, whether its run is unfinished → what it stands for


def at_hand(flag: str, path: str, *, allow_incomplete: bool) -> str:
    """The folder or hub id to read for a model's path: its own, or a folder made of the checkpoint it stands for.

    Raises InputError for an unfinished run that may not be taken, RunError when there is no room for its model.
    """
    stand = stand_of(flag, path, allow_incomplete=allow_incomplete)
    return str(stand_folder(stand) / stand.part) if stand else path


def stand_of(flag: str, path: str, *, allow_incomplete: bool) -> Stand | None:
    """As stand_in, the same answer as long as this process and the run both go on."""
    known = str(Path(path).absolute()), is_unfinished(path)
    if known not in _stands:
        _stands[known] = stand_in(flag, path, allow_incomplete=allow_incomplete)
    return _stands[known]


def state_file(path: str) -> Path:
    """The file that tells one state of a model's folder from another: stage.json, or that of a checkpoint."""
    stand = stand_of("", path, allow_incomplete=True)
    return stand.checkpoint / STATE if stand else Path(path) / STAGE_FILE


def stand_folder(stand: Stand) -> Path:
    """The folder of a checkpoint's model, made when it is asked for first."""
    place = stand.checkpoint.resolve()
    if place not in _made:
        from easyrlhf.stages.restored import write_restored

        print("\n".join([*(f"warning: {line}" for line in stand.passed_over), f"note: {stand}"]), file=sys.stderr)
        made = TemporaryDirectory(prefix=f"{stand.run.resolve().name}-{place.name}-")
        atexit.register(made.cleanup)
        with written_to(Path(made.name), "The run is as it was; TMPDIR names another place for what lasts a while"):
            write_restored(stand.run, stand.checkpoint, Path(made.name))
        _made[place] = made
    return Path(_made[place].name)
