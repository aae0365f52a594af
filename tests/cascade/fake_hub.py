"""A Hugging Face Hub of a few repositories, as far as `datasets` and `transformers` ask it for anything; real HTTP.

Like the Hub it sends small files on to an address of its own, and large ones to another host.
"""

from __future__ import annotations

import csv
import hashlib
import io
import json
import re
import subprocess
import sys
import threading
from collections.abc import Mapping
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from urllib.parse import quote, unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from cascade.miniature.families import ASSETS
from tests import hub_address
from tests.processes import Forked

Files = Mapping[str, bytes]
LARGE = (".parquet", ".safetensors")
NOWHERE = hub_address.URL  # while no Hub is open
EXPIRED = "hf_expired"
_API = re.compile(r"/api/(?P<kind>models|datasets)/(?P<repo>[^/]+/[^/]+)(?P<rest>/.*)?")
_FILE = re.compile(r"/(?P<kind>datasets/)?(?P<repo>[^/]+/[^/]+)/resolve/(?P<revision>[^/]+)/(?P<file>.+)")


class FakeHub:
    """Serves repositories until it is closed; one at a time, as all are at one address.

    Args:
        repos: Of data sets, by ``owner/name``: the one commit, and the files by their paths.
        gated: Repositories that nobody has access to.
        models: By ``owner/name``: branches, or commits themselves, and of each the files by their paths.

    Attributes:
        url: For ``HF_ENDPOINT``.
        requests: Paths asked for, in order.
    """

    def __init__(
        self,
        repos: Mapping[str, tuple[str, Files]] | None = None,
        gated: tuple[str, ...] = (),
        models: Mapping[str, Mapping[str, Files]] | None = None,
    ) -> None:
        self.gated, self.requests = gated, []
        self._commits: dict[tuple[str, str], dict[str, Files]] = {}
        self._branches: dict[tuple[str, str], dict[str, str]] = {}
        for repo, (commit, files) in (repos or {}).items():
            self._commits["datasets", repo], self._branches["datasets", repo] = {commit: files}, {}
        for repo, branches in (models or {}).items():
            commits = {branch: _commit(branch, files) for branch, files in branches.items()}
            self._commits["models", repo] = {commits[branch]: files for branch, files in branches.items()}
            self._branches["models", repo] = commits
        self._large = {
            _digest(data): data
            for commits in self._commits.values()
            for files in commits.values()
            for name, data in files.items()
            if name.endswith(LARGE)
        }
        hub = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self):
                hub.requests.append(self.path)
                hub.answer(self)

            do_HEAD = do_GET

            def log_message(self, *args):
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", hub_address.PORT), Handler)
        threading.Thread(target=self._server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()

    def answer(self, request: BaseHTTPRequestHandler) -> None:
        path = urlsplit(request.path).path
        if request.headers.get("Authorization") == f"Bearer {EXPIRED}":
            return _send(request, 401, headers={"X-Error-Message": "Invalid credentials in Authorization header"})
        if (data := self._large.get(path.removeprefix("/large/"))) is not None:
            return _send(request, 200, data)
        if path.startswith("/api/resolve-cache/"):
            kind, owner, name, commit, file = path.removeprefix("/api/resolve-cache/").split("/", 4)
            return self._send_file(request, self._commits[kind, f"{owner}/{name}"][commit][unquote(file)], commit)
        if (found := _API.fullmatch(path)) is not None:
            kind, rest, revision = found["kind"], found["rest"] or "", None
        elif (found := _FILE.fullmatch(path)) is not None:
            kind, rest, revision = "datasets" if found["kind"] else "models", "", found["revision"]
        else:
            return _send(request, 404, error="RepoNotFound")
        repo = found["repo"]
        if (kind, repo) not in self._commits:
            return _send(request, 404, error="RepoNotFound")
        parts = rest.strip("/").split("/")
        revision = unquote(revision or (parts[1] if len(parts) > 1 else "main"))
        commit = self._branches[kind, repo].get(revision, revision)
        files = self._commits[kind, repo].get(commit)
        if files is None and rest != "/auth-check":
            return _send(request, 404, error="RevisionNotFound")
        if parts[0] in ("", "revision") and found.re is _API:
            siblings = [{"rfilename": name} for name in files]
            return _send_json(request, {"id": repo, "sha": commit, "siblings": siblings})
        if repo in self.gated:
            return _send(request, 403 if "Authorization" in request.headers else 401, error="GatedRepo")
        if rest == "/auth-check":
            return _send_json(request, {})
        if parts[0] == "tree":
            found = _listing(files, unquote("/".join(parts[2:])), "recursive=true" in request.path.lower())
            return _send_json(request, found) if found else _send(request, 404, error="EntryNotFound")
        if found.re is _API or (data := files.get(name := unquote(found["file"]))) is None:
            return _send(request, 404, headers={"X-Repo-Commit": commit}, error="EntryNotFound")
        if name.endswith(LARGE):
            url = self.url.replace("127.0.0.1", "localhost") + self.large(data)
            linked = {"X-Linked-Size": str(len(data)), "X-Linked-ETag": f'"{_digest(data)}"'}
            return _send(request, 302, headers={"Location": url, "X-Repo-Commit": commit} | linked)
        place = f"/api/resolve-cache/{kind}/{repo}/{commit}/{quote(name)}"
        return _send(request, 307, headers={"Location": place, "X-Repo-Commit": commit})

    def large(self, data: bytes) -> str:
        """Path that a large file is sent from."""
        return f"/large/{_digest(data)}"

    def _send_file(self, request: BaseHTTPRequestHandler, data: bytes, commit: str) -> None:
        _send(request, 200, data, {"X-Repo-Commit": commit, "ETag": f'"{_digest(data)}"'})


def commit_of(files: Files) -> str:
    """What a model's files are committed as."""
    return _digest(b"".join(name.encode() + data for name, data in sorted(files.items())))


def _commit(branch: str, files: Files) -> str:
    return branch if re.fullmatch("[0-9a-f]{40}", branch) else commit_of(files)


def _digest(data: bytes) -> str:
    return hashlib.sha1(data).hexdigest()


def _send(request, status, data=b"", headers=None, error=None) -> None:
    request.send_response(status)
    for name, value in ((headers or {}) | ({"X-Error-Code": error} if error else {})).items():
        request.send_header(name, value)
    request.send_header("Content-Length", str(len(data)))
    request.end_headers()
    if request.command != "HEAD":
        request.wfile.write(data)


def _send_json(request, values) -> None:
    _send(request, 200, json.dumps(values).encode())


def _listing(files: Files, folder: str, recursive: bool) -> list[dict]:
    folder = folder.strip("/")
    found = {}
    for name, data in files.items():
        if folder and not name.startswith(f"{folder}/"):
            continue
        head, *below = name.removeprefix(f"{folder}/" if folder else "").split("/")
        path = f"{folder}/{head}" if folder else head
        if below:
            found[path] = {"path": path, "oid": _digest(path.encode()), "type": "directory", "size": 0}
        if not below or recursive:
            found[name] = {"path": name, "oid": _digest(data), "type": "file", "size": len(data)}
            if name.endswith(LARGE):
                found[name]["lfs"] = {"oid": _digest(data), "size": len(data), "pointerSize": 134}
    return list(found.values())


def model_files(name: str = "mini-llama-small") -> dict[str, bytes]:
    """A miniature as it would lie on the Hub."""
    names = ("config.json", "tokenizer.json", "tokenizer_config.json", "model.safetensors")
    return {file: (ASSETS / name / file).read_bytes() for file in names}


def parquet(rows: list[dict]) -> bytes:
    sink = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(rows), sink)
    return sink.getvalue()


def table(rows: list[dict], separator: str) -> bytes:
    text = io.StringIO(newline="")
    writer = csv.DictWriter(text, list(rows[0]), delimiter=separator)
    writer.writeheader()
    writer.writerows(rows)
    return text.getvalue().encode()


def card(config: str, split: str, path: str) -> bytes:
    lines = ("---", "configs:", f"- config_name: {config}", "  data_files:", f"  - split: {split}", f"    path: {path}")
    return "\n".join((*lines, "---", "")).encode()


def ask(hub_url: str, home, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """`python COMMAND` as a process that has this Hub and this home."""
    if hub_url != hub_address.URL or environment:
        return ask_anew(hub_url, home, *command, **environment)
    hub_address.settle(home)
    process = Forked(*command, environment=hub_address.environment())
    out, err = process.communicate(timeout=300)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def ask_anew(hub_url: str, home, *command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """Likewise, and it imports everything itself; ``environment`` is what else is read by imports."""
    outside = hub_address.environment(home, hub_url) | environment
    return subprocess.run([sys.executable, *command], env=outside, capture_output=True, text=True, timeout=300)
