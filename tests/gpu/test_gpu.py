"""What benchmarks/gpu_check.py finds on a GPU, as tests; skipped where there is none, with the reason.

tests/benchmarks/test_gpu_check.py runs the same code on a CPU.
"""

from pathlib import Path

import pytest
import torch

from easyrlhf.userfile import load_module

REASON = "needs a CUDA device, and torch finds none here"
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not torch.cuda.is_available(), reason=REASON)]
SECTIONS = ["kernel", "equal", "sampling", "toy", "zero", "resume", "oom"]


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    """The first GPU."""
    check = load_module(Path(__file__).parents[2] / "benchmarks" / "gpu_check.py")
    return check, check.Place(torch.device("cuda", 0), "m9", tmp_path_factory.mktemp("gpu"))


@pytest.mark.parametrize("section", SECTIONS)
def test_a_section_finds_nothing_wrong(place, section):
    check, where = place
    rows = check.look(where, [section])
    assert rows
    assert [row for row in rows if row["ok"] is False] == []
