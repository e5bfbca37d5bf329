"""easyrlhf label import: rows become items to label, or labels.jsonl a folder of labels again; docs/labelling.md."""

import json
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from easyrlhf.config import LabelImportConfig
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.reader import EQUALS, RowSettings
from easyrlhf.data.records import Record
from easyrlhf.data.sources import Source
from easyrlhf.errors import InputError
from easyrlhf.labels.backup import is_dump, restore_rows
from easyrlhf.labels.items import REWARD_KEYS, SAMPLE_KEYS, ItemPlan, MadeItem, check_item, items_of_records
from easyrlhf.labels.rows import IMPORT, NewItem, NewLabel
from easyrlhf.labels.store import CONFLICT, NEW, Store, make_labels_folder
from easyrlhf.paths import split_paths
from easyrlhf.report.console import say
from easyrlhf.report.next_steps import next_line
from easyrlhf.tools.labelling.exporting import counted_words
from easyrlhf.tools.resumable import beside

LEFT_OUT = ("empty completion", *EQUALS)  # reasons for which models' own answers are often of no use
CHECK_SHARE, REPEAT_SHARE = 0.05, 0.03
# Keys of rows that are kept as the source of an answer.
KEPT_AS_SOURCE = {
    *(f"{side}{key}" for side in ("", "chosen_", "rejected_") for key in (*REWARD_KEYS, *SAMPLE_KEYS)),
    *(f"completion_{key}s" for key in REWARD_KEYS),
}


def import_rows(config: LabelImportConfig) -> None:
    """Add the items of `data` and `checks` to the labels.

    Raises InputError for rows that cannot be read or labelled; nothing is added then.
    """
    files = split_paths(config.data)
    if any(map(holds_labels, files)):
        restore_labels(config, files)
        return
    reading, folder = RowSettings.of(config), Path(config.labels)
    check_weights(reading.open(config.data) + (reading.open(config.checks) if config.checks else []))
    make_labels_folder(folder)
    ledger, left_out = Ledger("data", folder / "bad_rows.jsonl"), Counter()
    plan = ItemPlan(config.kind, config.pick, config.random_share, not config.hide_labels, config.seed)
    made = list(items_of_records(records_of(reading, config.data, None, ledger), plan, left_out))
    say(summary_lines(ledger))
    checks = read_checks(config, reading, folder)
    if not made and not checks:
        raise InputError(f"{config.data}: no item to label; left out: {counted_words(left_out)}")
    with Store(folder, create=True) as store:
        say(added_lines(store, made, checks, left_out))
        keep_shares(store, config)
    print(next_line(["easyrlhf", "label", "serve", "--annotators", "NAME", "--labels", config.labels]))


def records_of(
    reading: RowSettings, files: str, kind: str | None, ledger: Ledger
) -> Iterator[tuple[Record, dict[str, Any]]]:
    """The records of files, each with what is known of its whole file."""
    for source in reading.open(files):
        facts = facts_of_file(source.name)
        for record, _ in reading.records(source, kind, ledger, LEFT_OUT):
            ledger.use([])
            yield record, facts


def check_weights(sources: list[Source]) -> None:
    """Raise InputError for a weight."""
    for source in sources:
        if source.weight != 1:
            raise InputError(f"{source.name}={source.weight:g}: every row is an item once; leave the weight out")


def facts_of_file(name: str) -> dict[str, Any]:
    """What easyrlhf generate noted of a file that it wrote: model, hash of its stage.json, seed, temperature."""
    record = beside(Path(name).expanduser(), "run.json")
    with suppress(OSError, ValueError, KeyError, TypeError):
        settings = json.loads(record.read_text(encoding="utf-8"))["settings"]
        names = {"model": "model", "stage of model": "stage", "seed": "seed", "temperature": "temperature"}
        return {ours: settings[theirs] for theirs, ours in names.items() if settings.get(theirs) is not None}
    return {}


