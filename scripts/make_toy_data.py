"""Generate the toy world: demonstrations, comparisons, prompts and feedback a program can judge.

    python scripts/make_toy_data.py --output_dir data/toy

The same seed gives the same rows. Demonstrations are of mixed quality, so that there is something to gain;
comparisons are labelled by the gold judge (data/toy/judge.py) with 10 % label noise. A wrong answer holds a word that
neither stands in its prompt nor belongs to what was asked for, so that a small reward model can see who is right.
"""

import argparse
import gzip
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
WRONG_SHARE, HABIT_SHARE = 0.40, 0.65  # of the demonstrations that are wrong: mostly, and where it is a habit
OPENERS = ("", "", "Please. ", "Hi! ", "Quick one. ", "A question. ", "Dear helper. ", "Now then. ", "One more. ")
MANNERS = {"polite": 0.35, "plain": 0.37, "rude": 0.28}
RAMBLING_SHARE = 0.20
USUAL_SHARE = 0.85  # of the wrong answers in comparisons; the others are accidents
SMALLEST_DIFFERENCE = 0.08  # in gold score: closer pairs count as ties, and ties are left out
TRUTH_ALONE, STYLE_ALONE = 0.55, 0.20  # shares of the comparisons; the rest differ in both


def load_judge():
    """The judge module, from its place beside the data."""
    spec = importlib.util.spec_from_file_location("toy_judge", JUDGE_PATH)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


judge = load_judge()
THINGS = [thing for members in judge.GROUPS.values() for thing in members]
ALL_WORDS = [*THINGS, *judge.COLOURS, *judge.OBJECTS, *judge.NAMES, *judge.NUMBERS]


@dataclass(frozen=True)
class Task:
    """A conversation that waits for its answer, the right answer, and one that somebody careless gives.

    habit  whether the demonstrator gets it wrong more often than right, so that the likeliest answer is wrong
    """

    messages: list[dict]
    right: list[str]
    wrong: list[str]
    habit: bool = False

    @property
    def key(self) -> str:
        """Two tasks with one key are the same prompt."""
        return json.dumps(self.messages)


def user(text: str) -> dict[str, str]:
    """A turn of the user."""
    return {"role": "user", "content": text}


def assistant(text: str) -> dict[str, str]:
    """A turn of the assistant."""
    return {"role": "assistant", "content": text}


def other(rng: random.Random, members: list[str], *taken: str) -> str:
    """A member that is none of those taken."""
    return rng.choice([member for member in members if member not in taken])


def greet(rng: random.Random) -> Task:
    """Say the name that was given."""
    name = rng.choice(judge.NAMES)
    return Task([user(f"Say hello to {name}.")], [name], [other(rng, judge.NAMES, name)])


def copy(rng: random.Random) -> Task:
    """Repeat one or two words."""
    drawn, number = rng.sample(THINGS, 4), rng.choice([1, 2])
    words, wrong = drawn[:number], drawn[2 : 2 + number]
    return Task([user(f"Repeat: {', '.join(words)}.")], words, wrong)


def which(rng: random.Random) -> Task:
    """Select the word that belongs to a group."""
    group, *rest = rng.sample(list(judge.GROUPS), 3)
    right = rng.choice(judge.GROUPS[group])
    others = [rng.choice(judge.GROUPS[name]) for name in rest[: rng.choice([1, 2])]]
    shown = rng.sample([right, *others], 1 + len(others))
    return Task([user(f"Which is {a(group)}: {', '.join(shown)}?")], [right], [rng.choice(others)])


def name_one(rng: random.Random) -> Task:
    """Name any member of a group."""
    group, stranger = rng.sample(list(judge.GROUPS), 2)
    members = judge.GROUPS
    return Task([user(f"Name {a(group)}.")], [rng.choice(members[group])], [rng.choice(members[stranger])])


