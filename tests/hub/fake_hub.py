"""As much of the hub as its library asks for when it uploads: who am I, repositories, LFS, commits."""

import base64
import json
import threading
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

TOKEN = "hf_theTokenOfTheTests"


class Hub:
    """What is on the hub, and how it behaves.

    repositories  id → {"name", "private", "files": path → bytes, "commits": [message]}
    faults        (method, part of the path) → status, or "cut": the connection ends without an answer
    """

    def __init__(self):
        self.me = {"type": "user", "name": "me", "orgs": [{"name": "team", "roleInOrg": "write"}]}
        self.me["auth"] = {"accessToken": {"role": "write"}}
        self.repositories: dict[str, dict] = {}
        self.stored: dict[str, bytes] = {}
        self.faults: dict[tuple[str, str], int | str] = {}
        self.asked: list[tuple[str, str]] = []
        self.url = ""

    def make(self, name: str, private: bool = True, files: dict[str, bytes] | None = None) -> dict:
        self.repositories[name] = {"name": name, "private": private, "files": dict(files or {}), "commits": []}
        return self.repositories[name]

    def answer(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        """(status, what is sent as JSON)."""
        if path == "/api/whoami-v2":
            return 200, self.me
        if path == "/api/repos/create":
            return self.create(json.loads(body))
        if path == "/api/validate-yaml":
            return 200, {"errors": [], "warnings": []}
        if path.startswith("/lfs/"):
            self.stored[path.removeprefix("/lfs/")] = body
            return 200, {}
        if path.endswith(".git/info/lfs/objects/batch"):
            return 200, {"transfer": "basic", "objects": [self.upload_of(one) for one in json.loads(body)["objects"]]}
        return self.of_repository(method, path, body)

    def create(self, wanted: dict) -> tuple[int, object]:
        name = f"{wanted.get('organization') or self.me['name']}/{wanted['name']}"
        found = name in self.repositories
        if not found:
            self.make(name, wanted.get("visibility") == "private")
        return (409 if found else 200), {"url": f"{self.url}/{name}", "error": "exists"}

    def upload_of(self, one: dict) -> dict:
        where = {"href": f"{self.url}/lfs/{one['oid']}"}
        return one if one["oid"] in self.stored else one | {"actions": {"upload": where}}

    def of_repository(self, method: str, path: str, body: bytes) -> tuple[int, object]:
        _, _, kind, owner, name, *rest = path.split("/")
        repository = self.repositories.get(f"{owner}/{name}")
        if kind != "models" or repository is None:
            return 404, {"error": "Repository not found"}
        if not rest or rest[0] in ("auth-check", "revision"):
            return 200, {"id": f"{owner}/{name}", "private": repository["private"], "sha": "a" * 40, "siblings": []}
        if rest[0] == "tree":
            return 200, [{"type": "file", "path": name, "size": 1, "oid": "0"} for name in repository["files"]]
        if rest[0] == "preupload":
            return 200, {"files": [self.kind_of(file) for file in json.loads(body)["files"]]}
        assert rest[0] == "commit", (method, path)
        return self.commit(repository, [json.loads(line) for line in body.splitlines()])

    def kind_of(self, file: dict) -> dict:
        large = file["path"].endswith((".safetensors", "tokenizer.json"))
        return {"path": file["path"], "uploadMode": "lfs" if large else "regular", "shouldIgnore": False}

    def commit(self, repository: dict, operations: list[dict]) -> tuple[int, object]:
        for one in operations:
            value = one["value"]
            if one["key"] == "header":
                repository["commits"].append(value["summary"])
            elif one["key"] == "file":
                repository["files"][value["path"]] = base64.b64decode(value["content"])
            elif one["key"] == "lfsFile":
                repository["files"][value["path"]] = self.stored[value["oid"]]
            elif one["key"] == "deletedFile":
                del repository["files"][value["path"]]
        url = f"{self.url}/{repository['name']}/commit/{'b' * 40}"
        return 200, {"success": True, "commitOid": "b" * 40, "commitUrl": url, "hookOutput": ""}


@contextmanager
def fake_hub():
    """A hub on this machine; yields it."""
    hub = Hub()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"
        wbufsize = -1  # an answer in two pieces waits 40 ms for the client to acknowledge the first

        def handle_any(self):
            body = self.read_body()
            path = self.path.partition("?")[0]
            hub.asked.append((self.command, path))
            if not path.startswith("/lfs/") and self.headers.get("Authorization") != f"Bearer {TOKEN}":
                return self.send(401, {"error": "Invalid username or password."})
            fault = next((what for (m, part), what in hub.faults.items() if m == self.command and part in path), None)
            if fault == "cut":
                self.close_connection = True
                return None
            if fault:
                return self.send(fault, {"error": f"the hub answers {fault}"})
            return self.send(*hub.answer(self.command, path, body))

        do_GET = do_POST = do_PUT = do_HEAD = handle_any

        def read_body(self) -> bytes:
            if self.headers.get("Transfer-Encoding") == "chunked":
                parts = []
                while size := int(self.rfile.readline(), 16):
                    parts.append(self.rfile.read(size))
                    self.rfile.readline()
                self.rfile.readline()
                return b"".join(parts)
            return self.rfile.read(int(self.headers.get("Content-Length") or 0))

        def send(self, status: int, what: object):
            body = json.dumps(what).encode()
            self.send_response(status)
            self.send_header("Content-Type", "application/json")
            self.send_header("Content-Length", str(len(body)))
            if status == 404:
                self.send_header("X-Error-Code", "RepoNotFound")
            self.end_headers()
            if self.command != "HEAD":
                self.wfile.write(body)

        def log_message(self, *_):
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        server.daemon_threads = True
        hub.url = f"http://127.0.0.1:{server.server_port}"
        thread = threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        thread.start()
        try:
            yield hub
        finally:
            server.shutdown()
            thread.join()


@contextmanager
def hub_in_place(monkeypatch):
    """A fake hub in place of the real one, with a token in the environment."""
    with fake_hub() as hub:
        monkeypatch.setenv("HF_TOKEN", TOKEN)
        monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", hub.url)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_DISABLE_XET", True)
        monkeypatch.setattr("huggingface_hub.utils._http.time.sleep", lambda _: None)
        yield hub
