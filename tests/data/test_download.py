"""Fetching data sets from servers in the test: they break off, throttle, redirect, and send what was not asked for."""

import gzip
import json
import os
import re
import subprocess
import sys
import threading
from collections import Counter
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest
import requests

from easyrlhf.errors import InputError, RunError
from easyrlhf.tools.downloading import download as downloading
from easyrlhf.tools.downloading import fetch as fetching
from easyrlhf.tools.downloading.download import HH_RLHF_ROWS, download, download_hh_rlhf

LINES = b"".join(json.dumps({"chosen": os.urandom(40).hex(), "rejected": str(i)}).encode() + b"\n" for i in range(99))
PACKED = gzip.compress(LINES)
PART = "helpful-base/test.jsonl.gz.part"


class Handler(BaseHTTPRequestHandler):
    """Answers with `server.files`, as `server.moods` says: one mood for each request, then as it should be."""

    def do_GET(self):
        server = self.server
        server.asked.append((self.path, self.headers.get("Range")))
        mood = server.moods.pop(0) if server.moods else ""
        if self.path not in server.files:
            return self.answer(404, b"nothing here")
        body = server.files[self.path]
        if mood.isdigit():
            return self.answer(int(mood), b"not now", {"Retry-After": "0"})
        if mood == "moved":
            return self.answer(302, b"", {"Location": "/elsewhere" + self.path})
        if mood == "page":
            return self.answer(200, b"<html>Please log in.</html>")
        if mood == "garbage":
            return self.answer(200, b"\x00\x01nothing that was asked for")
        if mood == "encoded":
            return self.answer(200, body, {"Content-Encoding": "gzip"})
        if mood == "damaged":
            return self.answer(200, body[:-30] + bytes(30))
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range", ""))
        first = int(start[1]) if start and mood != "no ranges" else 0
        if first >= len(body):
            return self.answer(416, b"", {"Content-Range": f"bytes */{len(body)}"})
        cut = first + 500 if mood == "cut" else len(body)
        ranged = {"Content-Range": f"bytes {first}-{len(body) - 1}/{len(body)}"} if first else {}
        return self.answer(206 if first else 200, body[first:cut], ranged, len(body) - first)

    def answer(self, status: int, body: bytes, headers: dict | None = None, length: int | None = None):
        self.send_response(status)
        for name, value in {"Content-Length": str(length or len(body)), **(headers or {})}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_):
        pass


def serve(handler):
    server = ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    server.url = f"http://127.0.0.1:{server.server_port}"
    return server


@pytest.fixture
def server(monkeypatch):
    """A server of helpful-base with 99 rows a split; .url, .files, .moods, .asked; and no waiting between attempts."""
    monkeypatch.setitem(HH_RLHF_ROWS, "helpful-base", {"train": 99, "test": 99})
    monkeypatch.setattr(fetching, "FIRST_PAUSE", 0.0)
    server = serve(Handler)
    server.files = {f"/helpful-base/{split}.jsonl.gz": PACKED for split in ("train", "test")}
    server.files |= {f"/elsewhere{path}": body for path, body in server.files.items()}
    server.moods, server.asked = [], []
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def fetch(server, tmp_path):
    """fetch(*moods) -> train.jsonl, where only this file is missing and the server's answers have these moods."""

    def _fetch(*moods: str):
        file = tmp_path / "helpful-base" / "train.jsonl"
        file.parent.mkdir(exist_ok=True)
        file.with_name("test.jsonl").write_bytes(b"{}\n")
        server.moods[:] = moods
        download_hh_rlhf(tmp_path, ["helpful-base"], server.url, say=lambda _: None)
        return file

    return _fetch


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_files_are_fetched_and_unpacked_and_nothing_else_stays(server, tmp_path):
    said = []
    train, test = download("hh-rlhf", tmp_path, ["helpful-base"], server.url + "/", said.append)
    assert train == tmp_path / "helpful-base" / "train.jsonl"
    assert train.read_bytes() == test.read_bytes() == LINES
    assert names(train.parent) == ["test.jsonl", "train.jsonl"]
    assert said[1] == f"{train}: 99 rows, 0.0 MB"


