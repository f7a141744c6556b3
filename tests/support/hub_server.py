"""A Hugging Face Hub small enough to live inside a test.

`HubServer` speaks as much of the Hub's HTTP API as `huggingface_hub` needs to push and to fetch a
model. The client gives LFS files to `hf_xet` without asking the server, so tests must switch Xet
off: `HF_HUB_DISABLE_XET=1`, or `huggingface_hub.constants.HF_HUB_DISABLE_XET = True`.
"""

import contextlib
import hashlib
import json
import re
import secrets
import socket
import threading
from base64 import b64decode
from collections.abc import Callable
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, NamedTuple, Self
from urllib.parse import unquote, urlsplit


class Commit(NamedTuple):
    """A commit: its message, and every file of the repository as it stands after it."""

    oid: str
    title: str
    description: str
    files: dict[str, bytes]


@dataclass
class Repo:
    """A model repository; a branch lists its commits, the oldest first."""

    private: bool = False
    branches: dict[str, list[Commit]] = field(default_factory=lambda: {"main": []})

    def find(self, revision: str) -> Commit | None:
        """Return the newest commit of a branch, or the commit with that id."""
        commits = {commit.oid: commit for history in self.branches.values() for commit in history}
        return self.branches[revision][-1] if revision in self.branches else commits.get(revision)

    def commit(self, branch: str, title: str, description: str, files: dict[str, bytes]) -> str:
        """Append a commit after which the branch holds exactly `files`; return its id."""
        oid = secrets.token_hex(20)
        self.branches[branch].append(Commit(oid, title, description, dict(files)))
        return oid


class Reply(NamedTuple):
    """What goes back to the client; a body that is not bytes is sent as JSON."""

    body: Any
    status: int = 200
    headers: tuple[tuple[str, str], ...] = ()


class Fault(NamedTuple):
    """A mishap in store for a request; without a reply the connection is reset."""

    method: str
    path_part: str
    reply: Reply | None = None
    after_bytes: int | None = None
    lands: bool = False


def refusal(status: int, message: str, code: str = "", **details: str) -> Reply:
    """Word and code a refusal the way the client recognises it."""
    headers = (("X-Error-Message", message), ("X-Error-Code", code))
    return Reply({"error": message, **details}, status, headers)


def is_lfs(path: str, size: int, sample: bytes) -> bool:
    """Tell whether the Hub keeps a file outside of git; the client samples 512 bytes of it."""
    opaque = path.endswith((".neuron", ".safetensors", ".bin", ".pt")) or b"\0" in sample[:512]
    return size > 0 and (opaque or size >= 10 * 1024 * 1024)


def describe(path: str, content: bytes) -> dict[str, Any]:
    """Return a file's entry in a listing; `etag` is what the client compares contents by."""
    size, etag = len(content), hashlib.sha1(b"blob %d\0" % len(content) + content).hexdigest()
    entry: dict[str, Any] = {"type": "file", "path": path, "size": size, "oid": etag}
    if is_lfs(path, size, content):
        etag = hashlib.sha256(content).hexdigest()
        entry["lfs"] = {"oid": etag, "sha256": etag, "size": size, "pointerSize": 134}
    return {**entry, "rfilename": path, "etag": etag}


class Exchange(BaseHTTPRequestHandler):
    """One request and its answer; HTTP/1.0, so that no connection outlives them."""

    server: "HubServer"
    params: dict[str, str]  # what the placeholders of the route stand for
    repo: Repo
    commit: Commit

    def serve(self) -> None:
        """Answer a request of any method, unless a fault strikes."""
        self.token = self.headers.get("Authorization", "").removeprefix("Bearer ")
        fault = self.server.note(self.command, self.path)
        length = int(self.headers.get("Content-Length", 0))
        if fault and fault.after_bytes is not None:
            length = min(length, fault.after_bytes)
        with contextlib.suppress(ConnectionError):
            self.body = self.rfile.read(length)
            if len(self.body) < length:
                return  # the client left in mid-body
            served = self.server.dispatch(self) if not fault or fault.lands else None
            if reply := fault.reply if fault else served:
                self.send(reply)
            else:  # not an orderly end but a reset: linger, for 0 seconds
                self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1" + bytes(7))
                socket.close(self.connection.detach())

    do_HEAD = do_GET = do_POST = do_PUT = serve  # noqa: N815 - http.server asks for these names

    def send(self, reply: Reply) -> None:
        body = reply.body if isinstance(reply.body, bytes) else json.dumps(reply.body).encode()
        self.send_response(reply.status)
        for header in (("Content-Length", str(len(body))), *reply.headers):
            self.send_header(*header)
        self.end_headers()
        self.wfile.write(b"" if self.command == "HEAD" else body)

    def log_message(self, format: str, *args: Any) -> None: ...  # HubServer.requests is the log


