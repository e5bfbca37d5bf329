"""How far labels agree, as lines for the console and as agreement.html."""

from collections.abc import Mapping
from typing import Any

from easyrlhf.report import blocks
from easyrlhf.report.charts import Chart, interval_bars
from easyrlhf.report.text_table import aligned_columns

PART_HEAD = ("labels of", "pairs of labels", "items", "agree", "without ties", "alpha, winner", "alpha, strength")
WHO_HEAD = ("annotator", "labels", "ties", "seconds", "with self", "checks", "first shown", "reliability")
MATRIX_HEAD = ("annotators", "both labelled", "agree", "kappa")
FAILS_CHECKS = 0.8  # where even the upper end of the interval is below, too many checks fail
FEW = 30  # pairs of labels
Names = Mapping[int, str]


def called(row: Mapping[str, Any]) -> str:
    """How an annotator is called where no name may stand."""
    return row["name"] or f"{row['role']} {row['number']}"


def names_of(found: dict[str, Any]) -> Names:
    """Number → how an annotator is called in a file."""
    return {row["number"]: called(row) for row in found["annotators"]}


def percent(part: dict[str, Any] | list[float] | None) -> str:
    """`82.0% (79.1 to 84.6)`; "" for what was not measured."""
    if part is None:
        return ""
    share, (low, high) = (part["share"], part["ci95"]) if isinstance(part, dict) else (part[0], part[1:])
    return f"{share:.1%} ({100 * low:.1f} to {100 * high:.1f})"


def number(value: float | None, shown: str = "{:.3f}") -> str:
    """A number; "" for what was not measured."""
    return "" if value is None else shown.format(value)


