"""A Hub on loopback: the few answers that huggingface_hub asks for when it loads down and up, and faults on demand."""

import base64
import hashlib
import json
import re
import socket
import struct
import threading
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import parse_qs, unquote

SMALL = 500
"""Files of more bytes are named by their sha256, as large files on the Hub; smaller ones by git's sha1."""


def etag(content: bytes) -> str:
    if len(content) > SMALL:
        return hashlib.sha256(content).hexdigest()
    return _sha1(b"blob %d\0" % len(content) + content)


def _sha1(content: bytes) -> str:
    return hashlib.sha1(content, usedforsecurity=False).hexdigest()


class _Server(ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, *_):
        """Say nothing when a client hangs up."""


@dataclass
class Fault:
    """What goes wrong: how, for requests whose "METHOD path" matches, and how many times (None: always)."""

    kind: str
    pattern: str
    times: int | None


@dataclass
class FakeHub:
    """Repositories by name, each with its files by revision; ``branches`` names the commit of "main".

    What is sent is in ``objects`` until a commit names it; ``token`` is the only one that may write.
    """

    repos: dict[str, dict[str, dict[str, bytes]]] = field(default_factory=dict)
    branches: dict[str, dict[str, str]] = field(default_factory=dict)
    moved: dict[str, str] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    requests: list[str] = field(default_factory=list)
    objects: dict[str, bytes] = field(default_factory=dict)
    private: dict[str, bool] = field(default_factory=dict)
    token: str = "hf_write"  # noqa: S105

    def __post_init__(self):
        self.waiting = threading.Event()  # set when the server goes, so that a hanging answer ends too
        self.stalled = threading.Event()  # set when an answer has stopped half-way

        class Handler(_Handler):
            hub = self

        self.server = _Server(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}"
        threading.Thread(target=self.server.serve_forever, args=(0.01,), daemon=True).start()

    def publish(self, repo: str, files: dict[str, bytes], branch: str = "main") -> str:
        """Add a commit with these files and let the branch point to it."""
        commit = _sha1(repr(sorted((name, etag(content)) for name, content in files.items())).encode())
        self.repos.setdefault(repo, {})[commit] = dict(files)
        self.branches.setdefault(repo, {})[branch] = commit
        return commit

    def fault(self, kind: str, pattern: str = "", times: int | None = 1) -> None:
        self.faults.append(Fault(kind, pattern, times))

    def take(self, request: str) -> str | None:
        for fault in self.faults:
            if re.search(fault.pattern, request) and fault.times != 0:
                if fault.times is not None:
                    fault.times -= 1
                return fault.kind
        return None

    def close(self) -> None:
        self.waiting.set()
        self.server.shutdown()
        self.server.server_close()