class HubServer(ThreadingHTTPServer):
    """A Hub on a loopback port, for as long as its `with` block lasts.

    Attributes:
        token: The token that may do everything; `read_only_token` may only read.
        repos: The repositories by their id.
        blobs: The uploaded LFS objects by their sha256, committed or not.
        requests: The method and path of every request so far.
    """

    user, token, read_only_token = "tester", "hf_test", "hf_read"
    daemon_threads, request_queue_size = False, 64  # closing waits for the threads

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Exchange)
        self.endpoint = f"http://127.0.0.1:{self.server_port}"
        self.repos: dict[str, Repo] = {}
        self.blobs: dict[str, bytes] = {}
        self.requests: list[tuple[str, str]] = []
        self._faults: list[Fault] = []
        self._lock = threading.Lock()

    def __enter__(self) -> Self:
        threading.Thread(target=self.serve_forever, args=(0.05,)).start()
        return self

    def __exit__(self, *exc_info: object) -> None:
        self.shutdown()
        self.server_close()

    def add_repo(self, repo_id: str, files: dict[str, bytes], *, private: bool = False) -> Repo:
        """Create a repository whose only commit holds exactly `files`."""
        repo = self.repos[repo_id] = Repo(private)
        repo.commit("main", "initial commit", "", files)
        return repo

    def fail(self, method: str, path_part: str, *, status: int = 503, times: int = 1) -> None:
        """Refuse the next matching requests with `status`; they have no effect."""
        self._faults += [Fault(method, path_part, refusal(status, "injected"))] * times

    def cut(self, method: str, path_part: str, *, after_bytes: int = 0, times: int = 1) -> None:
        """Reset the connection of matching requests after some bytes of their body."""
        self._faults += [Fault(method, path_part, after_bytes=after_bytes)] * times

    def lose_answer(self, method: str, path_part: str, *, status: int = 0, times: int = 1) -> None:
        """Let matching requests take effect, then answer `status` instead, or reset if it is 0."""
        reply = refusal(status, "injected") if status else None
        self._faults += [Fault(method, path_part, reply, lands=True)] * times

    def note(self, method: str, path: str) -> Fault | None:
        with self._lock:
            self.requests.append((method, path))
            due = [f for f in self._faults if f.method == method and f.path_part in path]
            if due:
                self._faults.remove(due[0])
            return due[0] if due else None

    def dispatch(self, ask: Exchange) -> Reply:
        """Run the endpoint of a request, if the caller may use it."""
        path, method = urlsplit(ask.path).path, ask.command.replace("HEAD", "GET")
        for verb, pattern, writes, endpoint in ROUTES:
            if verb == method and (match := re.fullmatch(pattern, path)):
                ask.params = {key: unquote(value) for key, value in match.groupdict("").items()}
                with self._lock:
                    return self._refuse(ask, writes) or endpoint(self, ask)
        return refusal(404, f"no such endpoint: {method} {path}")

    def _refuse(self, ask: Exchange, writes: bool) -> Reply | None:
        """Check the caller and what is asked for; to strangers, private and missing are one."""
        name, revision = ask.params.get("repo", ""), ask.params.get("rev") or "main"
        repo = self.repos.get(name)
        commit = repo.find(revision) if repo else None
        if ask.token not in ("", self.token, self.read_only_token):
            return refusal(401, "Invalid credentials in Authorization header")
        if not ask.token and (writes or (name and (repo is None or repo.private))):
            return refusal(401, "Invalid username or password.", "RepoNotFound" if name else "")
        if name and repo is None:
            return refusal(404, "Repository not found", "RepoNotFound")
        if writes and ask.token != self.token:
            return refusal(403, "this token has no write permission")
        if repo and commit is None:
            return refusal(404, f"Invalid rev id: {revision}", "RevisionNotFound")
        ask.repo, ask.commit = repo or Repo(), commit or Commit("", "", "", {})
        return None

    def create_repo(self, ask: Exchange) -> Reply:
        wanted = json.loads(ask.body)
        repo_id = f"{wanted.get('organization') or self.user}/{wanted['name']}"
        url = f"{self.endpoint}/{repo_id}"
        if repo_id in self.repos:
            return refusal(409, "You already created this model repo", url=url)
        private = wanted.get("visibility") == "private"
        self.add_repo(repo_id, {".gitattributes": b"*.bin filter=lfs\n"}, private=private)
        return Reply({"url": url})

    def create_branch(self, ask: Exchange) -> Reply:
        start = ask.repo.find(json.loads(ask.body).get("startingPoint", "main"))
        if start is None or ask.params["name"] in ask.repo.branches:
            return refusal(409, "Reference already exists, or has nothing to start from")
        ask.repo.branches[ask.params["name"]] = [start]
        return Reply({})

    def preupload(self, ask: Exchange) -> Reply:
        files = json.loads(ask.body)["files"]
        for file in files:
            lfs = is_lfs(file["path"], file["size"], b64decode(file["sample"]))
            file.update(uploadMode="lfs" if lfs else "regular", shouldIgnore=False)
            if file["path"] in ask.commit.files:  # the client skips a file whose id is the same
                file["oid"] = describe(file["path"], ask.commit.files[file["path"]])["etag"]
        return Reply({"files": files})

    def lfs_batch(self, ask: Exchange) -> Reply:
        objects, verify = json.loads(ask.body)["objects"], {"href": f"{self.endpoint}/lfs-verify"}
        for item in (item for item in objects if item["oid"] not in self.blobs):
            upload = {"href": f"{self.endpoint}/lfs-upload/{item['oid']}/{item['size']}"}
            item["actions"] = {"upload": upload, "verify": verify}
        return Reply({"transfer": "basic", "objects": objects})

    def lfs_upload(self, ask: Exchange) -> Reply:
        oid, size = ask.params["oid"], int(ask.params["size"])
        if (hashlib.sha256(ask.body).hexdigest(), len(ask.body)) != (oid, size):
            return refusal(400, "the object does not have the announced sha256 and size")
        self.blobs[oid] = ask.body
        return Reply({})

    def create_commit(self, ask: Exchange) -> Reply:
        (_, header), *operations = (json.loads(line).values() for line in ask.body.splitlines())
        if header.get("parentCommit", ask.commit.oid) != ask.commit.oid:
            return refusal(412, "A commit has happened since. Please refresh and try again.")
        files = dict(ask.commit.files)
        for key, file in operations:
            if key == "deletedFile":
                del files[file["path"]]
                continue
            blob = self.blobs.get(file.get("oid", ""))
            content = b64decode(file["content"]) if "content" in file else blob
            if content is None:
                return refusal(400, f"{file['path']} points to an LFS object that does not exist")
            files[file["path"]] = content
        oid = ask.repo.commit(ask.params["rev"], header["summary"], header["description"], files)
        url = f"{self.endpoint}/{ask.params['repo']}/commit/{oid}"
        return Reply({"success": True, "commitOid": oid, "commitUrl": url})

    def model_info(self, ask: Exchange) -> Reply:
        info = {"id": ask.params["repo"], "sha": ask.commit.oid, "private": ask.repo.private}
        return Reply({**info, "siblings": self.tree(ask).body})

    def tree(self, ask: Exchange) -> Reply:
        return Reply([describe(*file) for file in ask.commit.files.items()])

    def resolve(self, ask: Exchange) -> Reply:
        path, content = ask.params["path"], ask.commit.files.get(ask.params["path"])
        if content is None:
            return refusal(404, f"{path} does not exist", "EntryNotFound")
        etag = f'"{describe(path, content)["etag"]}"'
        return Reply(content, 200, (("ETag", etag), ("X-Repo-Commit", ask.commit.oid)))


