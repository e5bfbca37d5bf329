"""One page over several runs, and `easyrlhf report`, on small hand-made stage folders."""

import errno
import json
import re
from pathlib import Path

import pytest
import yaml

from easyrlhf.cli.main import main
from easyrlhf.errors import RunError
from easyrlhf.report.log import MetricsLog
from easyrlhf.tools.report import labels, report

pytestmark = pytest.mark.usefixtures("pictures")


@pytest.fixture
def folder(tmp_path):
    """folder(name, stage, rows of metrics, **settings) -> the path of a stage's folder."""

    def make(name: str, stage: str, rows: list[dict], **settings) -> str:
        path = tmp_path / name
        log = MetricsLog(path, report_to="none")
        for step, row in enumerate(rows, 1):
            log.log(step, row)
        log.close()
        (path / "args.yaml").write_text(yaml.safe_dump(settings))
        (path / "stage.json").write_text(json.dumps({"stage": stage, "status": "complete", "easyrlhf_version": "0.1"}))
        return str(path)

    return make


@pytest.fixture
def two(folder):
    """PPO scores 1, 2, 3 at a KL of 0.5, 1, 1.5; GRPO scores 2, 2, 2 at a KL of 4."""
    ppo = [{"objective/scores": float(n), "objective/kl": n / 2, "eval/scores": n + 0.25} for n in (1, 2, 3)]
    grpo = [{"objective/scores": 2.0, "objective/kl": 4.0}] * 3
    return folder("a/ppo", "ppo", ppo, seed=42, kl_coef=0.2), folder("a/grpo", "grpo", grpo, seed=42, beta=0.1)


def cells(page: str, first: str) -> list[str]:
    """The cells of the table row that begins with these words."""
    row = re.search(rf"<tr><td[^>]*>{re.escape(first)}</td>(.*?)</tr>", page)[1]
    return re.findall(r"<td[^>]*>(.*?)</td>", row)


def test_numbers_stand_side_by_side_and_equal_settings_are_left_out(two, tmp_path):
    page = report(two, str(tmp_path / "new" / "page.html")).read_text()
    assert cells(page, "score") == ["+2.000", "+2.000"]  # means of the last steps
    assert cells(page, "KL, nats an answer") == ["+1.000", "+4.000"]
    assert cells(page, "kl_coef") == ["0.2", ""] and cells(page, "beta") == ["", "0.1"]
    assert ">seed</td>" not in page
    assert '<p class="lead ok">ppo, grpo: no warning.</p>' in page


def test_the_first_line_carries_the_worst_run(folder, tmp_path):
    runs = [
        folder("fine", "sft", [{"loss": 2.0}, {"loss": 1.0}]),
        folder("far", "ppo", [{"objective/kl": 20.0}] * 3),
        folder("broken", "ppo", [{"objective/kl": 60.0, "health/eos_rate": 0.6}] * 3),
    ]
    page = report(tuple(runs), str(tmp_path / "page.html")).read_text()
    said = "broken: 1 alarm and 1 warning; far: 1 warning; fine: no warning."
    assert f'<p class="lead alarm">{said}</p>' in page


def test_curves_lie_over_one_another_and_keep_their_colours(two, tmp_path):
    page = report(two, str(tmp_path / "page.html")).read_text()
    charts = dict(re.findall(r'<svg role="img" aria-label="([^"]+)"(.*?)</svg>', page, re.DOTALL))
    assert list(charts)[:2] == ["Reward against KL", "Score, sampled"]
    for title in ("Reward against KL", "Score, sampled", "KL to the reference, sampled"):
        assert "var(--series-0)" in charts[title] and "var(--series-1)" in charts[title]
        assert ">ppo</text>" in charts[title] and ">grpo</text>" in charts[title]
    assert "var(--series-1)" not in charts["Score, held-out prompts"]  # PPO alone was evaluated
    assert "Answer length, mean" not in charts


def test_one_run_gets_its_own_page_anew(folder, tmp_path):
    path = folder("sft", "sft", [{"loss": 2.0}, {"loss": 1.0}], learning_rate=0.5)
    page = report((path,), None)
    assert str(page) == f"{path}/report.html" and "learning_rate" in page.read_text()
    assert (tmp_path / "sft" / "plots" / "loss.png").stat().st_size > 1000


def test_labels_are_as_short_as_tells_them_apart(tmp_path):
    assert labels([tmp_path / "x" / "ppo", tmp_path / "y" / "ppo"]) == ["x/ppo", "y/ppo"]
    assert labels([tmp_path / "x" / "ppo", tmp_path / "x" / "dpo"]) == ["ppo", "dpo"]


def test_folders_that_no_stage_wrote_and_doubles_are_refused(two, tmp_path, capsys):
    for words, said in (
        ([str(tmp_path)], f"{tmp_path}: is not the output folder of a training stage"),
        ([two[0], two[0]], f"{two[0]}: is named twice"),
    ):
        with pytest.raises(SystemExit) as stopped:
            main(["report", *words])
        assert stopped.value.code == 2
        assert said in capsys.readouterr().err


def test_the_page_of_one_run_can_go_elsewhere_and_a_disk_that_takes_none_is_one_line(two, tmp_path, monkeypatch):
    path = two[0]
    before = sorted(Path(path).iterdir())
    page = report((path,), str(tmp_path / "new" / "page.html"))
    assert page == tmp_path / "new" / "page.html" and "<html" in page.read_text()
    assert sorted(Path(path).iterdir()) == before

    def refuse(*_, **__):
        raise OSError(errno.EROFS, "Read-only file system")

    for name in ("plot_run", "write_overlay"):
        monkeypatch.setattr(f"easyrlhf.tools.report.{name}", refuse)
    said = "could not be written: Read-only file system; see that it can be written. "
    with pytest.raises(RunError) as found:
        report((path,), None)
    assert (
        str(found.value) == f"{path}/report.html: {said}The run is as it was; --output FILE writes the page elsewhere"
    )
    with pytest.raises(RunError) as found:
        report(two, "x.html")
    assert str(found.value) == f"x.html: {said}Nothing of the runs was changed; --output FILE takes another place"
