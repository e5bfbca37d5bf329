"""Fetching hh-rlhf from a server in the test."""

import gzip
import threading
from functools import partial
from http.server import SimpleHTTPRequestHandler, ThreadingHTTPServer

import pytest

from easyrlhf.errors import InputError, RunError
from easyrlhf.tools.download import download_hh_rlhf

LINE = b'{"chosen": "a", "rejected": "b"}\n'


class Handler(SimpleHTTPRequestHandler):
    """Serves a folder, notes what was asked for, and breaks off where told to."""

    asked: list[str]
    cut = False

    def do_GET(self):
        self.asked.append(self.path)
        super().do_GET()

    def copyfile(self, source, outputfile):
        outputfile.write(source.read()[: 20 if self.cut else None])

    def log_message(self, *_):
        pass


@pytest.fixture
def server(tmp_path):
    """A hub with helpful-base only; .url, .handler."""
    folder = tmp_path / "hub" / "helpful-base"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(LINE * len(split)))
    handler = type("OneHandler", (Handler,), {"asked": []})
    http = ThreadingHTTPServer(("127.0.0.1", 0), partial(handler, directory=tmp_path / "hub"))
    thread = threading.Thread(target=http.serve_forever, daemon=True)
    thread.start()
    http.url, http.handler = f"http://127.0.0.1:{http.server_port}", handler
    yield http
    http.shutdown()
    http.server_close()


def fetch(server, folder, **more):
    return download_hh_rlhf(folder, ["helpful-base"], server.url, say=lambda _: None, **more)


def test_files_are_fetched_and_unpacked_and_nothing_else_stays(server, tmp_path):
    train, test = fetch(server, tmp_path / "out")
    assert train == tmp_path / "out" / "helpful-base" / "train.jsonl"
    assert train.read_bytes() == LINE * 5
    assert test.read_bytes() == LINE * 4
    assert sorted(p.name for p in train.parent.iterdir()) == ["test.jsonl", "train.jsonl"]


def test_what_is_there_is_not_fetched_again(server, tmp_path):
    fetch(server, tmp_path / "out")
    server.handler.asked.clear()
    (tmp_path / "out" / "helpful-base" / "test.jsonl").unlink()
    fetch(server, tmp_path / "out")
    assert server.handler.asked == ["/helpful-base/test.jsonl.gz"]


def test_packed_files_that_are_there_are_unpacked_without_network(tmp_path):
    folder = tmp_path / "out" / "harmless-base"
    folder.mkdir(parents=True)
    for split in ("train", "test"):
        (folder / f"{split}.jsonl.gz").write_bytes(gzip.compress(LINE))
    train, _ = download_hh_rlhf(tmp_path / "out", ["harmless-base"], "http://127.0.0.1:9")
    assert train.read_bytes() == LINE


def test_an_unreachable_host_is_named_with_the_way_out(tmp_path):
    with pytest.raises(RunError) as error:
        download_hh_rlhf(tmp_path, ["helpful-base"], "http://127.0.0.1:9")
    said = str(error.value)
    assert said.startswith("http://127.0.0.1:9/helpful-base/train.jsonl.gz: cannot be downloaded")
    assert f"put the file at {tmp_path}/helpful-base/train.jsonl.gz by hand" in said


def test_a_missing_file_on_the_server_is_named(server, tmp_path):
    with pytest.raises(RunError, match=r"harmless-base/train\.jsonl\.gz: cannot .*404"):
        download_hh_rlhf(tmp_path / "out", ["harmless-base"], server.url)


def test_a_download_that_breaks_off_leaves_nothing_behind(server, tmp_path):
    server.handler.cut = True
    with pytest.raises(RunError, match="broke after 20 of"):
        fetch(server, tmp_path / "out")
    assert list((tmp_path / "out" / "helpful-base").iterdir()) == []


def test_a_damaged_packed_file_is_named_and_kept(tmp_path):
    packed = tmp_path / "helpful-base" / "train.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(gzip.compress(LINE * 999)[:-9])
    with pytest.raises(RunError, match=r"train\.jsonl\.gz: damaged .*delete it and run again"):
        download_hh_rlhf(tmp_path, ["helpful-base"], "http://127.0.0.1:9")
    assert [p.name for p in packed.parent.iterdir()] == ["train.jsonl.gz"]


def test_an_unknown_subset_is_answered_with_the_known_ones(tmp_path):
    with pytest.raises(InputError, match=r"--subset helpfull: .*helpful-base, helpful-online"):
        download_hh_rlhf(tmp_path, ["helpfull"])
