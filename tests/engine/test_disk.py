"""A disk that takes nothing: one message whatever library says it; and files that others may read."""

import errno
import os

import pytest
from safetensors import SafetensorError

from easyrlhf.errors import InputError, RunError
from easyrlhf.files import atomic_write, drafted_in, is_full_disk, make_world_readable, write_whole, written_to

NO_SPACE = "No space left on device (os error 28)"
ERRORS = {
    "the system": OSError(errno.ENOSPC, "No space left on device", "/x/y"),
    "safetensors": SafetensorError(f'Error while serializing: I/O error: "{NO_SPACE}"'),
    "tokenizers": Exception(NO_SPACE),
    "torch's zip files": RuntimeError("[enforce fail at inline_container.cc:858] . PytorchStreamWriter failed writing"),
    "a limit": OSError(errno.EFBIG, "File too large"),
    "a quota": OSError(errno.EDQUOT, "Disk quota exceeded"),
}


@pytest.mark.parametrize("error", ERRORS.values(), ids=ERRORS.keys())
def test_a_full_disk_is_one_line_with_its_way_out(tmp_path, error):
    assert is_full_disk(error)
    with pytest.raises(RunError) as found, written_to(tmp_path / "model", "The rest is safe"):
        raise error
    said = (getattr(error, "strerror", None) or str(error))[:200]
    assert str(found.value) == f"{tmp_path}/model: could not be written: {said}; make room there. The rest is safe"


def test_a_disk_that_may_not_be_written_has_another_way_out(tmp_path):
    with pytest.raises(RunError, match=r"Read-only file system; see that it can be written$"), written_to(tmp_path):
        raise OSError(errno.EROFS, "Read-only file system")


@pytest.mark.parametrize("error", [InputError("bad"), RunError("no space left"), ValueError("a shape"), KeyError("x")])
def test_what_is_no_fault_of_the_disk_goes_through(tmp_path, error):
    with pytest.raises(type(error)) as found, written_to(tmp_path):
        raise error
    assert found.value is error


@pytest.mark.parametrize("mask, mode", [(0o022, 0o644), (0o002, 0o664), (0o077, 0o600)])
def test_files_get_the_mode_that_new_files_have(tmp_path, mask, mode):
    (tmp_path / "inside").mkdir()
    file = tmp_path / "inside" / "a"
    file.touch(0o600)
    before = os.umask(mask)
    try:
        make_world_readable(tmp_path)
    finally:
        os.umask(before)
    assert file.stat().st_mode & 0o777 == mode


def test_a_file_is_as_it_was_until_its_successor_is_whole(tmp_path):
    file = tmp_path / "numbers.json"
    file.write_text("old")
    with atomic_write(file, to_disk=True) as draft:
        draft.write_text("new")
        assert draft == tmp_path / ".numbers.json" and file.read_text() == "old"
    assert file.read_text() == "new"
    with pytest.raises(KeyboardInterrupt), atomic_write(file) as draft:
        draft.write_text("half")
        raise KeyboardInterrupt
    assert file.read_text() == "new" and list(tmp_path.iterdir()) == [file]


def test_text_that_no_encoding_takes_is_written_with_a_mark_in_its_place(tmp_path):
    write_whole(tmp_path / "page", "a\ud800é\n")
    assert (tmp_path / "page").read_bytes() == "a?é\n".encode()


def test_the_files_of_a_folder_move_in_together_or_none_does(tmp_path):
    for name in ("model-1-of-2.safetensors", "notes.txt"):
        (tmp_path / name).write_text("old")
    failing = pytest.raises(RunError, match=r"could not be written: full; see .* written\. All is safe$")
    with failing, drafted_in(tmp_path, ".new", "All is safe", replaced=["*.safetensors"]) as draft:
        draft.mkdir()
        (draft / "model.safetensors").write_text("half")
        raise OSError(errno.EIO, "full")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model-1-of-2.safetensors", "notes.txt"]
    with drafted_in(tmp_path, ".new", replaced=["*.safetensors"]) as draft:
        draft.mkdir()
        (draft / "model.safetensors").write_text("new")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["model.safetensors", "notes.txt"]
