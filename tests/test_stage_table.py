"""The table of the stages says of each what its own code says."""

import pytest

from easyrlhf.stage_table import ALIGNING, COMPARING, STAGES, of_families
from easyrlhf.stages.restored import offline_stage


@pytest.mark.parametrize("name", [name for name in STAGES if name not in ("ppo", "grpo", "ebft")])
def test_an_offline_stage_has_the_rows_and_the_title_of_its_row(name):
    stage = offline_stage(name)
    assert (stage.kind, stage.title) == (STAGES[name].rows, STAGES[name].title)


def test_families_come_in_the_order_asked_for():
    assert of_families(COMPARING) == ("dpo", "ipo", "orpo", "simpo", "cpo")
    assert of_families(*ALIGNING) == ("dpo", "ipo", "orpo", "simpo", "cpo", "kto", "rrhf")
