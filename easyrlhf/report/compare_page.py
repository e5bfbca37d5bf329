"""A comparison of models as lines for the console and as compare.html."""

from collections.abc import Sequence
from typing import Any

from easyrlhf.report import blocks
from easyrlhf.report.charts import interval_bars
from easyrlhf.report.comparison import JUDGE, ComparedAnswer, JudgeVerdict, decided, rate_with_interval, score_gap
from easyrlhf.report.text_table import aligned_columns
from easyrlhf.report.verdict import SEVERITIES

PAIR_HEAD = ("model", "by", "win rate", "at equal length", "won/tied/lost", "longer wins", "score difference")
CUT_OFF = 0.2  # share of answers cut off from which it is worth a word
MOST_SAMPLES = 4  # of each kind


def compare_lines(found: dict[str, Any], width: int | None = None) -> list[str]:
    """The numbers as lines of text: models, comparisons, the judge, and what to know about them; tables as `columns`
    has them."""
    lines = [f"{found['prompts']:,} prompts, {found['samples']:,} to each of {len(found['models'])} models", ""]
    lines += [*aligned_columns(model_head(found), model_rows(found), width), ""]
    lines += [*aligned_columns(PAIR_HEAD, pair_rows(found), width), ""]
    return [*lines, *comparison_remarks(found)]


def model_head(found: dict[str, Any]) -> tuple[str, ...]:
    """The columns of `model_rows`: a score has one of its own."""
    return ("model", "answers", "finished", "empty", "characters", *found["models"][0]["scores"], "KL, nats an answer")


