"""Folders on the hub: what arrives, byte by byte; what is said before, and when the hub does not take it."""

import json
import re

import pytest

from easyrlhf.errors import InputError, RunError
from easyrlhf.run.upload import check_push, push, push_or_say
from easyrlhf.tools.push import push_run

NOT_SENT = ("checkpoints/", "cache/", "logs/", "runs/wandb/")


def sent(folder):
    """What is to arrive of a folder: path → bytes."""
    files = {path.relative_to(folder).as_posix(): path for path in folder.rglob("*") if path.is_file()}
    return {
        name: path.read_bytes()
        for name, path in files.items()
        if not name.startswith(NOT_SENT) and not path.name.startswith(".")
    }


def test_the_folder_arrives_byte_by_byte_in_one_commit_of_a_private_repository(hub, run_folder, capsys):
    push_run(str(run_folder), "my-dpo", private=True)
    found = hub.repositories["me/my-dpo"]
    assert found["files"] == sent(run_folder)
    assert len(found["files"]) == 11
    assert found["private"] is True
    assert found["commits"] == ["dpo, step 7, by easyrlhf 0.1.0"]
    assert capsys.readouterr().out == f"uploaded to {hub.url}/me/my-dpo (private)\n"


def test_a_repository_is_public_only_when_that_is_asked_for(hub, run_folder, capsys):
    push_run(str(run_folder), "team/dpo", private=False)
    assert hub.repositories["team/dpo"]["private"] is False
    hub.make("me/dpo", private=True)  # which stays what it is
    push_run(str(run_folder), "me/dpo", private=False)
    said = [f"uploaded to {hub.url}/team/dpo (public)", f"uploaded to {hub.url}/me/dpo (private)"]
    assert capsys.readouterr().out.splitlines() == said


def test_a_second_upload_replaces_weights_and_keeps_what_others_put_there(hub, run_folder):
    there = hub.make("me/dpo", files={"model-00001-of-00002.safetensors": b"old", "notes.md": b"mine"})
    there["files"]["model.safetensors.index.json"] = b"old"
    push_run(str(run_folder), "me/dpo", private=True)
    assert there["files"] == sent(run_folder) | {"notes.md": b"mine"}


def test_an_adapter_is_uploaded_by_itself(hub, run_folder):
    push_run(str(run_folder / "adapter"), "lora", private=True)
    assert sorted(hub.repositories["me/lora"]["files"]) == ["adapter_config.json", "adapter_model.safetensors"]
    assert hub.repositories["me/lora"]["commits"] == ["dpo, step 7, by easyrlhf 0.1.0"]


def test_the_step_of_the_best_weights_is_named(hub, run_folder):
    info = {"status": "complete", "stage": "sft", "step": 7, "best": {"step": 5}, "files": {}}
    (run_folder / "stage.json").write_text(json.dumps(info))
    push(run_folder, "sft", private=True)
    assert hub.repositories["me/sft"]["commits"] == ["sft, step 5, by easyrlhf 0.1.0"]


@pytest.mark.parametrize(
    "change, said",
    [
        ({"role": "read"}, "the token may only read; make one that may write"),
        (
            {"role": "fineGrained", "fineGrained": {"scoped": [{"permissions": ["repo.content.read"]}]}},
            "the token may only read",
        ),
    ],
)
def test_a_token_that_cannot_write_is_said_before(hub, change, said):
    hub.me["auth"]["accessToken"] = change
    with pytest.raises(InputError, match=f"--push_to_hub dpo: {said}"):
        check_push("--push_to_hub", "dpo", private=True)
    assert hub.repositories == {}


def test_a_fine_grained_token_that_may_write_is_taken_and_nothing_is_made(hub):
    scopes = [{"permissions": ["repo.content.read"]}, {"permissions": ["repo.write"]}]
    hub.me["auth"]["accessToken"] = {"role": "fineGrained", "fineGrained": {"scoped": scopes}}
    check_push("--push_to_hub", "dpo", private=True)
    assert hub.repositories == {} and ("POST", "/api/repos/create") not in hub.asked


@pytest.mark.parametrize(
    "name, said",
    [
        ("outputs/sft", r"outputs is neither you \(me\) nor an organisation of yours"),
        ("readers/sft", "you may only read what is readers's"),
        ("me/open", "is there already, and everybody can read it; give --no_hub_private if that is meant"),
    ],
)
def test_a_repository_that_will_not_do_is_said_before(hub, name, said):
    hub.me["orgs"].append({"name": "readers", "roleInOrg": "read"})
    hub.make("me/open", private=False)
    with pytest.raises(InputError, match=f"--push_to_hub {name}: {said}"):
        check_push("--push_to_hub", name, private=True)