REPO, REV = r"(?P<repo>[^/]+(?:/[^/]+)?)", r"(?P<rev>[^/]+)"
ROUTES: list[tuple[str, str, bool, Callable[[HubServer, Exchange], Reply]]] = [
    ("GET", "/api/whoami-v2", False, lambda hub, ask: Reply({"type": "user", "name": hub.user})),
    ("POST", "/api/validate-yaml", False, lambda hub, ask: Reply({"errors": [], "warnings": []})),
    ("POST", "/api/repos/create", True, HubServer.create_repo),
    ("POST", f"/api/models/{REPO}/branch/(?P<name>[^/]+)", True, HubServer.create_branch),
    ("POST", f"/api/models/{REPO}/preupload/{REV}", True, HubServer.preupload),
    ("POST", rf"/{REPO}\.git/info/lfs/objects/batch", True, HubServer.lfs_batch),
    ("PUT", "/lfs-upload/(?P<oid>[^/]+)/(?P<size>[^/]+)", False, HubServer.lfs_upload),
    ("POST", "/lfs-verify", True, lambda hub, ask: Reply({})),
    ("POST", f"/api/models/{REPO}/commit/{REV}", True, HubServer.create_commit),
    ("GET", f"/api/models/{REPO}(?:/revision/{REV})?", False, HubServer.model_info),
    ("GET", f"/api/models/{REPO}/tree/{REV}", False, HubServer.tree),
    ("GET", f"/{REPO}/resolve/{REV}/(?P<path>.+)", False, HubServer.resolve),
]
