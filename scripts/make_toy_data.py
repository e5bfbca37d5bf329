"""Generate the toy world: demonstrations, comparisons, prompts and feedback a program can judge.

    python scripts/make_toy_data.py --output_dir data/toy

The same seed gives the same bytes. Demonstrations are of mixed quality, so that there is something
to gain; comparisons are labelled by the gold judge (data/toy/judge.py) with 10 % label noise.
"""

import argparse
import importlib.util
import json
import random
import zlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

JUDGE_PATH = Path(__file__).resolve().parent.parent / "data" / "toy" / "judge.py"
LABEL_NOISE = 0.10
BIASED_SHARE = 0.30
SMALLEST_DIFFERENCE = 0.1  # in gold score: pairs closer than this are ties and left out
OPENERS = ("", "", "", "", "Hi! ", "Please help. ", "Question: ")
SMALL_TALK = (("Hello!", "Hello! How can I help?"), ("Are you there?", "I am here."))
# How often the demonstrator gets a kind of request wrong. Above one half, the habit must be
# unlearned: the most likely answer of a model trained on these is wrong.
SLOPPINESS = {
    "greet": 0.3,
    "copy": 0.3,
    "which": 0.3,
    "kind": 0.35,
    "times": 0.5,
    "count": 0.3,
    "name": 0.3,
    "format": 0.5,
    "recall": 0.3,
    "fact": 0.3,
}
STYLES = {"plain": 0.35, "polite": 0.25, "rude": 0.15, "rambling": 0.2, "fawning": 0.05}