def test_what_is_there_is_not_fetched_again(server, fetch):
    fetch()
    assert [path for path, _ in server.asked] == ["/helpful-base/train.jsonl.gz"]


def test_a_download_that_breaks_off_goes_on_where_it_stopped(server, fetch):
    assert fetch("cut", "cut").read_bytes() == LINES
    assert [asked for _, asked in server.asked] == [None, "bytes=500-", "bytes=1000-"]


def test_the_next_run_goes_on_from_the_part_that_the_last_one_kept(server, fetch, monkeypatch, tmp_path):
    monkeypatch.setattr(fetching, "ATTEMPTS", 2)
    with pytest.raises(RunError) as error:
        fetch("cut", "cut")
    assert re.search(
        r"train\.jsonl\.gz: cannot be downloaded after 2 attempts \(the connection broke after 1,000 of .* bytes\); "
        r"1,000 bytes are kept, and the next run goes on from there; .*put the file at .*train\.jsonl\.gz by hand",
        str(error.value),
    )
    assert names(tmp_path / "helpful-base") == ["test.jsonl", "train.jsonl.gz.part"]
    server.asked.clear()
    assert fetch().read_bytes() == LINES
    assert [asked for _, asked in server.asked] == ["bytes=1000-"]
    assert names(tmp_path / "helpful-base") == ["test.jsonl", "train.jsonl"]


def test_a_server_without_ranges_sends_it_all_again(fetch):
    assert fetch("cut", "no ranges").read_bytes() == LINES


def test_a_server_that_calls_the_file_an_encoding_is_taken_by_its_bytes(fetch):
    assert fetch("encoded").read_bytes() == LINES


def test_a_part_that_is_whole_is_not_fetched_again(server, fetch, tmp_path):
    part = tmp_path / "helpful-base" / "train.jsonl.gz.part"
    part.parent.mkdir()
    part.write_bytes(PACKED)
    assert fetch().read_bytes() == LINES
    assert server.asked == [("/helpful-base/train.jsonl.gz", f"bytes={len(PACKED)}-")]


@pytest.mark.parametrize("old", [PACKED + b"more", b"\x1f\x8bof another version" * 9])
def test_a_part_of_another_file_is_found_out_and_fetched_anew(fetch, tmp_path, old):
    part = tmp_path / "helpful-base" / "train.jsonl.gz.part"
    part.parent.mkdir()
    part.write_bytes(old)
    assert fetch().read_bytes() == LINES


def test_throttling_and_server_errors_are_waited_out_and_redirects_followed(server, fetch):
    assert fetch("429", "503", "cut", "moved").read_bytes() == LINES
    assert server.asked[-1] == ("/elsewhere/helpful-base/train.jsonl.gz", "bytes=500-")


def test_every_further_attempt_is_announced_with_its_reason(server, tmp_path):
    said = []
    server.moods[:] = ["503", "cut"]
    download_hh_rlhf(tmp_path, ["helpful-base"], server.url, said.append)
    url = f"{server.url}/helpful-base/train.jsonl.gz"
    assert said[1] == f"{url}: HTTP Error 503: Service Unavailable; trying again in 0 s"
    assert said[2].startswith(f"{url}: the connection broke after 500 of ")


def test_pauses_double_and_follow_what_the_server_asks_for():
    def asks(seconds):
        answer = requests.Response()
        answer.headers["Retry-After"] = seconds
        return requests.HTTPError(response=answer)

    assert [fetching._pause(OSError(), attempt) for attempt in (0, 1, 2, 9)] == [1, 2, 4, 60]
    assert [fetching._pause(asks(text), 1) for text in ("7", "3600", "Fri, 01 Jan", "")] == [7, 60, 2, 2]


def test_a_missing_file_is_named_at_once(server, fetch):
    server.files.clear()
    with pytest.raises(RunError, match=r"train\.jsonl\.gz: cannot be downloaded \(HTTP Error 404.*check --base_url"):
        fetch()
    assert len(server.asked) == 1


@pytest.mark.parametrize(
    "mood, said", [("page", "a web page in place of a gzip file"), ("garbage", "something else in")]
)
def test_what_is_no_gzip_is_recognised_at_once_and_not_kept(server, fetch, tmp_path, mood, said):
    with pytest.raises(RunError, match=rf"train\.jsonl\.gz: the server sent {said}"):
        fetch(mood)
    assert len(server.asked) == 1
    assert names(tmp_path / "helpful-base") == ["test.jsonl"]


