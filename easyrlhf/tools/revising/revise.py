"""easyrlhf revise: answers that are criticised and revised by principles (Bai et al. 2022); docs/rlaif.md."""

import gc
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from easyrlhf.config import ReviseConfig
from easyrlhf.data.ledger import Ledger
from easyrlhf.data.render import Renderer
from easyrlhf.errors import RunError
from easyrlhf.judges.asking import Answering, Ask, Budget, Inquiry, Replies, Reply, answer_inquiries
from easyrlhf.judges.constitution import Principle, read_constitution
from easyrlhf.judges.judges import find_answering
from easyrlhf.judges.local_model import LocalModel
from easyrlhf.report.console import counting_bar, say
from easyrlhf.report.next_steps import next_line
from easyrlhf.tools.generate import answers_to
from easyrlhf.tools.journal import Journal
from easyrlhf.tools.output import Output, open_output
from easyrlhf.tools.policy import load_sampler, read_renderer, room_for_prompt
from easyrlhf.tools.resumable import beside
from easyrlhf.tools.revising.chain import Revised, principles_of, revised_row, revising
from easyrlhf.tools.revising.prompts import AskedPrompt, digest_of, read_prompts

FIRST = "answer"  # what the first answer is called among the replies
NO_ANSWER = "first answers that are empty"


@dataclass(frozen=True)
class Sitting:
    """What is asked, of whom, and what is known.

    renderer  of the model that answers first; None where the critic does
    journal   replies by (number of the prompt, name of the question)
    """

    config: ReviseConfig
    critic: Answering
    renderer: Renderer | None
    prompts: list[AskedPrompt]
    constitution: list[Principle]
    journal: Journal

    def inquiries(self, revised: list[Revised]) -> list[Inquiry]:
        """The critiques and revisions to ask for, of each first answer that says something."""
        found = []
        for number, (one, answer) in enumerate(zip(self.prompts, revised, strict=True)):
            if answer.first.strip():
                chosen = principles_of(self.constitution, self.config.seed, number, self.config.revisions)
                key = (self.config.seed, number, 0)
                found.append(Inquiry(number, revising(one.record.prompt, answer, chosen, key)))
        return found


def revise(config: ReviseConfig) -> None:
    """Answer every prompt, have the answers revised, and write the rows in the order of the prompts.

    Raises InputError for models, prompts, a constitution or an output that cannot be used; RunError when a server
    fails, or no revision was worth keeping; RunStopped when the budget is used up.
    """
    constitution = read_constitution(config.constitution, ("critique", "revise"))
    renderer = read_renderer(config.policy) if config.model else None
    critic = find_critic(config)
    with open_output(config) as output:
        room = room_for_prompt(config.policy) if config.model else None
        limit = config.max_prompt_length or room
        prompts = read_prompts(config, renderer, limit, Ledger("prompts", output.bad_rows))
        kept = beside(output.file, "replies")
        if config.overwrite or not output.data:
            kept.unlink(missing_ok=True)
        output.begin(digest_of(prompts, constitution), len(prompts))
        if output.complete:
            print(f"{output.file}: is complete already; nothing to do")
        else:
            journal = Journal(kept, ("number", "name"))
            answer_and_revise(Sitting(config, critic, renderer, prompts, constitution, journal), output)
        output.finish()
        kept.unlink(missing_ok=True)
        say(revision_summary(config, output))
        if not output.tally["rows"]:
            raise RunError(f"{output.file}: is empty, since no revision could be kept; see what was left out, above")


def find_critic(config: ReviseConfig) -> Answering:
    """Who criticises and revises: the model behind judge_url, that of judge_dir, or the one that answers first."""
    if config.judge_url or config.judge_dir:
        return find_answering(config)
    temperature = config.temperature if config.judge_temperature is None else config.judge_temperature
    return LocalModel(config.policy, config.batch_size, "--model", temperature)


