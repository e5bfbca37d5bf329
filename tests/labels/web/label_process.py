"""easyrlhf label serve in a process of its own, and people who label by HTTP."""

import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import requests

PROGRAM = "from easyrlhf.cli.main import main; main()"


@contextmanager
def serving(folder: Path, *more: str, names: str = "me"):
    """A server, and somebody who has opened each link: (process, post), where post(path, body) is the first one's.

    process.people holds the post of each.
    """
    command = [sys.executable, "-c", PROGRAM, "label", "serve", "--annotators", names]
    settings = ["--labels", str(folder), "--port", "0", *more]
    process = subprocess.Popen([*command, *settings], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        links = {}
        while "organiser" not in links:
            line = process.stdout.readline()
            assert line, process.stderr.read()
            name, _, link = line.partition(" ")
            links[name] = link.strip()
        process.people = {name: opened_by(links[name]) for name in names.split(",")}
        yield process, next(iter(process.people.values()))
    finally:
        process.kill()
        process.communicate()


def opened_by(link: str):
    """post(path, body) -> the JSON that comes back to somebody who has opened the link."""
    url = link.partition("/?")[0]
    session = requests.Session()
    session.headers.update({"Origin": url, "X-Easyrlhf": "1"})
    assert session.get(link).url == f"{url}/"
    return lambda path, body: session.post(f"{url}/api/{path}", json=body, timeout=30).json()