def test_a_page_in_place_of_the_rest_leaves_the_part_alone(fetch, tmp_path):
    with pytest.raises(RunError, match="web page"):
        fetch("cut", "page")
    assert (tmp_path / "helpful-base" / "train.jsonl.gz.part").read_bytes() == PACKED[:500]


def test_a_file_that_arrives_damaged_is_fetched_once_more(server, fetch):
    assert fetch("damaged").read_bytes() == LINES
    fetch().unlink()
    with pytest.raises(RunError, match=r"train\.jsonl\.gz\.part: damaged .*check that http"):
        fetch("damaged", "damaged")


def test_another_number_of_rows_than_published_is_an_error(server, monkeypatch, tmp_path):
    server.files["/helpful-base/train.jsonl.gz"] = gzip.compress(LINES[:-1].rpartition(b"\n")[0])
    monkeypatch.setattr(downloading, "HH_RLHF_URL", server.url)
    with pytest.raises(RunError, match=r"has 98 rows, but 99 were published"):
        download_hh_rlhf(tmp_path, ["helpful-base"], say=lambda _: None)
    assert not (tmp_path / "helpful-base" / "train.jsonl").exists()


def test_a_mirror_of_the_users_may_hold_parts_which_is_said(server, tmp_path):
    server.files["/helpful-base/train.jsonl.gz"] = gzip.compress(LINES[:-1].rpartition(b"\n")[0])
    said = []
    download_hh_rlhf(tmp_path, ["helpful-base"], server.url, say=said.append)
    assert any("train.jsonl: 98 rows (published were 99)" in line for line in said)
    assert (tmp_path / "helpful-base" / "train.jsonl").read_bytes().count(b"\n") == 97


def test_the_published_numbers_of_rows_add_up_to_those_of_the_whole():
    totals = Counter()
    for rows in HH_RLHF_ROWS.values():
        totals.update(rows)
    assert totals == {"train": 160_800, "test": 8_552}


def test_packed_files_that_are_there_are_unpacked_without_network_and_kept(server, tmp_path):
    folder = tmp_path / "helpful-base"
    folder.mkdir()
    (folder / "test.jsonl.gz").write_bytes(gzip.compress(LINES.rstrip(b"\n")))  # the last line without its end
    server.files.clear()
    with pytest.raises(RunError, match="404"):  # of train.jsonl.gz, after test.jsonl.gz was unpacked
        download_hh_rlhf(tmp_path, ["helpful-base"], server.url, say=lambda _: None)
    assert (folder / "test.jsonl").read_bytes() == LINES.rstrip(b"\n")
    assert names(folder) == ["test.jsonl", "test.jsonl.gz"]


def test_a_damaged_packed_file_is_named_and_kept(server, tmp_path):
    packed = tmp_path / "helpful-base" / "train.jsonl.gz"
    packed.parent.mkdir()
    packed.write_bytes(PACKED[:-9])
    with pytest.raises(RunError, match=r"train\.jsonl\.gz: damaged .*delete .*train\.jsonl\.gz and run again"):
        download_hh_rlhf(tmp_path, ["helpful-base"], server.url)
    assert names(packed.parent) == ["train.jsonl.gz"]


