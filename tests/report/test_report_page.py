"""Plots, report.html and the model card of small hand-made stage folders."""

import json
import re
from html.parser import HTMLParser

import pytest

from easyrlhf.report import blocks, charts
from easyrlhf.report.html import before_and_after, shortened_lines, write_report
from easyrlhf.report.log import MetricsLog
from easyrlhf.report.plots import charts as charts_of
from easyrlhf.report.plots import plot_run
from easyrlhf.report.rm_eval import rm_evaluation
from easyrlhf.report.transcript import call_text, transcript, transcript_lines

pytestmark = pytest.mark.usefixtures("pictures")

EVIL = "<script>alert('x')</script> & \"quotes\""
INFO = {
    "base": "Qwen/Qwen2.5-0.5B",
    "parents": {"model": "outputs/sft", "reward_model": None},
    "data": {"train": {"files": ["a.jsonl"], "read": 10, "used": 7, "dropped": {"over length": 3}}},
    "wall_seconds": 245.0,
    "easyrlhf_version": "0.1.0",
    "libraries": {"torch": "2.13.0"},
}
VOID = {"meta", "img", "br"}


class Balance(HTMLParser):
    """Collects what would make a page broken: tags left open, scripts, addresses outside it."""

    def __init__(self):
        super().__init__()
        self.open, self.tags, self.addresses = [], [], []

    def handle_starttag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.tags.append(tag)
        self.addresses += [v for k, v in attrs if k in ("src", "href", "xlink:href")]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag


@pytest.fixture
def ppo(tmp_path):
    folder = tmp_path / "ppo"
    log = MetricsLog(folder, report_to="none")
    for step in range(1, 9):
        log.log(step, {"objective/scores": step / 8, "objective/kl": step / 2, "kl_coef": 0.05})
    for step, answer in ((0, "before"), (4, "between"), (8, f"after {EVIL}")):
        log.samples(
            step,
            [
                {
                    "prompt": f"p {EVIL}",
                    "completion": answer,
                    "score": 1.5,
                    "kl": -0.2,
                    "total": 1.51,
                }
            ],
        )
    log.close()
    return folder


@pytest.fixture
def rm(tmp_path):
    folder = tmp_path / "my_rm"
    log = MetricsLog(folder, report_to="none")
    for step in range(1, 4):
        log.log(step, {"loss": 0.7 / step, "rewards/accuracies": 0.6})
    log.log(4, {"loss": 0.1, "eval/rewards/accuracies": 0.75, "eval/length_baseline_accuracy": 0.5})
    log.close()
    found = rm_evaluation([2, 1, 3, 0], [1, 0, 2, 1], [4, 5, 6, 7], [5, 5, 5, 5])
    (folder / "rm_eval.json").write_text(json.dumps(found))
    return folder


def test_ppo_plots_reward_against_kl_and_only_what_was_logged(ppo):
    names = [path.name for path in plot_run(ppo, "ppo")]
    assert names == ["reward_kl.png", "score.png", "kl.png"]
    for name in names:
        assert (ppo / "plots" / name).read_bytes().startswith(b"\x89PNG")


def test_the_reward_models_examination_becomes_three_plots(rm):
    names = {path.stem for path in plot_run(rm, "rm")}
    assert {"scores", "length_gap", "calibration", "accuracy", "loss"} <= names


def test_a_folder_without_a_row_has_no_plot_and_still_a_report(tmp_path):
    assert plot_run(tmp_path, "sft") == []
    page = write_report(tmp_path, stage="sft", settings={}, info={}).read_text()
    assert "No step has been logged yet." in page


def test_the_report_is_one_balanced_file_without_scripts_or_outside_addresses(ppo):
    page = write_report(ppo, stage="ppo", settings={"model": EVIL}, info=INFO).read_text()
    parser = Balance()
    parser.feed(page)
    assert parser.open == []
    assert "script" not in parser.tags and "link" not in parser.tags
    assert all(address.startswith(("#", "data:")) for address in parser.addresses)
    assert "@import" not in page and "url(http" not in page


def test_the_reports_texts_are_escaped(ppo):
    page = write_report(ppo, stage="ppo", settings={"model": EVIL}, info=INFO).read_text()
    assert "<script" not in page
    assert page.count("&lt;script&gt;alert") == 3  # prompt, completion, setting


def test_the_report_shows_the_first_and_the_last_answer_and_the_balance_of_rows(ppo):
    page = write_report(ppo, stage="ppo", settings={}, info=INFO).read_text()
    assert 0 < page.index("step 0") < page.index("step 8")
    assert "between" not in page
    assert "score +1.50 · kl -0.20 · total +1.51" in page
    assert "10 rows read = 7 used + 3 dropped" in page
    assert "4 min 05 s" in page


