"""easyrlhf label serve: what it says, what it refuses, and how it ends."""

import re
import signal

import pytest

from easyrlhf.config import LabelServeConfig
from easyrlhf.errors import InputError, RunStopped
from easyrlhf.labels.rows import NewLabel
from easyrlhf.labels.store import Store
from easyrlhf.tools.labelling import serve
from easyrlhf.web import listening
from tests.labels.web.conftest import new_pair
from tests.labels.web.label_process import serving


@pytest.fixture
def folder(tmp_path):
    """A folder with three pairs to label."""
    with Store(tmp_path / "labels", create=True) as store:
        store.add_items([new_pair(number) for number in range(3)])
    return tmp_path / "labels"


@pytest.fixture
def said(folder, monkeypatch, capsys):
    """said(labels, **settings) -> the lines of a server that is stopped when so many labels have been given."""

    def begin(labels: int = 0, **settings) -> list[str]:
        def run(config, desk, talks, listener) -> None:
            annotator = desk.store.annotators()[0].id
            for number in range(labels):
                given = desk.store.next_item(annotator)
                desk.store.add_label(NewLabel(f"label-{number}", given.item.id, annotator, 1, "7"))

        monkeypatch.setattr(serve, "run_until_enough", run)
        serve.serve_labels(LabelServeConfig(labels=str(folder), port=0, **settings))
        return capsys.readouterr().out.splitlines()

    return begin


def test_it_prints_a_link_a_person_and_the_organisers(said, folder):
    lines = said(2, annotators="ann,bob", overlap=2)
    assert lines[0] == f"{folder}/labels.db: 3 pairs; 2 labels each; 0 labels of people are there"
    links = [re.fullmatch(r"(\w+) +http://127\.0\.0\.1:\d+/\?key=([\w-]{22})", line).groups() for line in lines[1:4]]
    assert [name for name, _ in links] == ["ann", "bob", "organiser"] and len({key for _, key in links}) == 3
    assert lines[4:] == ["Ctrl-C ends it; what is labelled is on disk", "ended; 2 labels of people are there"]
    with Store(folder) as store:
        assert [store.annotator_of(key).name for _, key in links] == ["ann", "bob", "organiser"]


def test_links_begin_with_the_public_address_and_plain_http_is_warned_of(said):
    assert "me         https://labels.example/?key=" in said(public_url="https://labels.example/")[1]
    lines = said(host="0.0.0.0")
    assert lines[3].startswith("warning: --host 0.0.0.0: answers, labels and links cross the network as plain HTTP")
    assert "ssh -L" in lines[3] and "--public_url https://NAME" in lines[3]


def test_until_ends_with_exit_code_3_before_it_is_reached_and_at_once_after(said, folder):
    with pytest.raises(RunStopped, match=r"2 of 3 labels are there\. The same command goes on") as error:
        said(2, until=3)
    assert error.value.exit_code == 3
    with Store(folder) as store:
        store.add_label(NewLabel("last-one", 3, 1, 1, "7"))
    assert said(until=3)[-1:] == [f"{folder}/labels.db: 3 labels of people are there, as many as --until asks for"]


def test_more_labels_than_there_can_be_are_refused(said, folder):
    with pytest.raises(InputError, match=r"--until 4: the items labelled by 1 of 1 people give 3 labels at most; low"):
        said(until=4)
    said(2)  # labels that are there take room, and make none
    with pytest.raises(InputError, match=r"--until 4: the items labelled by 1 of 1 people give 3 labels"):
        said(until=4)
    with pytest.raises(InputError, match=r"--until 7: the items labelled by 2 of 2 people give 6 labels"):
        said(until=7, overlap=3, annotators="me,you")


