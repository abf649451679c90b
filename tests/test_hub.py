"""The hub's client against a server that answers as the hub does when all is well and when something is wrong."""

import hashlib
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import pytest

from engine import hub
from tests.conftest import ROOT

COMMIT, OTHER = "a" * 40, "b" * 40
SHARDS = {"data/train-00000-of-00002.parquet": b"first " * 50_000, "data/train-00001-of-00002.parquet": b"second " * 50_000}
FILES = {**SHARDS, "README.md": b"about"}
MODEL = {"config.json": b"{}", "model.safetensors": b"weights", "tokenizer.json": b"{}", "pytorch_model.bin": b"same, pickled"}
ONE = {"id": "someone/sums", "revision": COMMIT, "file": "data/train-00000-of-00002.parquet"}
ALL = {**ONE, "file": "data/train-*.parquet"}


class Answer(BaseHTTPRequestHandler):
    """One request; the server's fields say how it is answered."""

    protocol_version = "HTTP/1.1"
    server: "Server"

    def do_HEAD(self) -> None:
        self.answer(body=False)

    def do_GET(self) -> None:
        self.answer(body=True)

    def answer(self, body: bool) -> None:
        server, path = self.server, self.path.partition("?")[0]
        server.asked.append(f"{self.command} {path}")
        if server.refuses and (not server.allowed or self.headers.get("Authorization") != f"Bearer {server.allowed}"):
            status, code = server.refuses
            return self.say(status, b"{}", {"X-Error-Code": code} if code else {})
        if path.startswith(f"/datasets/{server.moved}/") or path.startswith(f"/api/datasets/{server.moved}/"):
            return self.say(307, b"", {"Location": self.path.replace(server.moved, "someone/sums")})
        tree = re.fullmatch(r"/api/(?:models|datasets)/someone/sums/(tree|revision)/([^/]+)", path)
        found = re.fullmatch(r"(?:/datasets)?/someone/sums/resolve/([^/]+)/(.+)", path)
        if not tree and not found:
            return self.say(404, b"{}", {"X-Error-Code": "RepoNotFound"})
        if (tree[2] if tree else found[1] if found else "") not in (COMMIT, "main"):
            return self.say(404, b"{}", {"X-Error-Code": "RevisionNotFound"})
        if tree:
            listed = [{"type": "file", "path": name, "size": len(data), "oid": "0" * 40} for name, data in server.files.items()]
            about = {"id": "someone/sums", "sha": COMMIT, "private": False, "tags": [], "downloads": 0, "siblings": []}
            return self.say(200, json.dumps(listed if tree[1] == "tree" else about).encode())
        if not found or found[2] not in server.files:
            return self.say(404, b"{}", {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        self.send_file(server.files[found[2]], body)

    def send_file(self, data: bytes, body: bool) -> None:
        start = int(re.sub(r"\D", "", self.headers.get("Range", "0")))
        headers = {"ETag": f'"{hashlib.sha256(data).hexdigest()}"', "X-Repo-Commit": COMMIT, "Accept-Ranges": "bytes"}
        if not body:
            return self.say(200, data, headers)
        if start:
            headers["Content-Range"] = f"bytes {start}-{len(data) - 1}/{len(data)}"
        cut = self.server.cuts > 0
        self.server.cuts -= 1
        self.say(206 if start else 200, data[start:], headers, send=0 if cut and start else 1000 if cut else None)

    def say(self, status: int, body: bytes, headers: dict[str, str] | None = None, send: int | None = None) -> None:
        """Answer with all of a body, or break off after `send` bytes of it."""
        self.send_response(status)
        for key, value in {"Content-Length": str(len(body)), **(headers or {})}.items():
            self.send_header(key, value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body[:send])
        self.close_connection = send is not None

    def log_message(self, format: str, *args: object) -> None:
        pass


class Server(ThreadingHTTPServer):
    """A hub with one repository, someone/sums."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Answer)
        self.files = dict(FILES)
        self.refuses: tuple[int, str] | None = None  # every request, with this status and error code,
        self.allowed = ""  # but for this token
        self.moved = "-"  # an old name that is redirected to the new one
        self.cuts = 0  # how many downloads break off
        self.asked: list[str] = []


@pytest.fixture
def server() -> Iterator[Server]:
    server = Server()
    thread = Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()
    thread.join()


def ask(cache: Path, call: str, where: dict, server: Server | None, **environment: str) -> subprocess.CompletedProcess[str]:
    """A function of engine.hub, printing paths, in a process of its own: the client reads its settings when it is imported."""
    code = f"""if True:
        import sys
        from engine import hub, record
        record.start_logging()
        try:
            found = hub.{call}("corpus sums", {where!r}, "data/sums.parquet")
        except ValueError as error:
            sys.exit(f"error: {{error}}")
        print(*(found if isinstance(found, list) else [found]), sep="\\n")
    """
    endpoint = f"http://127.0.0.1:{server.server_address[1]}" if server else "http://127.0.0.1:9"
    settings = {
        "HF_HUB_CACHE": str(cache),
        "HF_HOME": str(cache / "home"),
        "HF_ENDPOINT": endpoint,
        "HF_HUB_DISABLE_XET": "1",
        "HF_HUB_DISABLE_PROGRESS_BARS": "1",
        **environment,
    }
    known = {key: value for key, value in os.environ.items() if not key.startswith(("HF_", "HUGGING"))}
    command = [sys.executable, "-c", code]
    return subprocess.run(command, cwd=ROOT, text=True, capture_output=True, env={**known, **settings}, timeout=300)


def paths(done: subprocess.CompletedProcess[str]) -> list[Path]:
    assert done.returncode == 0, done.stderr
    return [Path(line) for line in done.stdout.splitlines()]


def error(done: subprocess.CompletedProcess[str]) -> str:
    """The one line an error is said in."""
    lines = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert done.returncode == 1 and len(lines) == 1 and "Traceback" not in done.stderr, done.stderr
    assert lines[0].endswith("or place a copy at data/sums.parquet")
    return lines[0]


# When all is well.


def test_a_file_arrives_once_and_then_needs_no_network(tmp_path: Path, server: Server) -> None:
    (path,) = paths(ask(tmp_path, "dataset_file", ONE, server))
    assert path.read_bytes() == FILES[ONE["file"]] and hub.commit(path) == COMMIT
    assert paths(ask(tmp_path, "dataset_file", ONE, None)) == [path]
    assert hub.commit(tmp_path / "sums.parquet") == ""


def test_files_of_a_pattern_arrive_in_order_and_then_need_no_network(tmp_path: Path, server: Server) -> None:
    found = paths(ask(tmp_path, "dataset_files", ALL, server))
    assert [path.read_bytes() for path in found] == list(SHARDS.values())
    assert not any("README" in line for line in server.asked)
    assert paths(ask(tmp_path, "dataset_files", ALL, None)) == found


def test_a_model_is_its_weights_configuration_and_tokenizer(tmp_path: Path, server: Server) -> None:
    server.files = MODEL
    where = {"id": ONE["id"], "revision": COMMIT}
    (folder,) = paths(ask(tmp_path, "model_folder", where, server))
    assert sorted(path.name for path in folder.iterdir()) == ["config.json", "model.safetensors", "tokenizer.json"]
    assert hub.commit(folder) == COMMIT
    assert paths(ask(tmp_path, "model_folder", where, None)) == [folder]
    server.files = {"pytorch_model.bin": b"pickled"}
    said = error(ask(tmp_path / "other", "model_folder", where, server))
    assert "corpus sums: someone/sums at aaaaaaaaaaaa has no .safetensors files; choose a revision that has them" in said


def test_without_a_revision_the_newest_is_read_and_said(tmp_path: Path, server: Server) -> None:
    done = ask(tmp_path, "dataset_file", {**ONE, "revision": ""}, server)
    (path,) = paths(done)
    assert hub.commit(path) == COMMIT
    assert (
        f"WARNING: corpus sums: {ONE['file']} of someone/sums: no revision is pinned; read the newest at hand, {COMMIT}"
        in done.stderr
    )


def test_a_repository_that_moved_is_followed(tmp_path: Path, server: Server) -> None:
    server.moved = "old/name"
    (path,) = paths(ask(tmp_path, "dataset_file", {**ONE, "id": "old/name"}, server))
    assert path.read_bytes() == FILES[ONE["file"]]


# When something is wrong.


@pytest.mark.parametrize(
    ("call", "where", "message"),
    [
        ("dataset_file", {"revision": OTHER}, "at bbbbbbbbbbbb does not exist: no such revision; correct `revision`"),
        ("dataset_files", {"revision": OTHER}, "at bbbbbbbbbbbb does not exist: no such revision; correct `revision`"),
        ("dataset_file", {"file": "x"}, "x of someone/sums at aaaaaaaaaaaa does not exist: no such file at this revision"),
        ("dataset_files", {"file": "x-*"}, "x-* of someone/sums at aaaaaaaaaaaa is not there; correct `file`"),
        ("dataset_file", {"id": "a/b"}, "is not on the hub: moved, deleted or private; correct `id`, or set HF_TOKEN"),
        ("dataset_files", {"id": "a/b"}, "is not on the hub: moved, deleted or private; correct `id`, or set HF_TOKEN"),
    ],
)
def test_what_is_not_there_is_named(tmp_path: Path, server: Server, call: str, where: dict, message: str) -> None:
    assert message in error(ask(tmp_path, call, {**ONE, **where}, server))


@pytest.mark.parametrize("call", ["dataset_file", "dataset_files"])
@pytest.mark.parametrize(
    ("refusal", "message"),
    [
        ((401, "GatedRepo"), "is gated; accept its terms on its page and set HF_TOKEN"),
        ((403, "GatedRepo"), "is gated; accept its terms on its page and set HF_TOKEN"),
        ((401, ""), "was refused (401); set HF_TOKEN to a token that may read it"),
        ((403, ""), "was refused (403); set HF_TOKEN to a token that may read it"),
    ],
)
def test_a_gated_repository_asks_for_a_token_and_takes_it(
    tmp_path: Path, server: Server, call: str, refusal: tuple[int, str], message: str
) -> None:
    server.refuses, server.allowed = refusal, "hf_secret"
    said = error(ask(tmp_path, call, ONE, server))
    assert message in said and "hf_secret" not in said
    assert paths(ask(tmp_path, call, ONE, server, HF_TOKEN="hf_secret"))


def test_without_network_the_file_to_place_is_named(tmp_path: Path) -> None:
    """Nothing listens at the address; the client tries for half a minute. Switched off, it does not try."""
    message = (
        f"{ONE['file']} of someone/sums at aaaaaaaaaaaa did not arrive: the hub does not answer; it needs the network once"
    )
    assert message in error(ask(tmp_path, "dataset_file", ONE, None))
    for call in ("dataset_file", "dataset_files", "model_folder"):
        assert "the hub does not answer" in error(ask(tmp_path, call, ONE, None, HF_HUB_OFFLINE="1"))


def test_a_download_that_breaks_off_goes_on_where_it_stopped(tmp_path: Path, server: Server) -> None:
    server.cuts = 1
    (path,) = paths(ask(tmp_path, "dataset_file", ONE, server))
    assert path.read_bytes() == FILES[ONE["file"]] and sum(line.startswith("GET /datasets") for line in server.asked) == 2


@pytest.mark.parametrize("call", ["dataset_file", "dataset_files"])
def test_a_download_that_was_given_up_leaves_nothing_half_done(tmp_path: Path, server: Server, call: str) -> None:
    server.cuts = 1_000
    where = ONE if call == "dataset_file" else ALL
    assert "did not arrive whole: peer closed connection" in error(ask(tmp_path, call, where, server))
    assert not list(tmp_path.rglob("*.parquet")) and not list(tmp_path.rglob("*.incomplete"))
    server.cuts = 0
    assert [path.read_bytes() for path in paths(ask(tmp_path, call, where, server))] == [
        data for name, data in SHARDS.items() if call == "dataset_files" or name == ONE["file"]
    ]


def test_a_part_of_a_data_set_in_the_cache_is_not_the_whole(tmp_path: Path, server: Server) -> None:
    """Without a network the client gives what it has."""
    assert paths(ask(tmp_path, "dataset_file", ONE, server))
    said = error(ask(tmp_path, "dataset_files", ALL, None, HF_HUB_OFFLINE="1"))
    assert "is only in part here, without train-00001-of-00002.parquet; it needs the network once, or place a copy" in said
    assert len(paths(ask(tmp_path, "dataset_files", ALL, server))) == len(SHARDS)


@pytest.mark.parametrize("call", ["dataset_file", "dataset_files"])
def test_a_damaged_cached_file_is_downloaded_again(tmp_path: Path, server: Server, call: str) -> None:
    (path,) = paths(ask(tmp_path, call, ONE, server))
    blob = path.resolve()
    blob.write_bytes(blob.read_bytes()[:1_000])
    done = ask(tmp_path, call, ONE, server)
    assert paths(done) == [path] and path.read_bytes() == FILES[ONE["file"]]
    assert "WARNING: train-00000-of-00002.parquet is damaged in the hub's cache; it is downloaded again" in done.stderr
    blob.write_bytes(blob.read_bytes()[:1_000])
    assert "did not arrive" in error(ask(tmp_path, call, ONE, None, HF_HUB_OFFLINE="1"))