def test_a_public_repository_takes_what_is_to_be_public(hub):
    hub.make("me/open", private=False)
    check_push("--push_to_hub", "me/open", private=False)


@pytest.mark.parametrize("status, said", [(401, "refuses the token"), (403, "refuses the token"), (500, "error '500")])
def test_a_repository_that_must_not_be_written_is_said_before(hub, status, said):
    hub.make("me/dpo")
    hub.faults["GET", "auth-check/write"] = status
    with pytest.raises(InputError, match=f"--push_to_hub dpo: {hub.url}: .*{said}"):
        check_push("--push_to_hub", "dpo", private=True)


def test_a_wrong_token_no_token_and_no_network_are_said_before_and_the_token_is_not(hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_secretsecret")
    with pytest.raises(InputError, match=r"refuses the token .*Invalid user token") as caught:
        check_push("--push_to_hub", "dpo", private=True)
    assert "hf_secretsecret" not in str(caught.value)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="--push_to_hub dpo: HF_HUB_OFFLINE is set; unset it, or upload later"):
        check_push("--push_to_hub", "dpo", private=True)
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"--push_to_hub dpo: http://127.0.0.1:9: ConnectError"):
        check_push("--push_to_hub", "dpo", private=True)
    monkeypatch.setattr("huggingface_hub.get_token", lambda: None)
    with pytest.raises(InputError, match=r"there is no token for http://127.0.0.1:9; run hf auth login, or set HF_TOK"):
        check_push("--push_to_hub", "dpo", private=True)


@pytest.mark.parametrize(
    "fault, what, said",
    [
        (("POST", "repos/create"), 401, "refuses the token"),
        (("POST", "repos/create"), 403, "refuses the token"),
        (("POST", "preupload"), 500, "error '500"),
        (("POST", "objects/batch"), 403, "refuses the token"),
        (("PUT", "/lfs/"), 500, "error '500"),
        (("PUT", "/lfs/"), "cut", "Error while uploading .*disconnected"),
        (("POST", "/commit/"), 409, "error '409"),
        (("POST", "/commit/"), 500, "error '500"),
        (("POST", "/commit/"), "cut", "disconnected"),
    ],
)
def test_an_upload_that_fails_is_one_line_with_the_command_that_tries_again(hub, run_folder, fault, what, said):
    before = sent(run_folder)
    hub.faults[fault] = what
    told = push_or_say(run_folder, "me/dpo", private=True)
    assert re.match(f"warning: {run_folder}: could not be uploaded to me/dpo: {hub.url}: .*{said}", told)
    assert "\n" not in told
    assert told.endswith(f"The folder is complete; upload it later: easyrlhf push '{run_folder}' me/dpo")
    assert sent(run_folder) == before


def test_nothing_goes_into_a_repository_that_has_become_public(hub, run_folder):
    there = hub.make("me/dpo", private=False)
    with pytest.raises(RunError, match="me/dpo: is there already, and everybody can read it"):
        push(run_folder, "me/dpo", private=True)
    assert there["files"] == {}
    hub.faults["POST", "repos/create"] = 500
    assert push_or_say(run_folder, "me/dpo", private=False).endswith("me/dpo --no_hub_private")


@pytest.mark.parametrize(
    "folder, said",
    [
        ("nowhere", "DIR .*nowhere: no such folder"),
        ("plots", r"DIR .*plots: has neither config.json nor adapter_config.json; give the output folder of a run"),
    ],
)
def test_what_is_no_model_is_not_uploaded(hub, run_folder, folder, said):
    with pytest.raises(InputError, match=said):
        push_run(str(run_folder / folder), "dpo", private=True)
    assert hub.asked == []


def test_an_unfinished_run_and_a_wrong_name_are_not_uploaded(hub, run_folder):
    with pytest.raises(InputError, match="REPO a--b: must be the repository: OWNER/NAME"):
        push_run(str(run_folder), "a--b", private=True)
    (run_folder / "stage.json").write_text(json.dumps({"status": "stopped", "stage": "dpo", "step": 3}))
    with pytest.raises(InputError, match="its dpo run is not complete"):
        push_run(str(run_folder), "dpo", private=True)
    assert hub.asked == []
