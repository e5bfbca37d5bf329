"""A finished folder on the Hugging Face hub: what stands in the way is looked for first, then it is uploaded.

The token is huggingface_hub's own (HF_TOKEN, hf auth login), the hub is HF_ENDPOINT.
"""

import importlib.metadata
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from easyrlhf.errors import EasyRLHFError, InputError, RunError
from easyrlhf.run.manifest import read_stage

if TYPE_CHECKING:
    from huggingface_hub import HfApi

# What is for going on alone, and what a tracker notes of the machine.
LEFT_OUT = ("checkpoints/*", "cache/*", "logs/*", "runs/wandb/*", ".*", "*/.*")
# Of these, what an earlier upload left and this one has not is deleted there: weights of two models must not mix.
REPLACED = ("*.safetensors", "*.safetensors.index.json")
REASON = 300  # characters


def check_push(flag: str, repository: str, private: bool) -> None:
    """Raise InputError, which begins with the flag, unless the hub would take an upload; nothing is made there.

    repository  OWNER/NAME, or NAME of the account's own
    """
    from huggingface_hub import constants, get_token

    said = f"{flag} {repository}"
    if constants.HF_HUB_OFFLINE:
        raise InputError(f"{said}: HF_HUB_OFFLINE is set; unset it, or upload later with easyrlhf push")
    if get_token() is None:
        raise InputError(f"{said}: there is no token for {constants.ENDPOINT}; run hf auth login, or set HF_TOKEN")
    api = our_api()
    with explained(InputError, said):
        me = api.whoami()
    owner = repository.partition("/")[0] if "/" in repository else me["name"]
    if wrong := why_not(me, owner):
        raise InputError(f"{said}: {wrong}")
    with explained(InputError, said):
        if wrong := why_not_there(api, f"{owner}/{repository.rpartition('/')[2]}", private):
            raise InputError(f"{said}: {wrong}")


def why_not(me: dict, owner: str) -> str | None:
    """Why the account, as whoami describes it, cannot write to a repository of the owner; None when it can."""
    token = me.get("auth", {}).get("accessToken", {})
    scopes = [word for scope in token.get("fineGrained", {}).get("scoped", []) for word in scope["permissions"]]
    if token.get("role") == "read" or (token.get("role") == "fineGrained" and "repo.write" not in scopes):
        return "the token may only read; make one that may write"
    roles = {me["name"]: "admin"} | {group["name"]: group.get("roleInOrg", "") for group in me.get("orgs", [])}
    if owner not in roles:
        return f"{owner} is neither you ({me['name']}) nor an organisation of yours"
    return f"you may only read what is {owner}'s" if roles[owner] == "read" else None


def why_not_there(api: "HfApi", repository: str, private: bool) -> str | None:
    """What speaks against a repository that is there: that all can read it, against the settings. None if nothing.

    Raises what the hub's library raises when it must not be written.
    """
    from huggingface_hub.errors import RepositoryNotFoundError

    try:
        found = api.repo_info(repository)
    except RepositoryNotFoundError:
        return None
    if private and not found.private:
        return "is there already, and everybody can read it; give --no_hub_private if that is meant, or another name"
    api.auth_check(repository, write=True)
    return None


def push(folder: Path, repository: str, private: bool) -> str:
    """Upload a folder as it stands, without what is for going on alone; returns where it is and who can read it.

    private  of a repository that is made; into one that is public nothing is uploaded then
    Raises RunError when the hub does not take it.
    """
    from huggingface_hub.utils import disable_progress_bars

    if not sys.stderr.isatty():
        disable_progress_bars()
    api, said = our_api(), f"{folder}: could not be uploaded to {repository}"
    with explained(RunError, said):
        made = api.create_repo(repository, private=private, exist_ok=True)
        if wrong := why_not_there(api, made.repo_id, private):
            raise RunError(f"{said}: {wrong}")
        api.upload_folder(
            repo_id=made.repo_id,
            folder_path=folder,
            commit_message=what_it_is(folder),
            ignore_patterns=list(LEFT_OUT),
            delete_patterns=list(REPLACED),
        )
        return f"{made.url} ({'private' if api.repo_info(made.repo_id).private else 'public'})"


def push_or_say(folder: Path, repository: str, private: bool) -> str:
    """As push, but a failure is a sentence with the command that tries again: the folder itself is finished."""
    try:
        return f"uploaded to {push(folder, repository, private)}"
    except RunError as error:
        again = f"easyrlhf push {shlex.quote(str(folder))} {repository}{' --no_hub_private' * (not private)}"
        return f"warning: {error}. The folder is complete; upload it later: {again}"


def what_it_is(folder: Path) -> str:
    """The message of the commit: stage and step."""
    info = read_stage(folder) or read_stage(folder.resolve().parent)
    version = f"easyrlhf {importlib.metadata.version('easyrlhf')}"
    if "step" not in info:
        return f"{info.get('stage', 'upload')} by {version}"
    return f"{info['stage']}, step {info.get('best', info)['step']}, by {version}"


def our_api() -> "HfApi":
    """The hub as huggingface_hub's own variables describe it."""
    from huggingface_hub import HfApi

    return HfApi(library_name="easyrlhf", library_version=importlib.metadata.version("easyrlhf"))


@contextmanager
def explained(kind: type[EasyRLHFError], said: str) -> Iterator[None]:
    """Turn whatever the hub's library raises into one sentence of ours."""
    try:
        yield
    except EasyRLHFError:
        raise
    except Exception as error:  # the hub's answers, and whatever the HTTP client of this version raises
        from huggingface_hub import constants

        raise kind(f"{said}: {constants.ENDPOINT}: {hub_reason(error)}") from error


def hub_reason(error: Exception) -> str:
    """What the hub or the connection says, with what was behind it, on one line."""
    status = getattr(getattr(error, "response", None), "status_code", None)
    if status in (401, 403):
        return f"refuses the token ({' '.join(str(error).split())[:REASON]})"
    causes = [error, *([error.__cause__] if error.__cause__ else [])]
    return " ".join(" ".join(f"{type(one).__name__}: {one}" for one in causes).split())[:REASON]