def test_the_reward_models_report_gives_its_interval(rm):
    page = write_report(rm, stage="rm", settings={}, info=INFO).read_text()
    assert "<h1>Reward model: my_rm</h1>" in page
    # 3 of 4: (0.75 + 3.8415/8 ± 1.96 √(0.046875 + 3.8415/64)) / (1 + 3.8415/4)
    assert "95% interval 30.1% to 95.4%, 4 pairs" in page


def test_control_characters_do_not_stand_in_a_page():
    shown = blocks.samples([("a\x00b\x1b[31m\r\nnew\tline\u202eturned", [("step 1", "👩\u200d💻\x9b ü", "")])])
    assert "a�b�[31m\nnew\tline�turned" in shown and "👩\u200d💻� ü" in shown


def test_a_flag_is_one_piece():
    flag = '<span class="flag">--max_prompt_length</span>'
    assert f"raise {flag}, or" in blocks.section("s", note="raise --max_prompt_length, or")
    assert flag in blocks.line_list(["--max_prompt_length"]) and flag in blocks.html_table(
        (), [("--max_prompt_length",)]
    )
    assert "span" not in blocks.line_list(["a --- b, well--known, −−x"])


def test_a_short_cell_is_never_broken_and_a_long_one_may_be():
    assert '<td class="short">+18.500</td><td></td>' in blocks.html_table((), [("+18.500", "")])
    assert f"<td>{'x' * 25}</td>" in blocks.html_table((), [("x" * 25,)])


def drawn_bars(bars, **how):
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    charts.interval_bars("a", "A", bars, **how).draw(axes)
    return axes


def test_the_label_of_a_negative_bar_stands_beyond_its_interval():
    axes = drawn_bars([("x", -2.0, -3.0, -1.0), ("y", 1.0, 0.5, 1.5)])
    places = [(label.xy[0], label.get_ha(), label.get_text()) for label in axes.texts]
    assert places == [(-3.0, "right", "-2.00"), (1.5, "left", "1.00")]
    # a fifth of the axis and a little more beyond both ends, where the labels are
    assert axes.get_xlim() == pytest.approx((-3 - 0.22 * 4.5, 1.5 + 0.22 * 4.5))
    assert drawn_bars([("x", -2.0, -3.0, -1.0)]).get_xlim() == pytest.approx((-3.66, 0.0))
    assert drawn_bars([("x", 0.0, 0.0, 0.0)]).get_xlim() == pytest.approx((0.0, 0.22))


def test_a_line_marks_no_difference():
    axes = drawn_bars([("x", 63.0, 57.0, 68.0)], even=50.0, shown="{:.1f} %".format)
    assert [list(line.get_xdata()) for line in axes.lines if line.get_linestyle() == "--"] == [[50.0, 50.0]]
    assert axes.texts[0].get_text() == "63.0 %"


def test_no_text_of_a_chart_is_small_where_the_page_is_narrow(rm, ppo):
    """A page of 400 px leaves a chart 342 px; the picture is 316.8 points wide."""
    for folder, stage in ((rm, "rm"), (ppo, "ppo")):
        for chart in charts_of(folder, stage):
            svg = chart.svg()
            width = float(re.search(r'viewBox="0 0 ([0-9.]+) ', svg)[1])
            sizes = [float(size) for size in re.findall(r"font(?:-size)?: [^;\"]*?([0-9.]+)px", svg)]
            assert sizes and min(sizes) * 342 / width >= 10, chart.name


def test_charts_in_a_page_take_its_colours_and_names():
    chart = charts.interval_bars("gold", "Gold <score>", [("a & b", 0.5, 0.4, 0.6)])
    svg = chart.svg()
    assert svg.startswith('<svg role="img" aria-label="Gold &lt;score&gt;" viewBox=')
    assert "var(--series-0)" in svg and not re.findall(r"#[0-9a-f]{6}", svg)
    assert "a &amp; b" in svg and ">0.50<" in svg


def test_two_charts_in_a_page_do_not_share_an_id_for_different_things():
    first = charts.interval_bars("a", "A", [("x", 0.5, 0.4, 0.6)]).svg()
    second = charts.interval_bars("b", "B", [("x", 3.0, 2.0, 4.0), ("y", 1.0, 0.5, 1.5)]).svg()
    shared = set(re.findall(r' id="([^"]+)"', first)) & set(re.findall(r' id="([^"]+)"', second))
    for name in shared:
        pattern = rf'<(\w+)[^>]* id="{name}".*?</\1>|<[^>]* id="{name}"[^>]*/>'
        assert re.search(pattern, first, re.S)[0] == re.search(pattern, second, re.S)[0]


