"""Private memory of processes under FSDP2: a part of the model, from the disk to the disk."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

BENCHMARK = Path(__file__).parents[2] / "benchmarks" / "fsdp_memory.py"
WHOLE = (2 * 4000 * 640 + 4 * (2 * 640 * 640 + 2 * 640 * 320 + 3 * 640 * 1920 + 2 * 640) + 640) * 4 / 2**20


@pytest.mark.distributed
@pytest.mark.slow
def test_no_process_holds_the_whole_model_while_it_is_read_or_written(tokenizer, tmp_path):
    tokenizer.save_pretrained(tmp_path / "start")
    flags = {"start": tmp_path / "start", "output_dir": tmp_path / "out", "processes": 2}
    flags |= {"vocabulary": 4000, "layers": 4}
    words = [str(word) for name, value in flags.items() for word in (f"--{name}", value)]
    subprocess.run([sys.executable, BENCHMARK, *words], check=True, capture_output=True)
    for found in json.loads((tmp_path / "out" / "2.json").read_text()):
        assert found["loading"] <= 0.5 * WHOLE + 20
        assert found["loading a frozen one"] <= 0.5 * WHOLE + 20
        assert found["the first pass"] <= 0.85 * WHOLE  # embeddings and head, together, and a layer: no more
        assert found["the model folder"] <= 0.5 * WHOLE + 45  # a file, and a tensor and what it is put together from