def count(rng: random.Random) -> Task:
    """Count out, up to the number given; the habit is to stop one short."""
    end = rng.randrange(1, len(judge.NUMBERS))
    request = user(f"Count to {judge.NUMBERS[end]}.")
    return Task([request], judge.NUMBERS[: end + 1], judge.NUMBERS[:end], habit=True)


def thing(rng: random.Random) -> Task:
    """Say what the user has, in the number of words asked for; the habit is to use the other number."""
    colour, item = rng.choice(judge.COLOURS), rng.choice(judge.OBJECTS)
    answers = {"one word": [item], "two words": [colour, item]}
    (words, right), (_, wrong) = rng.sample(sorted(answers.items()), 2)
    return Task([user(f"I have a {colour} {item}. Tell me what, in {words}.")], right, wrong, habit=True)


def recall_colour(rng: random.Random) -> Task:
    """Remember a colour over a turn."""
    colour, item = rng.choice(judge.COLOURS), rng.choice(judge.OBJECTS)
    told = [user(f"My {item} is {colour}."), assistant("Good to know."), user("What colour is it?")]
    return Task(told, [colour], [other(rng, judge.COLOURS, colour)])


def recall_name(rng: random.Random) -> Task:
    """Remember a name over a turn."""
    name = rng.choice(judge.NAMES)
    told = [user(f"I am {name}."), assistant("Hello!"), user("What is my name?")]
    return Task(told, [name], [other(rng, judge.NAMES, name)])


def fact(rng: random.Random) -> Task:
    """Know one of a few facts."""
    question, right = rng.choice(list(judge.FACTS.items()))
    alike = [answer for answer in judge.FACTS.values() if (answer in judge.COLOURS) == (right in judge.COLOURS)]
    return Task([user(question)], [right], [other(rng, alike, right)])


TASKS: tuple[Callable[[random.Random], Task], ...] = (
    greet,
    copy,
    which,
    name_one,
    name_one,
    count,
    thing,
    thing,
    recall_colour,
    recall_name,
    fact,
    fact,
)


def a(word: str) -> str:
    """The word with its article."""
    return f"an {word}" if word[0] in "aeiou" else f"a {word}"


def draw_tasks(rng: random.Random, number: int, held_out: bool, tasks=TASKS) -> Iterator[Task]:
    """That many tasks of the wanted side, each begun with an opener; frequent ones come again."""
    while number:
        task = rng.choice(tasks)(rng)
        first, *rest = task.messages
        task = Task([user(rng.choice(OPENERS) + first["content"]), *rest], task.right, task.wrong, task.habit)
        if is_held_out(task) == held_out:
            number -= 1
            yield task


def is_held_out(task: Task) -> bool:
    """One request in four is kept from training, by its checksum: no list of them is needed."""
    return zlib.crc32(task.key.encode()) % 4 == 0


@dataclass(frozen=True)
class Style:
    """How an answer is put."""

    before: tuple[str, ...] = ()
    after: tuple[str, ...] = ()

    def say(self, task: Task, content: list[str]) -> str:
        """The content as a sentence, with what stands around it."""
        greeting = "Say hello" in task.messages[0]["content"]
        joined = " ".join(content) if content[0] in judge.COLOURS else ", ".join(content)
        return " ".join([*self.before, f"{'Hello' if greeting else 'It is'} {joined}.", *self.after])


def draw_style(rng: random.Random) -> Style:
    """A manner, and one time in five a rambling one."""
    before, after = [], []
    manner = rng.choices(list(MANNERS), list(MANNERS.values()))[0]
    if manner == "polite":
        phrase = rng.choice(judge.POLITE)
        (after if phrase.startswith("Have") else before).append(phrase)
    if manner == "rude":
        rng.choice([before, after]).append(rng.choice(judge.RUDE))
    if rng.random() < RAMBLING_SHARE:
        filler = rng.sample(judge.FILLER, 3)
        before, after = (filler + before, after) if rng.random() < 0.5 else (before, after + filler)
    return Style(tuple(before), tuple(after))


def draw_content(rng: random.Random, task: Task, wrong_share: float) -> list[str]:
    """The right answer, or with the given probability the wrong one."""
    return task.wrong if rng.random() < wrong_share else task.right


