"""A server that is killed in the middle of everything: what it acknowledged is there, once, and so is its record."""

import random
import threading

import pytest
import requests

from easyrlhf.labels.store import Store
from tests.labels.web.conftest import new_pair
from tests.labels.web.label_process import serving


def label_until_killed(post, name: str, number: int, acknowledged: dict, sent: dict) -> int:
    """Give labels until the server is gone; what was sent last is sent again first. Returns the next free number."""
    try:
        while True:
            if name not in sent:
                task = post("next", {})["task"]
                if task is None:
                    return number
                sent[name] = {"id": f"{name}-{number:06}", "item": task["item"], "value": number % 7 - 3, "scale": "7"}
                number += 1
            answer = post("label", sent[name])
            if answer["status"] in ("new", "known"):
                body = sent.pop(name)
                acknowledged[body["id"]] = body
    except requests.exceptions.RequestException:
        return number


def killed_again_and_again(folder, kills: int, labels: int, seed: int = 0) -> dict:
    """Two people label while the server is killed so many times: what was acknowledged, by id."""
    draws, acknowledged, sent, numbers = random.Random(seed), {}, {}, {"ann": 0, "bob": 0}
    with Store(folder, create=True) as store:
        store.add_items([new_pair(number) for number in range(labels // 2)])
    for done in range(kills + 1):
        with serving(folder, "--overlap", "2", names="ann,bob") as (process, _):

            def work(name: str, process=process) -> None:
                numbers[name] = label_until_killed(process.people[name], name, numbers[name], acknowledged, sent)

            threads = [threading.Thread(target=work, args=(name,)) for name in numbers]
            for thread in threads:
                thread.start()
            if done < kills:
                goal = labels * (done + 1) // (kills + 1) - draws.randrange(5)
                while len(acknowledged) < goal and any(thread.is_alive() for thread in threads):
                    threads[0].join(0.002)
                process.kill()
            for thread in threads:
                thread.join()
    return acknowledged


@pytest.mark.slow
def test_no_acknowledged_label_is_lost_or_doubled_when_the_server_is_killed(tmp_path):
    check_kills(tmp_path / "labels", kills=5, labels=300)


def check_kills(folder, kills: int, labels: int) -> None:
    """Raise AssertionError unless all that was acknowledged is in the store once, and its record beside it."""
    acknowledged = killed_again_and_again(folder, kills, labels)
    with Store(folder) as store:
        kept, events = store.labels(), [event for event in store.events() if event["what"] == "label"]
        assert {label.id for label in kept} == set(acknowledged) and len(kept) == labels
        assert len({(label.item, label.annotator) for label in kept}) == labels == len(events)
        values = {label.id: label.value * (1 if label.shown == [0, 1] else -1) for label in kept}
        assert values == {name: body["value"] for name, body in acknowledged.items()}
        assert {event["label"] for event in events} == set(acknowledged) and store.check() == "ok"