def read_checks(config: LabelImportConfig, reading: RowSettings, folder: Path) -> list[NewItem]:
    """The checks of the settings. Raises InputError for a comparison that is no better one way than the other."""
    if not config.checks:
        return []
    ledger = Ledger("checks", folder / "bad_rows.jsonl")
    found = [check_item(record) for record, _ in records_of(reading, config.checks, "comparison", ledger)]
    say(summary_lines(ledger))
    return found


def summary_lines(ledger: Ledger) -> list[str]:
    """The balance of the rows; keys that are kept as sources are used."""
    for keys in ledger.unused.values():
        for key in KEPT_AS_SOURCE & keys.keys():
            del keys[key]
    ledger.unused = {file: keys for file, keys in ledger.unused.items() if keys}
    return ledger.summary("").lines()


def added_lines(store: Store, made: list[MadeItem], checks: list[NewItem], left_out: Counter) -> Iterator[str]:
    """Add items, their labels and checks, and say what came of them."""
    found = store.add_items(one.item for one in made)
    added = [one for one, (_, new) in zip(made, found, strict=True) if new]
    kinds = f" ({counted_words(Counter(f'{one.item.kind}s' for one in added))})" if added else ""
    yield (
        f"{store.file}: {len(added):,} new items{kinds}, {len(made) - len(added):,} were there; "
        f"{sum(one.item.random for one in added):,} of the new ones stand for all prompts"
    )
    labels = [(number, *one.said) for one, (number, _) in zip(made, found, strict=True) if one.said]
    if labels:
        own = store.annotator(IMPORT, IMPORT).id
        answers = {number: len(one.item.answers) for one, (number, _) in zip(made, found, strict=True)}
        kept = Counter(
            store.add_labels(
                NewLabel(f"import-{number}", number, own, value, scale, list(range(answers[number])))
                for number, scale, value in labels
            )
        )
        yield f"labels of the annotator {IMPORT}: {kept[NEW]:,} new"
        if kept[CONFLICT]:
            yield f"warning: {kept[CONFLICT]:,} rows say otherwise than an earlier row of the same item, which stays"
    if checks:
        new = sum(is_new for _, is_new in store.add_items(checks))
        yield f"checks: {new:,} new, {len(checks) - new:,} were there as items or checks"
    if any(left_out.values()):
        yield f"left out: {counted_words(left_out)}"


def keep_shares(store: Store, config: LabelImportConfig) -> None:
    """Remember how much is mixed in: as it is given, else as it was, else the defaults."""
    for name, default in (("check_share", CHECK_SHARE), ("repeat_share", REPEAT_SHARE)):
        given = config.value(name)
        store.keep_setting(name, store.setting(name, str(default)) if given is None else given)


def holds_labels(file: str) -> bool:
    """Whether a file is labels.jsonl of an export."""
    with suppress(OSError, ValueError, UnicodeDecodeError), Path(file).expanduser().open(encoding="utf-8") as lines:
        return is_dump(json.loads(next(lines, "null")))
    return False


def restore_labels(config: LabelImportConfig, files: tuple[str, ...]) -> None:
    """Make the labels of labels.jsonl again. Raises InputError for other files beside it, and labels that are there."""
    if len(files) > 1 or config.checks:
        raise InputError(f"{config.data}: labels.jsonl restores a folder by itself; give it alone")
    file = Path(files[0]).expanduser()
    with Store(config.labels, create=True) as store:
        new = restore_rows(store, rows_of_file(file))
        items, labels = len(list(store.items())), len(store.labels(undone=True))
    said = f"restored from {file}" if new else f"holds {file} already"
    print(f"{store.file}: {said}: {items:,} items, {labels:,} labels")


def rows_of_file(file: Path) -> Iterator[tuple[str, Any]]:
    """The rows of a .jsonl file with their places. Raises InputError for a line that is none."""
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, 1):
            try:
                yield f"{file}:{number}", json.loads(line)
            except ValueError as error:
                raise InputError(f"{file}:{number}: is not JSON ({error}); the file may be cut off") from error