class _Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    hub: FakeHub

    def log_message(self, *_):
        pass

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def do_POST(self):
        self.answer()

    def do_PUT(self):
        self.answer()

    def answer(self):
        path = unquote(self.path.partition("?")[0])
        self.hub.requests.append(f"{self.command} {path}")
        kind = self.hub.take(self.hub.requests[-1]) or ""
        length = int(self.headers.get("Content-Length") or 0)
        if kind not in {"cut", "hang"}:
            self.body = self.rfile.read(length // 2 if kind == "mute" else length)
        if kind in {"hang", "mute"}:  # silent from the beginning, or in the middle of what is being sent
            self.hub.waiting.wait(30)
            self.close_connection = True
        elif kind == "reset":
            self.reset()
        elif kind == "page":
            self.send(200, b"<html>Please accept the terms of this network</html>")
        elif kind == "gated":
            self.send(403, b"", {"X-Error-Code": "GatedRepo"})
        elif kind.isdigit():
            self.send(int(kind), b"sorry")
        elif self.command in {"POST", "PUT"}:
            self.write(path, kind)
        else:
            self.read(path, kind)

    def read(self, path: str, kind: str) -> None:
        """Answer what a client that loads asks for."""
        if found := re.fullmatch(r"/api/models/([^/]+/[^/]+)(?:/revision/(.+))?", path):
            self.api(found[1], found[2] or "main", path)
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/tree/([^/]+)(/.+)?", path):
            self.tree(found[1], found[2], found[3], path)
        elif found := re.fullmatch(r"/([^/]+/[^/]+)/resolve/([^/]+)/(.+)", path):
            self.resolve(found[1], found[2], found[3], path, kind)
        else:
            self.send(404, b"")

    def write(self, path: str, kind: str) -> None:
        """Answer what a client that publishes asks for; "slow" waits first, "lost" does it and hangs up."""
        if kind == "cut":  # in the middle of what is being sent
            self.reset()
            return
        if kind == "slow":
            self.hub.waiting.wait(0.2)
        if path == "/api/validate-yaml":
            self.json({"errors": [], "warnings": []})
        elif path.startswith("/lfs/"):
            self.hub.objects[path.removeprefix("/lfs/")] = self.body
            self.json({})
        elif self.headers.get("Authorization") != f"Bearer {self.hub.token}":
            self.send(401, b'{"error": "Invalid credentials in Authorization header"}')
        elif path == "/api/repos/create":
            self.create(json.loads(self.body))
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/preupload/(.+)", path):
            self.preupload(found[1])
        elif found := re.fullmatch(r"/([^/]+/[^/]+)\.git/info/lfs/objects/batch", path):
            self.batch(json.loads(self.body)["objects"])
        elif found := re.fullmatch(r"/api/models/([^/]+/[^/]+)/commit/(.+)", path):
            self.commit(found[1], [json.loads(line) for line in self.body.splitlines()], kind)
        else:
            self.send(404, b"")

    def create(self, asked: dict) -> None:
        repo = f"{asked['organization']}/{asked['name']}"
        if repo in self.hub.repos:
            self.send(409, b'{"error": "You already created this model repo"}')
            return
        self.hub.publish(repo, {".gitattributes": b"*.safetensors filter=lfs"})
        self.hub.private[repo] = asked.get("visibility") == "private" or bool(asked.get("private"))
        self.json({"url": f"{self.hub.url}/{repo}"})

    def preupload(self, repo: str) -> None:
        head = self.hub.repos[repo][self.hub.branches[repo]["main"]]
        files = []
        for asked in json.loads(self.body)["files"]:
            held = head.get(asked["path"])
            oid = None if held is None else etag(held)
            mode = "lfs" if asked["size"] > SMALL else "regular"
            files.append({"path": asked["path"], "uploadMode": mode, "shouldIgnore": False, "oid": oid})
        self.json({"files": files})

    def batch(self, asked: list) -> None:
        objects = []
        for one in asked:
            missing = one["oid"] not in self.hub.objects
            upload = {"actions": {"upload": {"href": f"{self.hub.url}/lfs/{one['oid']}", "header": {}}}}
            objects.append(one | (upload if missing else {}))
        self.json({"transfer": "basic", "objects": objects})

    def commit(self, repo: str, lines: list, kind: str) -> None:
        head = self.hub.branches[repo]["main"]
        if lines[0]["value"].get("parentCommit") not in {None, head}:
            self.send(412, b'{"error": "A commit has happened since"}')
            return
        files = dict(self.hub.repos[repo][head])
        for line in lines[1:]:
            value = line["value"]
            if line["key"] == "file":
                files[value["path"]] = base64.b64decode(value["content"])
            elif line["key"] == "lfsFile":
                files[value["path"]] = self.hub.objects[value["oid"]]
            else:
                del files[value["path"]]
        pull = "create_pr" in parse_qs(self.path.partition("?")[2])
        commit = self.hub.publish(repo, files, "refs/pr/1" if pull else "main")
        if kind == "lost":
            self.reset()
            return
        answer = {"commitUrl": f"{self.hub.url}/{repo}/commit/{commit}", "commitOid": commit}
        self.json(answer | ({"pullRequestUrl": f"{self.hub.url}/{repo}/discussions/1"} if pull else {}))

    def json(self, answer: dict | list) -> None:
        self.send(200, json.dumps(answer).encode(), {"Content-Type": "application/json"})

    def find(self, repo: str, revision: str, path: str) -> tuple[str, dict[str, bytes]] | None:
        if repo in self.hub.moved:
            self.send(307, b"", {"Location": path.replace(repo, self.hub.moved[repo], 1)})
        elif repo not in self.hub.repos:
            self.send(404, b"", {"X-Error-Code": "RepoNotFound"})
        else:
            commit = self.hub.branches[repo].get(revision, revision)
            if commit in self.hub.repos[repo]:
                return commit, self.hub.repos[repo][commit]
            self.send(404, b"", {"X-Error-Code": "RevisionNotFound"})
        return None

    def api(self, repo: str, revision: str, path: str) -> None:
        if found := self.find(repo, revision, path):
            siblings = [{"rfilename": name} for name in found[1]]
            self.json({"id": repo, "modelId": repo, "sha": found[0], "siblings": siblings})

    def tree(self, repo: str, revision: str, folder: str | None, path: str) -> None:
        if folder:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound"})
        elif found := self.find(repo, revision, path):
            answer = []
            for name, content in found[1].items():
                row = {"type": "file", "path": name, "size": len(content), "oid": etag(content)}
                large = {"lfs": {"oid": etag(content), "size": len(content), "pointerSize": 1}}
                answer.append(row | (large if len(content) > SMALL else {}))
            self.json(answer)

    def resolve(self, repo: str, revision: str, name: str, path: str, kind: str) -> None:
        if not (found := self.find(repo, revision, path)):
            return
        commit, files = found
        if name not in files:
            self.send(404, b"", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": commit})
            return
        content = files[name]
        headers = {"X-Repo-Commit": commit, "ETag": f'"{etag(content)}"', "Accept-Ranges": "bytes"}
        if len(content) > SMALL:
            headers |= {"X-Linked-Etag": f'"{etag(content)}"', "X-Linked-Size": str(len(content))}
        if self.command == "GET" and kind == "corrupt":
            content = bytes([content[0] ^ 1]) + content[1:]
        elif self.command == "GET" and kind == "short":
            content = content[: len(content) // 2]
        start = re.fullmatch(r"bytes=(\d+)-", self.headers.get("Range") or "")
        if start:
            headers["Content-Range"] = f"bytes {start[1]}-{len(content) - 1}/{len(content)}"
        self.send(206 if start else 200, content[int(start[1]) if start else 0 :], headers, kind)

    def send(self, status: int, body: bytes, headers: dict[str, str] | None = None, kind: str = "") -> None:
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "HEAD":
            return
        self.wfile.write(body[: (len(body) + 1) // 2] if kind in {"cut", "break", "stall"} else body)
        self.wfile.flush()
        if kind == "stall":
            self.hub.stalled.set()
            self.hub.waiting.wait(30)
        if kind in {"cut", "stall"}:  # the announced length never comes
            self.close_connection = True
        elif kind == "break":
            self.reset()

    def reset(self) -> None:
        """Close with a reset, which the other side sees as an error and not as an end."""
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        self.close_connection = True
        self.connection.close()


def aim(monkeypatch, hub: FakeHub, cache) -> None:
    """Point this process's huggingface_hub, which has read its environment, at a fake Hub; waits cost nothing."""
    from huggingface_hub import close_session, constants, file_download

    settings = {
        "HF_HUB_OFFLINE": False,
        "ENDPOINT": hub.url,
        "HUGGINGFACE_CO_URL_TEMPLATE": hub.url + "/{repo_id}/resolve/{revision}/{filename}",
        "HF_HUB_CACHE": str(cache / "hub"),
        "HF_HUB_DISABLE_XET": True,
        "HF_HUB_DISABLE_IMPLICIT_TOKEN": True,
        "HF_HUB_DISABLE_PROGRESS_BARS": True,
        "HF_HUB_ETAG_TIMEOUT": 0.3,
        "HF_HUB_DOWNLOAD_TIMEOUT": 0.3,
    }
    for name, value in settings.items():
        monkeypatch.setattr(constants, name, value)
    monkeypatch.setattr(file_download, "_ETAG_RETRY_TIMEOUT", 0.3)
    monkeypatch.setattr("safeencoders.hub._TIMEOUT", 0.3)
    monkeypatch.setattr("safeencoders.uploading.TIMEOUT", 1.0)
    monkeypatch.setattr("time.sleep", lambda _seconds: None)
    monkeypatch.setenv("SAFEENCODERS_CACHE", str(cache / "safeencoders"))
    close_session()
