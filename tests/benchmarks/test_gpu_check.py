"""benchmarks/gpu_check.py where there is no GPU: the same code finds nothing wrong, and finds what is broken."""

from pathlib import Path

import pytest
import torch
from click.testing import CliRunner

from easyrlhf.models import prefix_sharing
from easyrlhf.userfile import load_module

CHECK = load_module(Path(__file__).parents[2] / "benchmarks" / "gpu_check.py")


@pytest.fixture
def here(tmp_path):
    """This machine's CPU."""
    return CHECK.Place(torch.device("cpu"), "m9", tmp_path)


def test_numbers_are_as_they_should_be(here):
    rows = CHECK.look(here, ["kernel", "equal", "sampling"])
    assert len(rows) == 9
    assert [row for row in rows if row["ok"] is False] == []


def test_what_is_broken_is_found(here, monkeypatch):
    original = prefix_sharing.attend_completions
    monkeypatch.setattr(prefix_sharing, "attend_completions", lambda *args, **how: original(*args, **how) * 1.001)
    wrong = [row["what"] for row in CHECK.look(here, ["equal"]) if row["ok"] is False]
    assert [what for what in wrong if "sharing on" in what]


def test_attention_written_out_sees_what_is_before_it():
    torch.manual_seed(0)
    query, key, value = torch.randn(3, 2, 4), torch.randn(5, 1, 4), torch.randn(5, 1, 4)
    found = CHECK.attended(query, key, value, [1, 2], [2, 3])
    first = torch.softmax(query[0].double() @ key[:2, 0].double().T / 2, -1) @ value[:2, 0].double()
    second = torch.softmax(query[1].double() @ key[2:4, 0].double().T / 2, -1) @ value[2:4, 0].double()
    torch.testing.assert_close(found[0], first)
    torch.testing.assert_close(found[1], second)


def test_a_failure_is_the_exit_code(monkeypatch, tmp_path):
    def ends(place):
        yield CHECK.Finding("one", 1, True)
        raise RuntimeError("no such kernel")

    monkeypatch.setitem(CHECK.SECTIONS, "kernel", ends)
    done = CliRunner().invoke(CHECK.main, ["--device", "cpu", "--only", "kernel", "--output_dir", str(tmp_path)])
    assert done.exit_code == 1
    assert "FAIL kernel    the section ended: RuntimeError: no such kernel" in done.output
    assert done.output.splitlines()[-1] == "FAIL kernel the section ended"
    assert (tmp_path / "gpu_check.json").exists()


@pytest.mark.slow
def test_a_full_memory_ends_with_advice(here):
    assert [row["ok"] for row in CHECK.look(here, ["oom"])] == [True]
