"""docs/first_hour.ipynb is docs/first_hour.md, and runs from its first cell to its last."""

import json
import os
import re
import sys
from pathlib import Path

import pytest

from easyrlhf.userfile import load_module

ROOT = Path(__file__).parents[1]
PAGE, NOTEBOOK = (ROOT / "docs" / f"first_hour.{ending}" for ending in ("md", "ipynb"))
SMALL = {
    "data/toy/sft.jsonl.gz": "data/toy/sft_heldout.jsonl",
    "data/toy/comparisons.jsonl.gz": "data/toy/comparisons_heldout.jsonl",
    '"data/toy/prompts_heldout.jsonl"': "[[{'role': 'user', 'content': 'Name an animal.'}]]",
    "--valid 0.02": "--valid 0.05",
}
STEPS = {
    "sft_train": "--max_steps 3",
    "rm_train": "--max_steps 3 --examine_rows 2",
    "ppo_train": "--max_steps 1 --batch_size 8",
    "dpo_train": "--max_steps 2",
}


def test_the_notebook_is_made_of_the_page():
    maker = load_module(ROOT / "scripts" / "make_notebook.py")
    assert NOTEBOOK.read_text(encoding="utf-8") == maker.as_file(PAGE.read_text(encoding="utf-8")), (
        "python scripts/make_notebook.py writes it anew"
    )


def test_its_cells_hold_the_whole_page():
    cells = json.loads(NOTEBOOK.read_text(encoding="utf-8"))["cells"]
    code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
    text = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "markdown"]
    assert code[0] == "%pip install easyrlhf" and code[1].startswith("%%bash\nset -e\neasyrlhf recipes --copy .\n")
    words = "\n".join([*text, *code]).replace("%%bash\nset -e\n", "").replace("%pip", "pip")
    page = re.sub(r"^```\w*\n", "", PAGE.read_text(encoding="utf-8"), flags=re.MULTILINE)
    assert sorted(words.split()) == sorted(page.split())


def small(source: str) -> str:
    """The code of a cell on few rows and for few steps."""
    for given, less in SMALL.items():
        source = source.replace(given, less)
    return re.sub(r"^(\w+_train) .*", lambda line: f"{line[0]} {STEPS[line[1]]} --report_to none", source, flags=re.M)


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_it_runs_from_the_first_cell_to_the_last(tmp_path, monkeypatch):
    import nbformat
    from nbclient import NotebookClient

    book = nbformat.read(NOTEBOOK, as_version=4)
    nbformat.validate(book)
    book.cells = [cell for cell in book.cells if not cell.source.startswith("%pip")]
    for cell in book.cells:
        cell.source = small(cell.source) if cell.cell_type == "code" else cell.source
    monkeypatch.setenv("PATH", f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    monkeypatch.setenv("EASYRLHF_CACHE", str(tmp_path / ".cache"))
    NotebookClient(book, timeout=600, resources={"metadata": {"path": str(tmp_path)}}).execute()
    said = "".join(out.get("text", "") for cell in book.cells if cell.cell_type == "code" for out in cell.outputs)
    for words in ("train: 190 rows read", "ppo complete", "dpo complete", "reward ", "Count to four. → ", "win rate"):
        assert words in said, words
    assert (tmp_path / "outputs" / "compare" / "compare.html").exists()