def part_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each group of labels."""
    return [
        (
            name,
            f"{part['pairs']:,}",
            f"{part['items']:,}",
            percent(part["agreement"]),
            percent(part["decided"]),
            number(part["alpha_nominal"]),
            number(part["alpha_interval"]),
        )
        for name, part in found["agreement"].items()
    ]


def who_rows(found: dict[str, Any], names: Names) -> list[tuple[str, ...]]:
    """A row for each annotator."""
    return [
        (
            names[row["number"]],
            f"{row['labels']:,}",
            number(row["ties"], "{:.0%}"),
            number(row["seconds"], "{:.1f}"),
            *(percent(row[key]) for key in ("self_agreement", "checks", "position")),
            reliable(row),
        )
        for row in found["annotators"]
    ]


def reliable(row: dict[str, Any]) -> str:
    """`0.92 (0.80 to 1.00)`; "" where it was not measured."""
    if row["reliability"] is None:
        return ""
    low, high = row["reliability_ci95"]
    return f"{row['reliability']:.2f} ({low:.2f} to {high:.2f})"


def matrix_rows(found: dict[str, Any], names: Names) -> list[tuple[str, ...]]:
    """A row for every two annotators."""
    return [
        (
            f"{names[row['first']]}, {names[row['second']]}",
            f"{row['n']:,}",
            percent(row["agreement"]),
            number(row["kappa"]),
        )
        for row in found["matrix"]
    ]


def agreement_lines(found: dict[str, Any], names: Names, width: int | None = None) -> list[str]:
    """The findings as lines of text."""
    lines = [agreement_lead(found), "", *aligned_columns(PART_HEAD, part_rows(found), width), ""]
    lines += [*aligned_columns(WHO_HEAD, who_rows(found, names), width), ""]
    if found["matrix"]:
        lines += [*aligned_columns(MATRIX_HEAD, matrix_rows(found, names), width), ""]
    if found.get("reward_model"):
        lines += [*reward_lines(found["reward_model"]), ""]
    return lines + agreement_remarks(found, names)


def agreement_lead(found: dict[str, Any]) -> str:
    """What to remember."""
    said = f"{found['labels']:,} labels of {found['items']:,} items"
    top = found["ceiling"]
    if top is None:
        return f"{said}; no two annotators have named a winner of the same answers, so there is no agreement to measure"
    low, high = top["ci95"]
    return (
        f"{said}: two labels agree in {top['agreement']:.1%} ({top['of']}), so that one label is right in "
        f"{top['accuracy']:.1%} ({100 * low:.1f} to {100 * high:.1f}) at most, and no reward model can score higher"
    )


def agreement_remarks(found: dict[str, Any], names: Names) -> list[str]:
    """What to know before the numbers are believed."""
    said = []
    if found["ceiling"] is None:
        said.append("easyrlhf label serve --overlap 2 has every item labelled by two")
    elif found["ceiling"]["pairs"] < FEW:
        said.append(
            f"warning: {found['ceiling']['pairs']:,} pairs of labels are few; the intervals say how little they tell"
        )
    rows = [("people", found["position"]), *((names[row["number"]], row["position"]) for row in found["annotators"])]
    for who, part in rows:
        if part and not part["ci95"][0] <= 0.5 <= part["ci95"][1]:
            side = "first" if part["share"] > 0.5 else "second"
            much = f"{percent(part)} of {part['n']:,} labels are for the first"
            said.append(f"warning: {who} chose what was shown {side} too often: {much}")
    for row in found["annotators"]:
        if row["checks"] and row["checks"]["ci95"][1] < FAILS_CHECKS:
            said.append(
                f"warning: {names[row['number']]} passes {percent(row['checks'])} of {row['checks']['n']:,} checks"
            )
    return said


def reward_lines(part: dict[str, Any]) -> list[str]:
    """What a reward model and the labels say of one another."""
    return [
        f"{part['reward_model']} on {part['items']:,} pairs that have a winner:",
        f"  agrees with the majority     {percent(part['majority'])}",
        *(
            [f"  on pairs picked at random    {percent(part['majority_at_random'])}, without bias"]
            if part["majority_at_random"]
            else []
        ),
        f"  agrees with single labels    {percent(part['labels'])}",
        f"  calibration error            {number(part['ece'])}  (chance {number(part['ece_by_chance'])})",
        *(["  left out, too long for it    " + f"{part['left_out']:,}"] if part["left_out"] else []),
    ]


def agreement_page(found: dict[str, Any]) -> str:
    """The whole page, one file that needs no other; people are numbers in it."""
    names = names_of(found)
    said = agreement_remarks(found, names)
    sections = [
        blocks.section("Key numbers", blocks.key_number_block(key_numbers(found))),
        *([blocks.section("What to know", blocks.line_list(said))] if said else []),
        blocks.section("Agreement", blocks.html_table(PART_HEAD, part_rows(found)), note=PART_NOTE),
        *pictures(found, names),
        blocks.section("Annotators", blocks.html_table(WHO_HEAD, who_rows(found, names)), note=WHO_NOTE),
    ]
    if found["matrix"]:
        sections.append(blocks.section("Every two", blocks.html_table(MATRIX_HEAD, matrix_rows(found, names))))
    if found.get("reward_model"):
        sections += reward_sections(found["reward_model"])
    severity = "warn" if any(line.startswith("warning") for line in said) or found["ceiling"] is None else "ok"
    foot = f"Written by easyrlhf {found['easyrlhf_version']}"
    lead = agreement_lead(found)
    return blocks.html_page(
        "How far labels agree", sections, lead=lead, severity=severity, over="easyrlhf · label agree", foot=foot
    )


PART_NOTE = (
    "Two labels agree where they name the same winner, or both a tie. Intervals are of 95 %, of items drawn again. "
    "Alpha is Krippendorff's: 0 is what chance gives, 1 is perfect. Pairs that were picked by reward are easier or "
    "harder than others; those picked at random stand for all."
)
WHO_NOTE = (
    "With self: own pairs that were shown again with the sides changed. Checks: pairs whose better answer is known. "
    "First shown: how often the preferred answer was the one that was shown first, ½ without a bias. Reliability: how "
    "often the annotator is right by the model of Dawid & Skene, which the others' labels decide."
)


def key_numbers(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """The numbers to remember: label, value, note."""
    everyone, top = next(iter(found["agreement"].values())), found["ceiling"]
    rows = [("labels", f"{found['labels']:,}", f"of {found['items']:,} items")]
    if everyone["agreement"]:
        rows.append(("agreement", f"{everyone['agreement'][0]:.1%}", f"of {everyone['pairs']:,} pairs of labels"))
    if everyone["alpha_nominal"] is not None:
        rows.append(("alpha", f"{everyone['alpha_nominal']:.2f}", "of the winner, Krippendorff's"))
    if top:
        low, high = top["ci95"]
        rows.append(("ceiling", f"{top['accuracy']:.1%}", f"{100 * low:.1f} to {100 * high:.1f}, for one label"))
    if found["ties"] is not None:
        rows.append(("ties", f"{found['ties']:.1%}", "of the labels"))
    return rows


def pictures(found: dict[str, Any], names: Names) -> list[str]:
    """Bars of what has intervals."""
    drawn: list[Chart] = []
    bars = [(name, *part["agreement"]) for name, part in found["agreement"].items() if part["agreement"]]
    if bars:
        caption = "How often two labels of the same answers agree. Dashed: a coin."
        drawn.append(interval_bars("agreement", "Agreement", bars, caption, even=0.5, shown="{:.0%}".format))
    pairs = [(f"{names[row['first']]}, {names[row['second']]}", *row["agreement"]) for row in found["matrix"]]
    if 1 < len(pairs) <= 15:
        caption = "The same for every two annotators. One that is low with all others reads the guidelines otherwise."
        drawn.append(interval_bars("matrix", "Every two", pairs, caption, even=0.5, shown="{:.0%}".format))
    return [blocks.section("Pictures", blocks.grid(*map(blocks.chart, drawn)))] if drawn else []


def reward_sections(part: dict[str, Any]) -> list[str]:
    """A reward model beside the labels: numbers, calibration, and where the two disagree most."""
    rows = [(f"{b['predicted']:.0%}", f"{b['observed']:.0%}", f"{b['n']:,}") for b in part["calibration"]]
    said = blocks.line_list(reward_lines(part)[1:])
    table = blocks.html_table(("how sure it is", "how often the majority agrees", "pairs"), rows)
    worst = [
        (
            f"item {one['item']}",
            f"{one['difference']:+.2f}",
            f"{one['share']:.0%}",
            one["prompt"],
            one["prefers"],
            one["over"],
        )
        for one in part["disagreements"]
    ]
    head = ("item", "score difference", "labels for it", "prompt", "it prefers", "labels prefer")
    return [
        blocks.section(f"Reward model {part['reward_model']}", said, table),
        *([blocks.section("Strongest disagreements", blocks.html_table(head, worst))] if worst else []),
    ]
