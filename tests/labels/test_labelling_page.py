"""The path of docs/labelling.md that needs no model, run as it is printed, on the first rows of the file."""

import json
import re
import shlex
from pathlib import Path

from easyrlhf.cli.main import main

ROOT = Path(__file__).parents[2]


def test_the_minute_without_a_model(tmp_path, monkeypatch, capsys):
    page = (ROOT / "docs" / "labelling.md").read_text()
    section = page.partition("## Try it in a minute")[2].partition("\n## ")[0]
    [code], [commands] = (re.findall(rf"```{name}\n(.*?)```", section, flags=re.DOTALL) for name in ("python", "bash"))
    (tmp_path / "judge.py").write_text(code)
    rows = (ROOT / "data" / "toy" / "comparisons_heldout.jsonl").read_text().splitlines()[:60]
    (tmp_path / "data" / "toy").mkdir(parents=True)
    (tmp_path / "data" / "toy" / "comparisons_heldout.jsonl").write_text("\n".join(rows) + "\n")
    monkeypatch.chdir(tmp_path)
    for line in commands.splitlines():
        program, *words = shlex.split(line)
        main.invoke(main.make_context(program, words))()
    said = capsys.readouterr().out
    found = json.loads(Path("outputs/try/agreement.json").read_text())
    assert [(row["name"], row["labels"]) for row in found["annotators"]] == [("import", 60), ("shorter_wins", 60)]
    [row] = found["matrix"]
    assert row["n"] == 60
    exported = [json.loads(line) for line in Path("comparisons.jsonl").read_text().splitlines()]
    assert len(exported) == 60 and all(row["labels"] == 2 for row in exported)
    assert "60 rows read = 60 usable + 0 dropped" in said