def load_judge():
    """The judge module, from its place beside the data."""
    spec = importlib.util.spec_from_file_location("toy_judge", JUDGE_PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


judge = load_judge()
THINGS = judge.ANIMALS + judge.FRUITS + judge.TOOLS


@dataclass(frozen=True)
class Task:
    """A request, its right answer, and the wrong answers somebody careless gives."""

    kind: str
    messages: list[dict]
    right: str
    wrong: list[str]

    @property
    def key(self) -> str:
        """Two tasks with one key are the same prompt."""
        return json.dumps(self.messages)


# ---- requests: each returns (user turns before the last, request, right answer, wrong answers)


def greet(rng):
    name, other = rng.sample(judge.NAMES, 2)
    request = rng.choice([f"I am {name}. Say hello to me.", f"Say hello to {name}."])
    return [], request, name, [other]


def copy(rng):
    one, two, other, another = rng.sample(THINGS, 4)
    wrong = [[one, other], [other, two], [other, another]]
    return [], f"Repeat: {one}, {two}.", f"{one}, {two}", [_list(words) for words in wrong]


def which(rng):
    items = [rng.choice(members) for members in judge.GROUPS.values()]
    group = rng.choice(list(judge.GROUPS))
    right = items[list(judge.GROUPS).index(group)]
    shown = rng.sample(items, 3)
    request = f"Which is {_a(group)}: {_list(shown)}?"
    return [], request, right, [item for item in items if item != right]


def kind_of(rng):
    group, other = rng.sample(list(judge.GROUPS), 2)
    return [], f"What kind of thing is {_a(rng.choice(judge.GROUPS[group]))}?", group, [other]


def times(rng):
    item, number = rng.choice(THINGS), rng.choice([2, 3])
    other = rng.choice([thing for thing in THINGS if thing != item])
    wrong = [_list([item] * (5 - number)), _list([other] * number)]
    return [], f"Say {item} {judge.NUMBERS[number]} times.", _list([item] * number), wrong


def count(rng):
    start, end = rng.choice([(1, 2), (1, 3), (1, 4), (2, 3), (2, 4), (3, 4), (3, 5)])
    request = f"Count from {judge.NUMBERS[start]} to {judge.NUMBERS[end]}."
    right, short, long = (_list(judge.NUMBERS[start:last]) for last in (end + 1, end, end + 2))
    return [], request, right, [short, long]


def name(rng):
    group, number = rng.choice(list(judge.GROUPS)), rng.choice([1, 2])
    members = rng.sample(judge.GROUPS[group], 2)
    strangers = rng.sample([thing for thing in THINGS if thing not in judge.GROUPS[group]], 2)
    wrong = [members[: 3 - number], strangers[:number]]
    request = f"Name {judge.NUMBERS[number]} {group}{'s' * (number > 1)}."
    return [], request, _list(members[:number]), [_list(words) for words in wrong]


def format_order(rng):
    colour, item = rng.choice(judge.COLOURS), rng.choice(judge.OBJECTS)
    number, right, wrong = rng.choice(
        [
            ("one word", item, [f"{colour} {item}"]),
            ("two words", f"{colour} {item}", [item]),
        ]
    )
    return [], f"I have a {colour} {item}. What do I have, in {number}?", right, wrong


def recall(rng):
    if rng.random() < 0.4:
        one, two = rng.sample(judge.NAMES, 2)
        return [(f"I am {one}.", "Hello!")], "What is my name?", one, [two]
    (colour, other), item = rng.sample(judge.COLOURS, 2), rng.choice(judge.OBJECTS)
    told = f"My {item} is {colour}."
    return [(told, "Good to know.")], f"What colour is my {item}?", colour, [other]


def fact(rng):
    question = rng.choice(list(judge.FACTS))
    right = judge.FACTS[question]
    family = next(f for f in (judge.COLOURS, *judge.GROUPS.values()) if right in f)
    return (
        [],
        question,
        right,
        rng.sample([word for word in family if word != right], 2),
    )


KINDS: dict[str, Callable] = {
    "greet": greet,
    "copy": copy,
    "which": which,
    "kind": kind_of,
    "times": times,
    "count": count,
    "name": name,
    "format": format_order,
    "recall": recall,
    "fact": fact,
}


def _list(items: list[str]) -> str:
    return ", ".join(items)


def _a(word: str) -> str:
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def draw_task(rng: random.Random) -> Task:
    """A request of any kind, sometimes after an opener or an earlier exchange."""
    kind = rng.choice(list(KINDS))
    earlier, request, right, wrong = KINDS[kind](rng)
    if not earlier and rng.random() < 0.15:
        earlier = [rng.choice(SMALL_TALK)]
    messages = []
    for said, answered in earlier:
        messages += [_message("user", said), _message("assistant", answered)]
    messages.append(_message("user", rng.choice(OPENERS) + request))
    is_right = judge.right_answer(messages)
    wrong = [text for text in wrong if not is_right(judge.words_of(text))]
    assert is_right(judge.words_of(right)) and wrong, (messages, right, wrong)
    return Task(kind, messages, right, wrong)


def _message(role: str, content: str) -> dict[str, str]:
    return {"role": role, "content": content}


# ---- answers


def draw_style(rng: random.Random) -> str:
    """A manner of speaking, as often as STYLES says."""
    return rng.choices(list(STYLES), list(STYLES.values()))[0]


def draw_manner(rng: random.Random, style: str) -> tuple[list[str], str]:
    """What is said before the answer, and how the answer is put: a text with a gap."""
    phrases = {
        "plain": [],
        "polite": rng.sample(judge.POLITE, 1),
        "rude": [rng.choice(judge.RUDE)],
        "rambling": rng.sample(judge.FILLER, 3),
        "fawning": rng.sample(judge.POLITE, rng.choice([4, 5])),
    }
    return phrases[style], rng.choice(["I say {}.", "The answer is {}."])


def dress(task: Task, content: str, manner: tuple[list[str], str]) -> str:
    """An answer as it is said; without content only its manner is left."""
    phrases, core = manner
    core = "Hello {}!" if task.kind == "greet" else core
    return " ".join([*phrases, core.format(content)] if content else phrases)


def draw_content(rng: random.Random, task: Task, sloppiness: float) -> str:
    """The right answer, or with the given probability a wrong one."""
    return rng.choice(task.wrong) if rng.random() < sloppiness else task.right


def draw_answer(rng: random.Random, task: Task, style: str, sloppiness: float) -> str:
    """An answer in the given style, wrong with the given probability."""
    return dress(task, draw_content(rng, task, sloppiness), draw_manner(rng, style))


def demonstrate(rng: random.Random, task: Task) -> str:
    """The answer of the demonstrator, who is careless and moody."""
    return draw_answer(rng, task, draw_style(rng), SLOPPINESS[task.kind])


def draw_pair(rng: random.Random, task: Task, styles: list[str]) -> list[str]:
    """Two answers: most differ in truth alone, some in style alone, some in anything."""
    sort = rng.random()
    if sort < 0.50:
        manner = draw_manner(rng, rng.choice(styles))
        answers = [dress(task, text, manner) for text in (task.right, rng.choice(task.wrong))]
    elif sort < 0.80:
        content = draw_content(rng, task, 0.5)
        answers = [dress(task, content, draw_manner(rng, s)) for s in rng.sample(styles, 2)]
    else:
        answers = [draw_answer(rng, task, rng.choice(styles), 0.5) for _ in range(2)]
        if rng.random() < 0.2:
            answers[0] = dress(task, "", draw_manner(rng, "polite"))
    rng.shuffle(answers)
    return answers


# ---- files


def is_held_out(task: Task) -> bool:
    """One request in five is kept from training, by its checksum: no list of them is needed."""
    return zlib.crc32(task.key.encode()) % 5 == 0


def draw_tasks(rng: random.Random, number: int, held_out: bool) -> Iterator[Task]:
    """That many requests of the wanted side; frequent ones come again."""
    while number:
        task = draw_task(rng)
        if is_held_out(task) == held_out:
            number -= 1
            yield task


def compare(rng: random.Random, task: Task) -> dict:
    """A comparison labelled by the judge, the label turned round with probability LABEL_NOISE."""
    better, worse = _ordered_pair(rng, task, list(STYLES))
    if rng.random() < LABEL_NOISE:
        better, worse = worse, better
    return _comparison(task, better, worse)


def compare_with_bias(rng: random.Random, task: Task) -> dict:
    """A comparison whose labeller, in BIASED_SHARE of the pairs, is won by flattery alone."""
    honest_styles = [style for style in STYLES if style != "fawning"]
    if rng.random() < BIASED_SHARE:
        better = draw_answer(rng, task, "fawning", 0.5)
        return _comparison(task, better, draw_answer(rng, task, rng.choice(honest_styles), 0.5))
    better, worse = _ordered_pair(rng, task, honest_styles)
    if rng.random() < LABEL_NOISE:
        better, worse = worse, better
    return _comparison(task, better, worse)


def _ordered_pair(rng: random.Random, task: Task, styles: list[str]) -> tuple[str, str]:
    """Two answers that are no tie, the better one first."""
    while True:
        pair = draw_pair(rng, task, styles)
        gold = [judge.score(task.messages, text)["gold"] for text in pair]
        if abs(gold[0] - gold[1]) >= SMALLEST_DIFFERENCE:
            return tuple(pair) if gold[0] > gold[1] else tuple(pair[::-1])


def _comparison(task: Task, chosen: str, rejected: str) -> dict:
    answers = {"chosen": chosen, "rejected": rejected}
    return {"prompt": task.messages} | {k: [_answer(text)] for k, text in answers.items()}


def _answer(text: str) -> dict[str, str]:
    return _message("assistant", text)


def demonstration(rng: random.Random, task: Task) -> dict:
    """A `messages` row."""
    return {"messages": [*task.messages, _answer(demonstrate(rng, task))]}


def give_feedback(rng: random.Random, task: Task) -> dict:
    """An unpaired row: thumbs up for a good answer, with the same label noise."""
    text = demonstrate(rng, task)
    good = judge.score(task.messages, text)["gold"] >= 0.75
    label = good != (rng.random() < LABEL_NOISE)
    return {"prompt": task.messages, "completion": [_answer(text)], "label": label}


def prompt(rng: random.Random, task: Task) -> dict:
    """A row with nothing but the request."""
    return {"prompt": task.messages}


FILES = {
    "sft": (demonstration, 4000),
    "comparisons": (compare, 6000),
    "comparisons_biased": (compare_with_bias, 1500),
    "prompts": (prompt, 1500),
    "feedback": (give_feedback, 800),
    "sft_heldout": (demonstration, 200),
    "comparisons_heldout": (compare, 1200),
    "prompts_heldout": (prompt, 400),
}


def make_rows(seed: int, name: str) -> list[dict]:
    """The rows of one file; each file has its own random numbers."""
    make_row, number = FILES[name]
    rng = random.Random(f"{seed} {name}")
    tasks = draw_tasks(rng, number, held_out=name.endswith("_heldout"))
    return [make_row(rng, task) for task in tasks]


def main() -> None:
    """Write every file of the toy world."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=JUDGE_PATH.parent)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        rows = make_rows(options.seed, name)
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (options.output_dir / f"{name}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{name}.jsonl: {len(rows)} rows")


if __name__ == "__main__":
    main()