def test_a_folder_that_cannot_be_made_is_refused_before_anything_is_fetched(server, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(InputError, match=r"--output_dir .*file/helpful-base: cannot be created"):
        download_hh_rlhf(tmp_path / "file", ["helpful-base"], server.url)
    assert server.asked == []


def test_an_unreachable_host_is_named_with_the_way_out(server, tmp_path):
    with pytest.raises(RunError) as error:
        download_hh_rlhf(tmp_path, ["helpful-base"], "http://127.0.0.1:9")
    said = str(error.value)
    assert said.startswith(
        "http://127.0.0.1:9/helpful-base/train.jsonl.gz: cannot be downloaded after 6 attempts ([Errno "
    )
    assert "] Connection refused); check the network or proxy" in said
    assert f"put the file at {tmp_path}/helpful-base/train.jsonl.gz by hand" in said


@pytest.mark.parametrize(
    "words, said",
    [
        (
            ["hh-rlhf", "--subset", "helpfull"],
            "--subset helpfull: no such part of hh-rlhf; use helpful-base, helpful-on",
        ),
        (["hh"], "hh: no such data set; use hh-rlhf, slimorca-dedup or the id of one of the hub, OWNER/NAME"),
        (["hh-rlfh"], "hh-rlfh: no such data set; did you mean hh-rlhf?"),
        (["slimorca-dedup", "--subset", "x"], "--subset: slimorca-dedup has none"),
        (["hh-rlhf", "--base_url", "mirror/data"], "--base_url mirror/data: must begin with http"),
        (["a/b", "--base_url", "http://127.0.0.1:9"], "a/b: .*the hub (http://127.0.0.1:9) cannot be reached"),
    ],
)
def test_wrong_words_end_with_exit_code_2_and_the_right_ones(tmp_path, words, said):
    program = "from easyrlhf.cli.main import main; main()"
    done = subprocess.run(
        [sys.executable, "-c", program, "data", "download", *words], capture_output=True, text=True, cwd=tmp_path
    )
    assert done.returncode == 2, done.stderr
    assert re.search(re.escape(said).replace(r"\.\*", ".*"), done.stderr)
    assert list(tmp_path.iterdir()) == []


# --- data sets of the hub

COMMIT = "a" * 40
HUB_FILES = {"train.jsonl": b'{"conversations": [], "id": 1}\n{"conversations": [], "id": 2}\n', "README.md": b"# x\n"}


class Hub(BaseHTTPRequestHandler):
    """As much of the hub as its library asks for: the list of files, then each file."""

    def do_GET(self):
        self.server.asked.append(self.path)
        if self.path.startswith(f"/api/datasets/owner/toy/tree/{COMMIT}"):
            files = [{"type": "file", "path": name, "size": len(body), "oid": name} for name, body in HUB_FILES.items()]
            return self.answer(200, json.dumps(files).encode(), {"Content-Type": "application/json"})
        if self.path.startswith("/api/datasets/owner/toy/"):
            files = [{"rfilename": name} for name in HUB_FILES]
            body = json.dumps({"id": "owner/toy", "sha": COMMIT, "siblings": files, "private": False}).encode()
            return self.answer(200, body, {"Content-Type": "application/json"})
        name = self.path.removeprefix(f"/datasets/owner/toy/resolve/{COMMIT}/")
        if name in HUB_FILES:
            return self.answer(200, HUB_FILES[name], {"ETag": f'"{name}"', "X-Repo-Commit": COMMIT})
        return self.answer(404, b"", {"X-Error-Code": "RepoNotFound"})

    do_HEAD = do_GET

    def answer(self, status: int, body: bytes, headers: dict):
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_):
        pass


@pytest.fixture
def hub(monkeypatch, tmp_path):
    """A mirror of the hub that has owner/toy; the caches of the hub's libraries are in tmp_path."""
    monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", tmp_path / "cache")
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    server = serve(Hub)
    server.asked = []
    yield server
    server.shutdown()
    server.server_close()


def test_a_data_set_of_a_mirror_of_the_hub_becomes_jsonl(hub, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(downloading.SHORT_NAMES, "toy", "owner/toy@train")
    said = []
    (file,) = download("toy", base_url=hub.url, say=said.append)
    assert str(file) == "data/toy/train.jsonl"
    assert [json.loads(line)["id"] for line in file.read_text().splitlines()] == [1, 2]
    assert said == ["data/toy/train.jsonl: 2 rows, 0.0 MB"]
    assert download("owner/toy", "data/toy", base_url=hub.url, say=said.append) == [file]
    assert said[1:] == ["data/toy/train.jsonl: is there"]
    assert names(file.parent) == ["train.jsonl"]


@pytest.mark.parametrize("name", ["owner/nothing", "owner/toy@nothing", "owner/toy:nothing"])
def test_what_the_hub_does_not_have_is_an_input_error(hub, tmp_path, name):
    with pytest.raises(InputError, match=f"{name}: cannot be fetched .*check the spelling"):
        download(name, tmp_path / "out", base_url=hub.url)
    assert not (tmp_path / "out").exists()