def test_what_was_skipped_is_no_fault_of_until_and_ends_it_when_all_else_is_labelled(said, folder):
    with Store(folder) as store:
        me = store.annotator("me").id
        store.skip(me, 2, "cannot tell")
    with pytest.raises(RunStopped, match=r"1 of 3 labels are there"):
        said(1, until=3)
    with Store(folder) as store:
        store.add_label(NewLabel("last-one", 3, me, 1, "7"))
    assert said(until=3)[-1] == (
        f"{folder}/labels.db: 2 labels of people are there, not the 3 of --until: all that is left was skipped by "
        "everyone who labels, or was decided. Name more --annotators, or import more items, to get more"
    )
    with pytest.raises(RunStopped, match=r"2 of 3 labels are there"):
        said(until=3, annotators="me,you")  # who has not skipped it


def test_a_server_ends_well_when_its_people_have_skipped_the_rest(said, folder):
    """Ctrl-C then is no early end, and the next command of a script goes on with the labels that there are."""
    with Store(folder) as store:
        store.skip(store.annotator("me").id, 1, "cannot tell")
    assert said(2, until=3)[-1].startswith("ended; 2 labels of people are there, not the 3 of --until: all that is")


def test_a_second_server_of_the_same_folder_is_refused(said, folder):
    from easyrlhf.files import hold_file

    with (
        hold_file(folder / "serve.lock", "taken"),
        pytest.raises(InputError, match=f"--labels {folder}: another easyrlhf label serve is at work there"),
    ):
        said()
    assert said()[-1].startswith("ended")


def test_what_is_not_there_is_said(said, tmp_path, monkeypatch):
    with pytest.raises(InputError, match=f"--labels {tmp_path}/none: no labels are there; easyrlhf label import"):
        serve.serve_labels(LabelServeConfig(labels=str(tmp_path / "none")))
    Store(tmp_path / "empty", create=True).close()
    with pytest.raises(InputError, match="holds nothing to label; easyrlhf label import FILE"):
        serve.serve_labels(LabelServeConfig(labels=str(tmp_path / "empty")))
    with pytest.raises(InputError, match=r"--guidelines .*cannot be read \(No such file"):
        said(guidelines=str(tmp_path / "none.txt"))
    (tmp_path / "latin.txt").write_bytes(b"\xe9")
    with pytest.raises(InputError, match=r"--guidelines .*cannot be read \(it is not UTF-8"):
        said(guidelines=str(tmp_path / "latin.txt"))
    monkeypatch.setattr(listening, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"easyrlhf label serve needs a web server.*pip install 'easyrlhf\[label\]'"):
        said()


def give_one(post) -> dict:
    """Label what comes; the answer of the server."""
    item = post("next", {})["task"]["item"]
    return post("label", {"id": "by-http-1", "item": item, "value": 1, "scale": "7"})


@pytest.mark.parametrize(
    "until, code", [pytest.param([], 0, marks=pytest.mark.slow), (["--until", "3"], 3)], ids=["endless", "until"]
)
def test_ctrl_c_ends_a_process_and_labels_are_on_disk(folder, until, code):
    with serving(folder, *until) as (process, post):
        assert give_one(post)["status"] == "new"
        process.send_signal(signal.SIGINT)
        out, err = process.communicate(timeout=60)
    assert process.returncode == code, err
    assert "Traceback" not in err and ("1 of 3 labels are there" in err if until else "1 labels of people" in out)
    with Store(folder) as store:
        assert [label.id for label in store.labels()] == ["by-http-1"]


@pytest.mark.slow
def test_a_process_ends_by_itself_when_enough_labels_are_there(folder):
    with serving(folder, "--until", "1") as (process, post):
        assert give_one(post)["title"] == "All 1 labels are there."
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0 and "ended; 1 labels of people are there" in out


def test_a_label_that_was_acknowledged_outlives_a_server_that_is_killed(folder):
    with serving(folder) as (process, post):
        assert give_one(post)["status"] == "new"
        process.kill()
    with Store(folder) as store:
        assert [label.id for label in store.labels()] == ["by-http-1"] and store.check() == "ok"
    with serving(folder) as (_, post):  # the lock is gone with the process
        assert post("label", {"id": "by-http-1", "item": 1, "value": 1, "scale": "7"})["status"] == "known"
