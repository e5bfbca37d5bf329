"""Checkpoints: whole or invisible, and the newest one found."""

import json
import os
import zlib

import pytest
import torch

from easyrlhf.errors import InputError, RunError
from easyrlhf.run.checkpoint import (
    find_checkpoint,
    list_checkpoints,
    load_checkpoint,
    remove_checkpoints_after,
    save_checkpoint,
)


class Numbers:
    """Stands for an engine: what it saves is one number."""

    def __init__(self, number: int = 0):
        self.number = number

    def save(self, folder):
        folder.mkdir(parents=True)
        (folder / "number").write_text(str(self.number))

    def load(self, folder):
        self.number = int((folder / "number").read_text())


class FullDisk(Numbers):
    """Stands for an engine that dies in the middle of writing."""

    def save(self, folder):
        super().save(folder)
        raise OSError(28, "No space left on device")


def names(folder) -> list[str]:
    return sorted(path.name for path in (folder / "checkpoints").iterdir())


def save(folder, step, number=0, keep=2, **state):
    return save_checkpoint(folder, step, {"model": Numbers(number)}, state, keep)


def test_state_engines_and_random_numbers_come_back(tmp_path):
    torch.manual_seed(3)
    torch.rand(5)
    saved = save_checkpoint(tmp_path, 4, {"a": Numbers(7), "b": Numbers(8)}, {"kl_coef": 0.1}, keep=2)
    expected = torch.rand(3)
    a, b = Numbers(), Numbers()
    torch.manual_seed(99)
    state = load_checkpoint(saved, {"a": a, "b": b})
    assert state == {"step": 4, "kl_coef": 0.1}
    assert (a.number, b.number) == (7, 8)
    assert torch.equal(torch.rand(3), expected)


def test_the_newest_are_kept_by_number_not_by_name(tmp_path):
    for step in (8, 9, 10):
        save(tmp_path, step)
    assert names(tmp_path) == ["step-10", "step-9"]
    assert find_checkpoint(tmp_path, "auto")[0].name == "step-10"


def test_a_save_that_fails_leaves_nothing_and_keeps_the_last_one(tmp_path):
    save(tmp_path, 1, number=11)
    with pytest.raises(RunError, match=r"step-2: could not be written: .*No space left"):
        save_checkpoint(tmp_path, 2, {"model": FullDisk()}, {}, keep=1)
    assert names(tmp_path) == ["step-1"]
    engine = Numbers()
    load_checkpoint(find_checkpoint(tmp_path, "auto")[0], {"model": engine})
    assert engine.number == 11


def test_a_half_written_checkpoint_is_never_found_and_is_written_anew(tmp_path):
    save(tmp_path, 1)
    half = tmp_path / "checkpoints" / ".step-2"  # what a killed process leaves
    (half / "model").mkdir(parents=True)
    (half / "model" / "number").write_text("6")
    (half / "state.json").write_text('{"step": 2, "files": {}}')
    assert [path.name for path in list_checkpoints(tmp_path)] == ["step-1"]
    assert find_checkpoint(tmp_path, "auto")[0].name == "step-1"
    save(tmp_path, 2, number=22)
    assert names(tmp_path) == ["step-1", "step-2"]
    assert (tmp_path / "checkpoints" / "step-2" / "model" / "number").read_text() == "22"


def test_a_checkpoint_appears_with_all_its_files(tmp_path):
    class Watching(Numbers):
        def save(self, folder):
            super().save(folder)
            assert list_checkpoints(tmp_path) == []  # not before everything is written

    save_checkpoint(tmp_path, 3, {"model": Watching(5)}, {"x": 1}, keep=2)
    files = {str(p.relative_to(tmp_path)) for p in tmp_path.rglob("*") if p.is_file()}
    place = "checkpoints/step-3"
    assert files == {f"{place}/model/number", f"{place}/rng-0.safetensors", f"{place}/state.json"}
    state = json.loads((tmp_path / place / "state.json").read_text())
    assert (state["step"], state["x"]) == (3, 1)
    assert state["files"].keys() == {"model/number", "rng-0.safetensors"}
    assert state["files"]["model/number"] == f"{zlib.crc32(b'5'):08x}"


