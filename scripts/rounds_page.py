"""The last page of scripts/iterate.sh: score, agreement, ceiling and KL of every round, in rounds.html and printed."""

import json
from pathlib import Path
from typing import Any

import click

from easyrlhf.files import atomic_write
from easyrlhf.report import blocks
from easyrlhf.report.charts import interval_bars
from easyrlhf.report.text_table import markdown_table

PAGE = "rounds.html"
NOTE = (
    "Scores are by the reward model of the last round, and by whatever judges --compare_config names, on held-out "
    "prompts, so that the policies of all rounds are measured alike. The ceiling is the accuracy of one label: the "
    "most that a reward model can reach on such labels. Agreement needs two who label the same."
)


@click.command(help=__doc__)
@click.option("--output_dir", type=click.Path(path_type=Path), required=True)
@click.option("--rounds", type=int, required=True)
def main(output_dir: Path, rounds: int):
    """Read what the rounds left, write the page, print the table."""
    folders = [output_dir / f"round-{number}" for number in range(1, rounds + 1)]
    compared = read(folders[-1] / "compare" / "compare.json")
    agreements = [read(folder / "labels" / "agreement.json") for folder in folders]
    head, rows = table(compared, agreements)
    with atomic_write(output_dir / PAGE) as draft:
        draft.write_text(page(compared, head, rows), encoding="utf-8")
    print(markdown_table(head, rows) + f"\n{output_dir / PAGE}")


def read(file: Path) -> dict[str, Any]:
    """A file of JSON."""
    return json.loads(file.read_text(encoding="utf-8"))


def table(compared: dict[str, Any], agreements: list[dict[str, Any]]) -> tuple[tuple[str, ...], list[tuple[str, ...]]]:
    """Head and rows: the SFT model, then the policy of every round beside what the labels of its round say."""
    judges = list(compared["models"][0]["scores"])
    head = ("", "labels", "agreement", "ceiling", *(f"mean {name}" for name in judges), "beats SFT", "KL from SFT")
    won = {entry["model"]: entry.get("win_rate") for entry in compared["comparisons"] if entry["by"] == judges[0]}
    rows = []
    for number, (model, labels) in enumerate(zip(compared["models"], [None, *agreements], strict=True)):
        scores = [mean_of(model["scores"][name], "+.3f") for name in judges]
        rate = won.get(model["model"])
        name, beats = (f"round {number}", share(rate)) if number else ("SFT", "")
        rows.append((name, *label_cells(labels), *scores, beats, mean_of(model["kl"], ".2f") if number else ""))
    return head, rows


def label_cells(labels: dict[str, Any] | None) -> tuple[str, str, str]:
    """How many labels a round has, how far they agree, and what that limits."""
    if labels is None:
        return "", "", ""
    ceiling = labels["ceiling"]
    return (
        f"{labels['labels']:,}",
        share(labels["agreement"]["everyone"]["agreement"]),
        share(ceiling and ceiling["accuracy"]),
    )


def share(value: float | None) -> str:
    """In per cent; a dash for none."""
    return "–" if value is None else f"{value:.1%}"


def mean_of(interval: dict[str, Any] | None, form: str) -> str:
    """A mean with its 95 % interval; a dash for none."""
    if interval is None:
        return "–"
    low, high = interval["ci95"]
    return f"{interval['mean']:{form}} ({low:{form}} to {high:{form}})"


def page(compared: dict[str, Any], head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """The page: a picture of each judge's scores, and the table."""
    names = [row[0] for row in rows]
    drawn = []
    for judge in compared["models"][0]["scores"]:
        found = [model["scores"][judge] for model in compared["models"]]
        bars = [(name, one["mean"], *one["ci95"]) for name, one in zip(names, found, strict=True) if one]
        drawn.append(blocks.chart(interval_bars(judge, f"Mean {judge}", bars, "Means and 95 % intervals.")))
    sections = [
        blocks.section("Rounds", blocks.html_table(head, rows), note=NOTE),
        blocks.section("Scores on held-out prompts", blocks.grid(*drawn)),
        blocks.section("Verdicts", blocks.line_list(compared["verdicts"])),
    ]
    rounds = len(rows) - 1
    lead = f"{rounds} round{'s' if rounds > 1 else ''} of sampling, labelling and training."
    return blocks.html_page("Preferences in rounds", sections, lead=lead, over="easyrlhf · iterate")


if __name__ == "__main__":
    main()