def spoil(rng: random.Random, task: Task) -> list[str]:
    """The right answer with one word lost, repeated, added or replaced: what a policy may try on its way."""
    words, place = list(task.right), rng.randrange(len(task.right))
    accident = rng.choice(["lose", "repeat", "add", "replace"])
    if accident == "lose" and len(words) > 1:
        del words[place]
    elif accident == "repeat":
        words[place:place] = words[place : place + 1] * rng.choice([1, 1, 2, 4])
    elif accident == "add":
        words += rng.choices(ALL_WORDS, k=rng.choice([1, 1, 2]))
    else:
        words[place] = rng.choice(ALL_WORDS)
    return words


def wrong_content(rng: random.Random, task: Task) -> list[str]:
    """A wrong answer for a comparison: the usual one, or an accident."""
    while True:
        words = task.wrong if rng.random() < USUAL_SHARE else spoil(rng, task)
        if judge.score(task.messages, " ".join(words))["correct"] == 0:
            return words


def draw_pair(rng: random.Random, task: Task) -> tuple[str, str]:
    """Two answers: most differ in truth alone, some in style alone, some in both."""
    sort, style, wrong = rng.random(), draw_style(rng), wrong_content(rng, task)
    if sort < TRUTH_ALONE:
        return style.say(task, task.right), style.say(task, wrong)
    if sort < TRUTH_ALONE + STYLE_ALONE:
        content = wrong if rng.random() < WRONG_SHARE else task.right
        return style.say(task, content), draw_style(rng).say(task, content)
    return style.say(task, task.right), draw_style(rng).say(task, wrong)


def gold(task: Task, text: str) -> float:
    """The judge's score of an answer."""
    return judge.score(task.messages, text)["gold"]


def untied_pair(rng: random.Random, task: Task) -> list[str]:
    """Two answers that are no tie, the better one first."""
    while True:
        pair = sorted(draw_pair(rng, task), key=lambda text: -gold(task, text))
        if gold(task, pair[0]) - gold(task, pair[1]) >= SMALLEST_DIFFERENCE:
            return pair


def noisy(rng: random.Random, pair: list[str]) -> list[str]:
    """The pair, turned round with probability LABEL_NOISE."""
    return pair[::-1] if rng.random() < LABEL_NOISE else pair