def test_everybody_may_read_a_checkpoint_as_far_as_new_files_go(tmp_path):
    class Private(Numbers):
        def save(self, folder):
            super().save(folder)
            (folder / "number").chmod(0o600)  # as safetensors leaves what it writes

    before = os.umask(0o022)
    try:
        saved = save_checkpoint(tmp_path, 3, {"model": Private(5)}, {}, keep=2)
    finally:
        os.umask(before)
    assert {path.stat().st_mode & 0o777 for path in saved.rglob("*") if path.is_file()} == {0o644}


def test_a_step_saved_twice_stays_as_it_was_first(tmp_path):
    save(tmp_path, 1, number=1)
    save(tmp_path, 1, number=2)
    assert (tmp_path / "checkpoints" / "step-1" / "model" / "number").read_text() == "1"


def test_find_checkpoint_auto_never_and_path(tmp_path):
    assert find_checkpoint(tmp_path, "auto") == (None, [])
    first = save(tmp_path, 1)
    save(tmp_path, 2)
    assert find_checkpoint(tmp_path, "auto")[0].name == "step-2"
    assert find_checkpoint(tmp_path, "never") == (None, [])
    assert find_checkpoint(tmp_path, str(first)) == (first, [])
    for wrong in (tmp_path, tmp_path / "checkpoints" / "step-7", tmp_path / "checkpoints"):
        with pytest.raises(InputError) as caught:
            find_checkpoint(tmp_path, str(wrong))
        assert f"--resume {wrong}: not a checkpoint" in str(caught.value)


def test_a_checkpoint_of_another_stage_is_bad_input(tmp_path):
    saved = save_checkpoint(tmp_path, 1, {"model": Numbers()}, {}, keep=2)  # as sft and rm write it
    with pytest.raises(InputError, match="checkpoint"):
        load_checkpoint(saved, {"policy": Numbers(), "value": Numbers()})


def test_going_back_behind_a_checkpoint_deletes_it(tmp_path):
    for step in (1, 2, 3):
        save(tmp_path, step, keep=5)
    remove_checkpoints_after(tmp_path, 1)
    assert names(tmp_path) == ["step-1"]
    remove_checkpoints_after(tmp_path, 0)
    assert names(tmp_path) == []


# --- damage


def spoil(checkpoint, name="model/number"):
    (checkpoint / name).write_text("8")  # as long as what was there


def test_a_damaged_newest_checkpoint_is_passed_over_and_said(tmp_path):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    spoil(second)
    assert find_checkpoint(tmp_path, "auto") == (
        first,
        [f"{second}: is damaged: model/number is not as it was written"],
    )


@pytest.mark.parametrize(
    "break_it, why",
    [
        (lambda folder: (folder / "model" / "number").unlink(), "model/number is missing"),
        (lambda folder: (folder / "state.json").write_text('{"step": 2, '), "state.json cannot be read"),
        (lambda folder: (folder / "state.json").unlink(), "state.json cannot be read"),
    ],
)
def test_every_kind_of_damage_is_found(tmp_path, break_it, why):
    first, second = save(tmp_path, 1), save(tmp_path, 2)
    break_it(second)
    found, passed_over = find_checkpoint(tmp_path, "auto")
    assert found == first
    assert why in passed_over[0]


def test_when_no_checkpoint_is_whole_the_run_does_not_begin_anew_by_itself(tmp_path):
    for step in (1, 2):
        spoil(save(tmp_path, step))
    with pytest.raises(InputError, match="no checkpoint is whole; restore one, or start anew with --resume never"):
        find_checkpoint(tmp_path, "auto")
    assert names(tmp_path) == ["step-1", "step-2"]


def test_a_damaged_checkpoint_that_was_asked_for_is_refused(tmp_path):
    saved = save(tmp_path, 1)
    spoil(saved)
    with pytest.raises(InputError, match=f"--resume {saved}: is damaged: model/number is not as it was written"):
        find_checkpoint(tmp_path, str(saved))