def answer_and_revise(sitting: Sitting, output: Output) -> None:
    """Answer and revise as far as the journal lacks it, and write the rows."""
    journal, prompts = sitting.journal, sitting.prompts
    budget = Budget(sitting.config.judge_budget, used=sum(one["tokens"] for one in journal.records.values()))
    replies = Replies(
        lambda number, ask: (found := journal.records.get((number, ask.name))) and Reply.of(found),
        lambda number, ask, reply: journal.add([{"number": number, "name": ask.name} | reply.as_dict()]),
    )
    if sitting.renderer:
        answer_locally(sitting)
    else:
        asks = [Inquiry(number, first_answer(sitting.config, one)) for number, one in enumerate(prompts)]
        with counting_bar("answer", len(asks), 0) as advance:
            answer_inquiries(sitting.critic, asks, replies, budget, advance)
    revised = [Revised(journal.records[number, FIRST]["said"]) for number in range(len(prompts))]
    inquiries = sitting.inquiries(revised)
    with counting_bar("revision", len(inquiries), 0) as advance:
        answer_inquiries(sitting.critic, inquiries, replies, budget, advance)
    output.tally["tokens"] = budget.used
    tally_revisions(output.tally, revised)
    rows = zip(prompts, revised, strict=True)
    written = [revised_row(sitting.config.to, one.record, answer) for one, answer in rows if answer.steps]
    output.write(written, len(prompts))


def first_answer(config: ReviseConfig, one: AskedPrompt) -> Iterator[Ask]:
    """The question for a first answer, to a server: the prompt itself."""
    prompt = one.record.prompt
    messages = [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt
    yield Ask(FIRST, messages, temperature=config.temperature)


def answer_locally(sitting: Sitting) -> None:
    """Draw the first answers that the journal lacks, with the random numbers that `easyrlhf generate` draws with."""
    config, prompts, critic = sitting.config, sitting.prompts, sitting.critic
    missing = [number for number, _ in sitting.journal.missing([(n, FIRST) for n in range(len(prompts))], "said")]
    if not missing:
        return
    own = isinstance(critic, LocalModel) and critic.name == config.model
    sampler = critic.at(config.temperature) if own else load_sampler(config.policy, sitting.renderer, config.batch_size)
    with counting_bar("answer", len(prompts), len(prompts) - len(missing)) as advance:
        for start in range(0, len(missing), config.batch_size):
            part = missing[start : start + config.batch_size]
            asked, ids = [prompts[n].record.prompt for n in part], [prompts[n].ids for n in part]
            answers = answers_to(sitting.renderer, sampler, asked, ids, [(config.seed, n, 0) for n in part])
            found = zip(part, answers, strict=True)
            sitting.journal.add(
                {"number": n, "name": FIRST} | Reply(one.text, finished=one.finished).as_dict() for n, one in found
            )
            advance(len(part))
    del sampler
    gc.collect()


def tally_revisions(tally: Counter, revised: list[Revised]) -> None:
    """Sum up for the last words."""
    tally.update(rows=sum(bool(one.steps) for one in revised))
    tally.update({NO_ANSWER: sum(not one.first.strip() for one in revised)})
    for one in revised:
        tally.update({f"{why}: {principle}": many for (why, principle), many in one.lost.items()})
        tally.update(changed=len(one.steps))


def revision_summary(config: ReviseConfig, output: Output) -> Iterator[str]:
    """What was written and left out, by principle, and what comes next."""
    tally = output.tally
    yield f"{output.file}: {tally['rows']:,} rows of {output.total:,} prompts, from {tally['changed']:,} revisions"
    lost: dict[str, list[str]] = {}
    for name, many in sorted(tally.items()):
        why, colon, principle = name.partition(": ")
        if colon and many:
            lost.setdefault(why, []).append(f"{principle} {many:,}")
    for why, parts in lost.items():
        yield f"revisions left out, {why}: {', '.join(parts)}"
    if tally[NO_ANSWER]:
        yield f"left out: {tally[NO_ANSWER]:,} {NO_ANSWER}"
    if tally["tokens"]:
        yield f"tokens read and written by critic and reviser: {tally['tokens']:,}"
    if tally["rows"]:
        stage = "sft_train" if config.to == "demonstrations" else "dpo_train"
        words: list[Any] = [stage, *(["--model", config.model] if config.model else [])]
        yield next_line([*words, "--train_data", str(output.file)])
