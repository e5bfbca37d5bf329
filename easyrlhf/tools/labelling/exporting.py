"""easyrlhf label export: labels become rows to train on; docs/labelling.md."""

import dataclasses
import json
from collections import Counter
from collections.abc import Iterable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from easyrlhf.config import LabelExportConfig
from easyrlhf.config.lists import split_list
from easyrlhf.errors import InputError
from easyrlhf.files import hold_file
from easyrlhf.labels.backup import dump
from easyrlhf.labels.exported import ExportPlan, exported_rows
from easyrlhf.labels.selection import ChosenLabels, choose_labels
from easyrlhf.labels.store import Store
from easyrlhf.report.next_steps import next_line
from easyrlhf.tools.resumable import beside, write_result

BACKUP = "labels.jsonl"
STAGES = {"probability": "rm_train", "margin": "rm_train", "rankings": "rm_train", "feedback": "kto_train"}


def export_labels(config: LabelExportConfig) -> None:
    """Write rows of the labels into `output`, and everything into labels.jsonl beside labels.db.

    Raises InputError for labels that give no row, and for an output file that this command did not write.
    """
    output = Path(config.file)
    with Store(config.labels) as store, ExitStack() as held:
        claim(config, output, held)
        backup = store.folder / BACKUP
        write_result(backup, lines_of(dump(store, notes=config.notes)))
        chosen = choose_labels(
            store,
            split_list(config.annotators),
            split_list(config.exclude),
            split_list(config.drop_flag),
            config.min_labels,
        )
        left_out = Counter(chosen.left_out)
        plan = ExportPlan(config.write_as, config.merge, config.ties == "drop")
        rows = exported_rows(chosen, plan, left_out)
        if not rows:
            raise InputError(f"--labels {config.labels}: no label gives a row; left out: {counted_words(left_out)}")
        write_result(beside(output, "run.json"), json.dumps({"settings": dataclasses.asdict(config)}, indent=1) + "\n")
        write_result(output, lines_of(rows))
    for line in export_lines(config, rows, chosen, left_out):
        print(line)
    print(f"{backup}: everything{'' if config.notes else ' but the notes'}, to restore the labels from")
    stage = STAGES.get(config.write_as, "sft_train")
    print(next_line([stage, "--model", "outputs/sft", "--train_data", str(output)]))


def claim(config: LabelExportConfig, output: Path, held: ExitStack) -> None:
    """Hold the output for this process. Raises InputError when it is not ours to write."""
    if output.name == BACKUP and output.resolve().parent == Path(config.labels).resolve():
        raise InputError(f"--output {output}: is where everything is written; give another file")
    if output.is_dir() or (output.exists() and not config.overwrite and not beside(output, "run.json").exists()):
        way = "it is a folder" if output.is_dir() else "give another file, or --overwrite to replace it"
        raise InputError(f"--output {output}: is there already, and this command did not write it; {way}")
    try:
        output.parent.mkdir(parents=True, exist_ok=True)
        taken = f"--output {output}: another command is writing it; wait for it, or give another file"
        held.enter_context(hold_file(beside(output, "lock"), taken))
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); give another file") from error


def lines_of(rows: Iterable[dict[str, Any]]) -> str:
    """Rows as JSON, one a line."""
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)


def export_lines(
    config: LabelExportConfig, rows: list[dict[str, Any]], chosen: ChosenLabels, left_out: Counter
) -> Iterator[str]:
    """What was written, and what was left out."""
    labels = sum(map(len, chosen.labels.values()))
    ties = sum(row.get("chosen_probability") == 0.5 for row in rows)
    yield f"{config.file}: {len(rows):,} rows of {labels:,} labels of {len(chosen.items):,} items" + (
        f"; {ties:,} of them ties" if ties else ""
    )
    if any(left_out.values()):
        yield f"left out: {counted_words(left_out)}"


def counted_words(counts: Counter) -> str:
    """`items without a label 12, flagged items 3`."""
    return ", ".join(f"{what} {count:,}" for what, count in counts.items() if count) or "nothing"
