"""Live conversations: two answers are drawn, one is preferred and becomes history, and a restart loses nothing."""

import pytest

from easyrlhf.config import LabelServeConfig
from easyrlhf.errors import SettingError
from easyrlhf.labels.conversations import send_message
from tests.labels.web.conftest import shown_texts


@pytest.fixture
def talking(desk_of, talks_of):
    """talking(**settings) -> a server whose models answer, in the same folder each time."""
    return lambda **settings: desk_of((), talks_of, devices="cpu", max_new_tokens=6, **settings)


def label(task: dict, number: int, value: int) -> dict:
    return {"id": f"label-{number:03}", "item": task["item"], "value": value, "scale": task["scale"]}


def test_the_preferred_answer_becomes_history_and_undo_takes_it_out_again(talking, person, folders):
    desk = talking(chat=str(folders / "one"))
    ann = person(desk)
    _, given = ann.post("next")
    assert given["task"] is None and given["composing"] and given["talk"] == []
    _, given = ann.post("say", {"text": "hello there"})
    task = given["task"]
    assert task["kind"] == "chat" and task["prompt"] == [{"role": "user", "content": "hello there"}]
    first, second = shown_texts(task)
    assert first != second and first.strip() and second.strip()
    assert ann.post("say", {"text": "and now?"})[0] == 422  # the pair comes first
    assert ann.post("skip", {"item": task["item"], "reason": "no"})[0] == 422
    _, given = ann.post("label", label(task, 1, -2))
    assert given["composing"] and [turn["content"] for turn in given["talk"]] == ["hello there", second]
    _, back = ann.post("undo")
    assert back["task"] == task
    _, given = ann.post("label", label(task, 2, 0))  # a tie goes on with what was shown first
    assert given["talk"][-1]["content"] == first
    assert given["progress"] == {"done": 1, "left": None}
    _, given = ann.post("new_conversation")
    assert given["talk"] == [] and ann.post("new_conversation")[1]["talk"] == []


def test_two_models_answer_and_a_restart_goes_on_where_it_was(talking, person, folders):
    settings = {"chat": str(folders / "one"), "chat_against": str(folders / "two")}
    desk = talking(**settings)
    _, given = person(desk).post("say", {"text": "hello"})
    sources = desk.store.item(given["task"]["item"]).sources
    assert [source["model"] for source in sources] == [str(folders / "one"), str(folders / "two")]
    again = person(talking(**settings))
    assert again.post("next")[1]["task"] == given["task"]
    _, after = again.post("label", label(given["task"], 1, 3))
    assert after["talk"][-1]["content"] == shown_texts(given["task"])[0]
    send_message(desk.store, 1, "and then?")  # the server ended before it had answered
    _, waited = person(talking(**settings)).post("next")
    assert waited["task"]["prompt"][-1] == {"role": "user", "content": "and then?"}


def test_what_cannot_be_answered_is_refused_before_it_is_kept(talking, desk_of, person, folders):
    desk = talking(chat=str(folders / "one"), max_length=32)
    ann = person(desk)
    ann.post("next")
    status, told = ann.post("say", {"text": "word " * 4000})
    assert status == 400 and "tokens" in told["error"]["message"]
    assert ann.post("say", {"text": "  "})[0] == 422
    assert ann.post("next")[1]["talk"] == []
    plain = person(desk_of())
    assert plain.post("say", {"text": "hello"})[0] == 404 == plain.post("new_conversation")[0]


@pytest.mark.parametrize(
    "settings, message",
    [
        ({"chat_against": "x"}, "chat_against: is the other model"),
        ({"chat": "x", "temperature": 0}, "temperature 0: one model gives the same answer twice"),
        ({"annotators": "ann,ann"}, "annotators ann: is there twice"),
        ({"annotators": "organiser"}, "annotators organiser: is the name of who decides"),
        ({"annotators": ","}, "annotators: names nobody"),
        ({"flags": "ok,Not Ok"}, "flags Not Ok: must be of small letters"),
        ({"scale": "5"}, "scale 5: must be one of 7, 8, 3, 2, likert"),
        ({"public_url": "http://x.example"}, "public_url http://x.example: must be https:// and a name"),
        ({"public_url": "https://x.example/path"}, "public_url https://x.example/path: must be https:// and a name"),
        ({"until": 0}, "until 0: must be 1 or more"),
        ({"allow_hosts": "x:80"}, "allow_hosts x:80: must be a name or an address, without a port"),
    ],
)
def test_settings_that_cannot_be_are_refused(settings, message):
    with pytest.raises(SettingError) as error:
        LabelServeConfig(**settings)
    assert str(error.value).startswith(message)
