"""The vocabulary is complete, closed, and printed in docs/metrics.md."""

import subprocess
import sys
from pathlib import Path

import pytest

from easyrlhf.report.diagnostics import CHECKS
from easyrlhf.report.metrics import METRICS, metric, show
from easyrlhf.userfile import load_module

metrics_page = load_module(Path(__file__).parents[2] / "scripts" / "metrics_page.py")


def test_docs_metrics_md_is_what_the_tables_say():
    assert metrics_page.PAGE.read_text(encoding="utf-8") == metrics_page.markdown(), (
        "run python scripts/metrics_page.py"
    )


def test_an_undeclared_name_is_a_key_error_that_names_it():
    with pytest.raises(KeyError, match="objective/klx"):
        metric("objective/klx")


@pytest.mark.parametrize("name", ["reward/mean", "rewards/toy/mean", "eval/reward/mean"])
def test_a_number_of_no_reward_source_is_not_known(name):
    with pytest.raises(KeyError):
        metric(name)


def test_every_reward_source_shares_one_entry():
    assert metric("reward/my_file.py:polite/mean") is METRICS["reward/<name>/mean"]


def test_numbers_are_shown_in_the_metrics_own_format():
    assert show("objective/kl", -0.4321) == "-0.432"
    assert show("tokens_per_second", 12345.6) == "12,346"
    assert show("loss", None) == "-"


def test_every_check_reads_a_declared_metric_of_its_stages():
    for check in CHECKS:
        assert set(check.stages) <= set(metric(check.metric).stages), check.name


def test_the_tables_load_no_heavy_library():
    code = (
        "import sys, easyrlhf.report.diagnostics, easyrlhf.report.console, easyrlhf.report.log\n"
        "print({'torch', 'rich', 'matplotlib', 'numpy'} & set(sys.modules))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "set()"
