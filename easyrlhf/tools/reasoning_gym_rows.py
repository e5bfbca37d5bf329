"""easyrlhf data reasoning_gym: items of its tasks as prompt rows; docs/rewards.md."""

import difflib
import json
from pathlib import Path
from typing import Any

from easyrlhf.config.lists import split_list
from easyrlhf.errors import InputError
from easyrlhf.files import atomic_write
from easyrlhf.rewards.puzzles import COLUMN, SLOW, WORTH, package, paid_for_nonsense

FLAG = "data reasoning_gym"
PROBED = 20  # items of a task that are answered with nonsense


def write_rows(
    tasks: str,
    output: str | Path | None = None,
    size: int = 1000,
    seed: int = 42,
    task_settings: str | None = None,
    system: str | None = None,
    ask: str | None = None,
    overwrite: bool = False,
) -> None:
    """Write `size` items of each task as a prompt row, or print the names of all tasks.

    tasks          comma list of names; `list` for their names
    task_settings  JSON object of what each task is made with
    ask            what stands behind each question
    Raises InputError for tasks or settings that there are not, for a task whose scorer pays nonsense, and for an output
    that would overwrite something.
    """
    known = known_tasks()
    if tasks == "list":
        print("\n".join(known))
        return
    names, output = checked_names(tasks, known), checked_output(output, overwrite)
    made = {name: items_of(name, size, seed, settings_of(task_settings)) for name in names}
    output.parent.mkdir(parents=True, exist_ok=True)
    try:
        with atomic_write(output) as draft, draft.open("w", encoding="utf-8") as file:
            for name, items in made.items():
                print(verdict(name, items))
                file.writelines(
                    json.dumps(puzzle_row(item, system, ask), ensure_ascii=False, default=str) + "\n" for item in items
                )
    except OSError as error:
        raise InputError(f"--output {output}: cannot be written ({error.strerror}); give another file") from error
    print(f"{output}: {size * len(names):,} prompts; train with --reward_funcs reasoning_gym:score, or :solved")


def known_tasks() -> list[str]:
    """The names of all tasks. Raises InputError without the package."""
    package(FLAG)
    from reasoning_gym.factory import DATASETS

    return sorted(set(DATASETS) - {"composite"})  # that one is made of others


def checked_names(tasks: str, known: list[str]) -> list[str]:
    """The tasks that are wanted, each once. Raises InputError for one that there is not."""
    names = list(dict.fromkeys(split_list(tasks)))
    for name in names:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"did you mean {near[0]}?" if near else f"easyrlhf {FLAG} list prints their names"
            raise InputError(f"{FLAG} {name}: there is no such task; {hint}")
    if not names:
        raise InputError(f"{FLAG}: names no task; easyrlhf {FLAG} list prints their names")
    return names


def checked_output(output: str | Path | None, overwrite: bool) -> Path:
    """The file to write. Raises InputError for one that may not be."""
    if output is None or Path(output).suffix != ".jsonl":
        raise InputError(f"--output {output or ''}: give the file for the rows, which ends with .jsonl")
    if Path(output).is_dir() or (Path(output).exists() and not overwrite):
        raise InputError(f"--output {output}: is there already; give another file, or --overwrite to replace it")
    return Path(output)


def settings_of(text: str | None) -> dict[str, Any]:
    """The tasks' settings. Raises InputError for what is no JSON object."""
    try:
        found = json.loads(text or "{}")
    except ValueError as error:
        raise InputError(f"--task_settings {text}: is not JSON ({error})") from error
    if not isinstance(found, dict) or {"size", "seed"} & found.keys():
        raise InputError(f"--task_settings {text}: must be a JSON object without size and seed, which have flags")
    return found


def items_of(name: str, size: int, seed: int, settings: dict[str, Any]) -> list[dict[str, Any]]:
    """Items of a task, as JSON gives them back. Raises InputError for settings that the task does not take."""
    if name in SLOW:
        print(f"note: {name}: takes about a second an item")
    try:
        made = package(FLAG).create_dataset(name, size=size, seed=seed, **settings)
        entries = [made[number] for number in range(size)]
    except Exception as error:  # a task checks its settings by assertions, and makes its items in any way
        what = f"with --task_settings {json.dumps(settings)}" if settings else "with its own settings"
        raise InputError(f"{FLAG} {name}: cannot be made {what} ({type(error).__name__}: {error})") from error
    kept = ("question", "answer", "metadata")
    items = [{"task": name} | {key: entry.get(key) for key in kept} for entry in entries]
    return json.loads(json.dumps(items, default=str))


def verdict(name: str, items: list[dict[str, Any]]) -> str:
    """What a task pays for nonsense, in a line. Raises InputError for one whose rewards would teach it."""
    paid = paid_for_nonsense(items[:PROBED])
    if paid >= WORTH:
        raise InputError(
            f"{FLAG} {name}: its scorer pays {paid:.2f} for answers that say nothing, and such rewards would teach to "
            "say nothing; leave it out"
        )
    return f"{name}: {len(items):,} items" + (
        f"; its scorer pays wrong answers up to {paid:.2f}: reasoning_gym:solved pays right ones alone" if paid else ""
    )


def puzzle_row(item: dict[str, Any], system: str | None, ask: str | None) -> dict[str, Any]:
    """An item as a prompt row, with all that its scorer needs."""
    opening = [{"role": "system", "content": system}] if system else []
    question = f"{item['question']}\n\n{ask}" if ask else item["question"]
    return {"prompt": [*opening, {"role": "user", "content": question}], "answer": item["answer"], COLUMN: item}