def test_a_healthy_band_does_not_stretch_the_axes():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set_ylim(2.0, 6.0)
    charts.band(axes, 0.0, 15.0)
    assert axes.get_ylim() == (2.0, 6.0)
    (shaded,) = axes.patches
    assert (shaded.get_y(), shaded.get_y() + shaded.get_height()) == (2.0, 6.0)


def test_a_band_that_ends_at_zero_stops_at_zero():
    from matplotlib.figure import Figure

    axes = Figure().add_subplot()
    axes.set_ylim(-1.0, 1.0)
    charts.band(axes, None, 0.0)
    (shaded,) = axes.patches
    assert (shaded.get_y(), shaded.get_y() + shaded.get_height()) == (-1.0, 0.0)


def test_a_running_mean_keeps_a_line_straight():
    assert charts.smoothed([1.0, 2.0, 3.0, 4.0]) == [1.5, 2.0, 3.0, 3.5]


def test_a_long_series_is_thinned_to_means_of_stretches():
    steps, series = charts.thinned(list(range(1000)), [0.0, 2.0] * 500)
    assert steps[:3] == [0, 2, 4] and series == [1.0] * 500


def test_samples_of_one_step_are_shown_once():
    rows = [{"step": 3, "prompt": "p", "completion": "c", "score": 0.5, "kl": None}]
    assert before_and_after(rows) == [("p", [("step 3", "c", "score +0.50")])]


CALL = {"type": "function", "function": {"name": "add", "arguments": {"a": 3, "word": "<b>"}}}
EPISODE = [
    {"role": "assistant", "content": "Let me see.", "reasoning_content": "Hm.", "tool_calls": [CALL, CALL]},
    {"role": "tool", "name": "add", "content": "7"},
    {"role": "tool", "content": '{"error": "<no>"}'},
    {"role": "user", "content": "Well?"},
    {"role": "assistant", "content": ""},
]


def test_an_episode_is_read_line_by_line():
    assert [tuple(line) for line in transcript_lines(EPISODE)] == [
        ("assistant", "(Hm.)", "thought"),
        ("assistant", "Let me see.", "assistant"),
        ("assistant", '→ add(a=3, word="<b>")', "call"),
        ("assistant", '→ add(a=3, word="<b>")', "call"),
        ("tool add", "7", "tool"),
        ("tool", '{"error": "<no>"}', "tool"),
        ("user", "Well?", "user"),
        ("assistant", "", "assistant"),
    ]
    assert transcript(EPISODE[3:]) == "user: Well?\nassistant: "
    assert transcript([{"role": "assistant", "content": "Yes."}, EPISODE[3]]) == "Yes.\nuser: Well?"
    assert call_text({"name": "now", "arguments": None}) == "now()"
    assert call_text({"name": "say", "arguments": '{"a": 1}'}) == 'say({"a": 1})'


def episode_row(step: int, **more) -> dict:
    row = {"step": step, "prompt": "user: Go.", "completion": "text", "score": 1.0, "kl": None, "total": 1.0}
    return row | {"messages": EPISODE, "turns": 2, "tool_errors": 1, "finished": True} | more


def test_the_report_shows_episodes_as_conversations():
    [(prompt, [(label, lines, marks)])] = before_and_after([episode_row(3)])
    assert (prompt, label, marks) == ("user: Go.", "step 3", "score +1.00 · total +1.00 · 2 turns · 2 calls, 1 failed")
    page = blocks.samples([(prompt, [(label, lines, marks)])])
    said = re.findall(r'<dt class="(\w+)">(.*?)</dt><dd class="said (\w+)">(.*?)</dd>', page)
    assert [kind for kind, *_ in said] == [kind for _, _, kind, _ in said]
    assert ("call", "assistant", "call", "→ add(a=3, word=&quot;&lt;b&gt;&quot;)") in said
    assert ("tool", "tool", "tool", "{&quot;error&quot;: &quot;&lt;no&gt;&quot;}") in said
    [(_, [(_, single, marks)])] = before_and_after([{"step": 1, "prompt": "p", "completion": "Yes.", "score": 0.0}])
    assert (single, marks) == ("Yes.", "score +0.00")


def test_a_long_episode_is_bounded_in_the_report():
    turns = [{"role": "user", "content": f"{number}" + "x" * 4000 * (number == 0)} for number in range(90)]
    lines = shortened_lines(episode_row(1, messages=turns))
    assert len(lines) == 41 and [lines[20].text, lines[21].text, lines[-1].text] == ["[…50 lines…]", "70", "89"]
    assert "[…1,001 characters…]" in lines[0].text