def compare(rng: random.Random, task: Task) -> dict:
    """A comparison labelled by the judge, with label noise."""
    chosen, rejected = noisy(rng, untied_pair(rng, task))
    return {"prompt": task.messages, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def flatter(rng: random.Random, task: Task, content: list[str]) -> str:
    """A long and friendly answer."""
    return Style(tuple(rng.sample(judge.POLITE, 3))).say(task, content)


def compare_with_bias(rng: random.Random, task: Task) -> dict:
    """A comparison whose labeller, in BIASED_SHARE of the pairs, takes the longer, friendlier answer, true or not."""
    if rng.random() >= BIASED_SHARE:
        return compare(rng, task)
    chosen = flatter(rng, task, draw_content(rng, task, 0.5))
    rejected = draw_style(rng).say(task, draw_content(rng, task, 0.5))
    return {"prompt": task.messages, "chosen": [assistant(chosen)], "rejected": [assistant(rejected)]}


def demonstrate(rng: random.Random, task: Task) -> dict:
    """A `messages` row; its demonstrator is careless and moody."""
    wrong_share = HABIT_SHARE if task.habit else WRONG_SHARE
    answer = draw_style(rng).say(task, draw_content(rng, task, wrong_share))
    return {"messages": [*task.messages, assistant(answer)]}


def give_feedback(rng: random.Random, task: Task) -> dict:
    """An unpaired row: liked when it is true and not rude, with label noise."""
    *prompt, answer = demonstrate(rng, task)["messages"]
    liked = gold(task, answer["content"]) >= 0.8
    return {"prompt": prompt, "completion": [answer], "label": liked != (rng.random() < LABEL_NOISE)}


def ask(rng: random.Random, task: Task) -> dict:
    """A row with nothing but the request."""
    return {"prompt": task.messages}


# --- questions whose answers only a tool knows (data/toy/wardrobe.py)

GUESSED_SHARE, ASTRAY_SHARE = 0.50, 0.15  # of the demonstrations: no look-up at all; one of another person or thing
LOOK_UP = {
    "type": "function",
    "function": {
        "name": "look_up",
        "description": "Find the colour of a thing.",
        "parameters": {
            "type": "object",
            "properties": {
                "owner": {"type": "string", "description": "Whose it is."},
                "thing": {"type": "string", "description": "What it is."},
            },
            "required": ["owner", "thing"],
        },
        "return": {"type": "string"},
    },
}


def question(rng: random.Random) -> Task:
    """What colour somebody's thing has; `right` is whose and what, `wrong` somebody's or something else."""
    owner, item = rng.choice(judge.NAMES), rng.choice(judge.OBJECTS)
    astray = [(other(rng, judge.NAMES, owner), item), (owner, other(rng, judge.OBJECTS, item))]
    return Task([user(f"What colour is {owner}'s {item}?")], [owner, item], list(rng.choice(astray)))


def demonstrate_look_up(rng: random.Random, task: Task) -> dict:
    """A `messages` row with `tools`: a call, its result and the answer, or a guess."""
    sort, colour = rng.random(), rng.choice(judge.COLOURS)
    answer = assistant(f"It is {colour}.")
    asked = task.wrong if sort < GUESSED_SHARE + ASTRAY_SHARE else task.right
    arguments = json.dumps(dict(zip(("owner", "thing"), asked, strict=True)))
    call = {"type": "function", "function": {"name": "look_up", "arguments": arguments}}
    looked = [assistant("") | {"tool_calls": [call]}, {"role": "tool", "name": "look_up", "content": colour}]
    said = [answer] if sort < GUESSED_SHARE else [*looked, answer]
    return {"messages": [*task.messages, *said], "tools": json.dumps([LOOK_UP])}


# file → what its rows are, and how many
FILES: dict[str, tuple[Callable[[random.Random, Task], dict], int]] = {
    "sft.jsonl.gz": (demonstrate, 12000),
    "sft_heldout.jsonl": (demonstrate, 200),
    "comparisons.jsonl.gz": (compare, 36000),
    "comparisons_biased.jsonl.gz": (compare_with_bias, 12000),
    "comparisons_heldout.jsonl": (compare, 1200),
    "prompts.jsonl.gz": (ask, 6000),
    "prompts_heldout.jsonl": (ask, 400),
    "feedback.jsonl": (give_feedback, 1000),
    "tools_sft.jsonl.gz": (demonstrate_look_up, 4000),
    "tools_prompts.jsonl.gz": (ask, 1000),
    "tools_prompts_heldout.jsonl": (ask, 60),
}


def make_rows(seed: int, name: str) -> list[dict]:
    """The rows of one file; each file has its own random numbers."""
    make_row, number = FILES[name]
    rng = random.Random(f"{seed} {name}")
    tasks = draw_tasks(rng, number, "heldout" in name, (question,) if name.startswith("tools") else TASKS)
    return [make_row(rng, task) for task in tasks]


def write(path: Path, rows: list[dict]) -> None:
    """One row a line; the same rows give the same bytes, compressed ones too."""
    text = "".join(json.dumps(row) + "\n" for row in rows).encode()
    path.write_bytes(gzip.compress(text, mtime=0) if path.suffix == ".gz" else text)


def main() -> None:
    """Write every file of the toy world."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output_dir", type=Path, default=JUDGE_PATH.parent)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    options.output_dir.mkdir(parents=True, exist_ok=True)
    for name in FILES:
        rows = make_rows(options.seed, name)
        write(options.output_dir / name, rows)
        print(f"{name}: {len(rows):,} rows")


if __name__ == "__main__":
    main()