def model_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model."""
    return [
        (
            entry["model"],
            f"{entry['answers']:,}",
            f"{entry['finished']:.0%}",
            f"{entry['empty']:,}",
            f"{entry['characters']['mean']:.0f}",
            *map(signed, entry["scores"].values()),
            signed(entry["kl"]),
        )
        for entry in found["models"]
    ]


def pair_rows(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """A row for each model but the first and each judge."""
    return [
        (entry["model"], entry["by"], *pair_cells(entry))
        if entry["n"]
        else (entry["model"], entry["by"], *[""] * (len(PAIR_HEAD) - 2))
        for entry in found["comparisons"]
    ]


def pair_cells(entry: dict[str, Any]) -> tuple[str, ...]:
    """The numbers of one comparison."""
    equal, longer = entry["length_controlled"], entry["longer_wins"]
    return (
        rate_with_interval(entry["win_rate"], entry["ci95"]),
        rate_with_interval(equal["win_rate"], equal["ci95"]) if equal else "",
        f"{entry['wins']:,}/{entry['ties']:,}/{entry['losses']:,}",
        "" if longer is None else f"{longer:.0%}",
        signed(entry["difference"]),
    )


def signed(part: dict[str, Any] | None) -> str:
    """`+0.51 (+0.32 to +0.70)`; "" for what was not measured."""
    if part is None:
        return ""
    low, high = part["ci95"]
    return f"{part['mean']:+.2f}" + (f" ({low:+.2f} to {high:+.2f})" if low is not None else "")


def comparison_remarks(found: dict[str, Any]) -> list[str]:
    """What to know before the numbers are believed."""
    said = [f"no KL of {entry['model']}: {entry['kl_why']}" for entry in found["models"] if entry["kl_why"]]
    if judge := found["judge"]:
        agreement = "" if judge["agreement"] is None else f"its two orders agree in {judge['agreement']:.1%}; "
        said.append(
            f"{JUDGE} {found['judge_name']}: {judge['asked']:,} of {judge['pairs']:,} pairs asked; {agreement}"
            f"{judge['unreadable']:,} could not be read, {judge['identical']:,} were twice the same text"
        )
    for entry in found["models"]:
        if 1 - entry["finished"] > CUT_OFF:
            said.append(
                f"warning: {1 - entry['finished']:.0%} of the answers of {entry['model']} were cut off at "
                "--max_new_tokens, and are judged as they are"
            )
    for entry in found["comparisons"]:
        if entry["left_out"]:
            said.append(
                f"warning: {entry['left_out']:,} pairs of {entry['model']} are left out by {entry['by']}: too long for "
                "it, without a score, or not to be read"
            )
    return said


def pairs_to_read(
    answers: Sequence[Sequence[ComparedAnswer]], verdicts: Sequence[Sequence[JudgeVerdict]] | None, by: str
) -> dict[str, list[tuple[int, int]]]:
    """Pairs worth reading, by what they show: (number of the model, number of the answer), each pair once.

    By score, those with the largest gaps and the smallest; by the judge, the first of each kind. Equal texts are left
    out.
    """
    gaps = {}
    for k, own in enumerate(answers[1:], 1):
        for i, (theirs, ours) in enumerate(zip(answers[0], own, strict=True)):
            gap = score_gap(by, theirs, ours) if by != JUDGE else preference(verdicts[k - 1][i])
            if gap is not None and theirs.text != ours.text:
                gaps[k, i] = gap
    order = sorted(gaps, key=gaps.get)
    better = [pair for pair in reversed(order) if gaps[pair] > 0][:MOST_SAMPLES]
    worse = [pair for pair in order if gaps[pair] < 0][:MOST_SAMPLES]
    rest = sorted(set(gaps) - set(better) - set(worse), key=lambda pair: (abs(gaps[pair]), pair))
    return {"better": better, "worse": worse, "alike": rest[:MOST_SAMPLES]}


def preference(verdict: JudgeVerdict) -> float | None:
    """A verdict as a number that is positive for the model."""
    return None if verdict.prefers is None else verdict.prefers - 0.5


def compare_page(
    found: dict[str, Any],
    prompts: Sequence[str],
    answers: Sequence[Sequence[ComparedAnswer]],
    verdicts: Sequence[Sequence[JudgeVerdict]] | None,
) -> str:
    """The whole page, one file that needs no other.

    found     what compare.json holds
    prompts   [P] the texts of the prompts
    answers   [M][N], verdicts [M - 1][N], as in `measured`
    """
    severity, lead = worst_of_comparisons(found)
    sections = [
        blocks.section("Key numbers", blocks.key_number_block(comparison_numbers(found))),
        blocks.section("Verdicts", blocks.line_list(found["verdicts"])),
        *charts_section(found),
        blocks.section("Pairs", blocks.html_table(PAIR_HEAD, pair_rows(found)), note=f"Against {found['first']}."),
        blocks.section("Models", blocks.html_table(model_head(found), model_rows(found))),
    ]
    if said := comparison_remarks(found):
        sections.append(blocks.section("What to know", blocks.line_list(said)))
    sections += sample_sections(found, prompts, answers, verdicts)
    settings = [(name, "" if value is None else str(value)) for name, value in found["settings"].items()]
    fold = blocks.fold(f"{len(settings)} settings", blocks.html_table(("setting", "value"), settings))
    return blocks.html_page(
        f"{' and '.join(found['names'][1:])} against {found['first']}",
        [*sections, blocks.section("Settings", fold)],
        lead=lead,
        severity=severity,
        over="easyrlhf · compare",
        foot=f"Written by easyrlhf {found['easyrlhf_version']}",
    )


def worst_of_comparisons(found: dict[str, Any]) -> tuple[str, str]:
    """The worst severity of the comparisons (ok: the model surely wins; warn: nothing can be told, or there is a
    warning; alarm: it surely loses), and a sentence that carries it."""
    judged = [severity_of(entry) for entry in found["comparisons"]]
    worst = min(judged, key=SEVERITIES.index)
    verdict, others = found["verdicts"][judged.index(worst)], len(judged) - 1
    lead = f"{verdict[0].upper() if verdict.startswith('no') else verdict[0]}{verdict[1:]}."
    lead += f" {others} more {'verdict' if others == 1 else 'verdicts'} below." if others else ""
    warned = [said for said in comparison_remarks(found) if said.startswith("warning: ")]
    if worst == "ok" and warned:
        return "warn", f"{lead} But {warned[0].removeprefix('warning: ')}."
    return worst, lead


def severity_of(entry: dict[str, Any]) -> str:
    """How bad one comparison is for the model that is compared with the first."""
    said = decided(entry["ci95"]) if entry["n"] else 0
    equal = entry.get("length_controlled") if entry["n"] else None
    if said > 0 and equal and decided(equal["ci95"]) < 0:  # it wins by length alone
        return "warn"
    return ("warn", "ok", "alarm")[said]


def comparison_numbers(found: dict[str, Any]) -> list[tuple[str, str, str]]:
    """Win rates by the first judge, and KL: (label, value, note)."""
    numbers, by = [], found["comparisons"][0]["by"]
    for entry in found["comparisons"]:
        if entry["n"] and entry["by"] == by:
            rates = {f"{entry['model']} wins, by {entry['by']}": entry}
            rates |= {"… at equal length": equal} if (equal := entry["length_controlled"]) else {}
            for label, rate in rates.items():
                share, low, high = in_percent(rate)
                numbers.append((label, f"{share:.1f} %", f"95 % interval {low:.1f} to {high:.1f}"))
    for entry in found["models"][1:]:
        if entry["kl"]:
            numbers.append((f"KL of {entry['model']}", f"{entry['kl']['mean']:.2f}", f"nats, from {found['first']}"))
    if found["judge"] and found["judge"]["agreement"] is not None:
        numbers.append(("judge's orders agree", f"{100 * found['judge']['agreement']:.0f} %", found["judge_name"]))
    return numbers


def charts_section(found: dict[str, Any]) -> list[str]:
    """Win rates and, side by side, what was measured of each model."""
    entries = [entry for entry in found["comparisons"] if entry["n"]]
    bars = [(f"{entry['model']}\nby {entry['by']}", *in_percent(entry)) for entry in entries]
    note = "Share of pairs won against the first model, ties one half, with 95 % intervals; 50 % is no difference."
    shares = {"even": 50.0, "shown": "{:.1f} %".format}
    drawn = [interval_bars("win_rates", "Win rate", bars, note, **shares)] if bars else []
    bars = [
        (f"{entry['model']}\nby {entry['by']}", *in_percent(equal))
        for entry in entries
        if (equal := entry["length_controlled"])
    ]
    if bars:
        drawn.append(
            interval_bars(
                "equal", "Win rate at equal length", bars, "The same, had the answers equal lengths.", **shares
            )
        )
    measures = [(f"score/{name}", f"Score: {name}", "scores", name) for name in found["models"][0]["scores"]]
    measures += [
        ("characters", "Length of answers, characters", "characters", None),
        ("kl", "KL, nats an answer", "kl", None),
    ]
    for name, title, field, key in measures:
        parts = [(entry["model"], entry[field][key] if key else entry[field]) for entry in found["models"]]
        bars = [(model, part["mean"], *part["ci95"]) for model, part in parts if part and part["ci95"][0] is not None]
        if bars:
            drawn.append(interval_bars(name, title, bars, "Means with 95 % intervals."))
    return [blocks.section("Pictures", blocks.grid(*map(blocks.chart, drawn)))] if drawn else []


def in_percent(rate: dict[str, Any]) -> tuple[float, ...]:
    """A win rate and the ends of its interval."""
    return tuple(100 * share for share in (rate["win_rate"], *rate["ci95"]))


def sample_sections(
    found: dict[str, Any],
    prompts: Sequence[str],
    answers: Sequence[Sequence[ComparedAnswer]],
    verdicts: Sequence[Sequence[JudgeVerdict]] | None,
) -> list[str]:
    """Pairs where the models differ most, either way, and least."""
    by = found["comparisons"][0]["by"]
    titles = {
        "better": f"Better than {found['first']}",
        "worse": f"Worse than {found['first']}",
        "alike": "Hardly told apart",
    }
    sections = []
    for kind, pairs in pairs_to_read(answers, verdicts, by).items():
        items = []
        for k, i in pairs:
            shown = [(0, answers[0][i], ""), (k, answers[k][i], judged(verdicts, k, i))]
            said = [(found["names"][m], answer.text, answer_marks(answer, word)) for m, answer, word in shown]
            items.append((prompts[answers[k][i].prompt], said))
        if items:
            sections.append(blocks.section(titles[kind], blocks.samples(items), note=f"By {by}."))
    return sections


def judged(verdicts: Sequence[Sequence[JudgeVerdict]] | None, k: int, i: int) -> str:
    """What the judge said of an answer of model k."""
    if verdicts is None or verdicts[k - 1][i].prefers is None:
        return ""
    verdict = verdicts[k - 1][i]
    word = "wins" if verdict.prefers > 0.5 else "loses" if verdict.prefers < 0.5 else "tie"
    return f"judge: {word}" + (", its orders disagree" if verdict.agree is False else "")


def answer_marks(answer: ComparedAnswer, word: str) -> str:
    """The line below an answer."""
    scores = [f"{name} {score:+.2f}" for name, score in answer.scores.items() if score is not None]
    cut = [] if answer.finished else ["cut off"]
    return " · ".join([*scores, f"{len(answer.text):,} characters", *cut, *([word] if word else [])])
