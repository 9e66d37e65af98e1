import hashlib
import io
import json
import os
import tarfile
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

import pytest

from groundup.artifacts.errors import UserError
from groundup.artifacts.machine import Machine
from groundup.data import inputs, package_index
from groundup.data.download import open_url
from groundup.data.package_index import PipSettings, find_package, matches_package
from groundup.recipe.data_config import PackageConfig, SourceConfig

PACKAGE = PackageConfig(name="Some_Data", version="1.0")


def sdist(text: str = "hello") -> bytes:
    """An archive whose setup script must never run."""
    buffer = io.BytesIO()
    with tarfile.open(fileobj=buffer, mode="w:gz") as archive:
        for name, data in (
            ("some_data-1.0/setup.py", b"raise SystemExit('run')"),
            ("some_data-1.0/texts/a.txt", text.encode()),
        ):
            info = tarfile.TarInfo(name)
            info.size = len(data)
            archive.addfile(info, io.BytesIO(data))
    return buffer.getvalue()


class Index(BaseHTTPRequestHandler):
    """A local package index: JSON (PEP 691) or HTML (PEP 503), and the files themselves."""

    pages: dict[str, tuple[str, bytes]] = {}  # noqa: RUF012
    asked: list[tuple[str, str | None]] = []  # noqa: RUF012
    break_after: int | None = None

    def do_GET(self) -> None:
        self.asked.append((self.path, self.headers.get("Range")))
        if self.path not in self.pages:
            self.send_error(404)
            return
        kind, body = self.pages[self.path]
        start = int((self.headers.get("Range") or "bytes=0-").removeprefix("bytes=").removesuffix("-"))
        if start >= len(body) > 0:
            self.send_error(416)
            return
        self.send_response(206 if start else 200)
        self.send_header("Content-Type", kind)
        self.send_header("Content-Length", str(len(body) - start))
        self.end_headers()
        cls = type(self)
        if cls.break_after is not None and "texts" not in kind and self.path.endswith(".gz"):
            self.wfile.write(body[start : start + cls.break_after])
            cls.break_after = None
            self.close_connection = True
            return
        self.wfile.write(body[start:])

    def log_message(self, *_: object) -> None:
        pass


@pytest.fixture
def index() -> Iterator[str]:
    Index.pages, Index.asked, Index.break_after = {}, [], None
    server = HTTPServer(("127.0.0.1", 0), Index)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield f"http://127.0.0.1:{server.server_port}"
    server.shutdown()
    server.server_close()
    thread.join()


def use_indexes(monkeypatch: pytest.MonkeyPatch, *indexes: str, folders: tuple[str, ...] = ()) -> None:
    monkeypatch.setattr(package_index, "read_pip_settings", lambda: PipSettings(indexes, folders, None))


@pytest.mark.parametrize(
    ("file", "form", "same"),
    [
        ("some_data-1.0.tar.gz", "sdist", True),
        ("Some.Data-1.0.zip", "sdist", True),
        ("some_data-1.0.1.tar.gz", "sdist", False),
        ("some-data-extra-1.0.tar.gz", "sdist", False),
        ("some_data-1.0-py3-none-any.whl", "sdist", False),
        ("some_data-1.0-py3-none-any.whl", "wheel", True),
        ("some_data-1.0.tar.gz", "wheel", False),
        ("some_data-1.0.tar.gz.asc", "sdist", False),
        ("some_data-1.0-/../../../../evil.whl", "wheel", False),
        ("/some_data-1.0-py3-none-any.whl", "wheel", False),
        ("some_data.whl", "wheel", False),
    ],
)
def test_matches_package(file: str, form: str, same: bool):
    assert matches_package(file, PackageConfig(name="some-data", version="1.0", distribution=form)) is same


def test_json_index_with_hash(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    body = sdist()
    files = [
        {
            "filename": "some_data-1.0.tar.gz",
            "url": "/files/some_data-1.0.tar.gz",
            "hashes": {"sha256": hashlib.sha256(body).hexdigest()},
        }
    ]
    Index.pages["/simple/some-data/"] = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": files}).encode())
    Index.pages["/files/some_data-1.0.tar.gz"] = ("application/gzip", body)
    use_indexes(monkeypatch, f"{index}/missing", f"{index}/simple")
    source = SourceConfig(name="x", kind="text", package=PACKAGE, path="texts/*.txt")
    (found,) = inputs.resolve_files(source, machine)
    assert [(member.name, member.stream.read()) for member in found.iter_members()] == [("texts/a.txt", b"hello")]
    asked = len(Index.asked)
    inputs.resolve_files(source, Machine(cache_dir=machine.cache_dir, offline=True))
    assert len(Index.asked) == asked, "what is in the cache is not fetched again"


def test_pinned_package_in_the_cache_is_read(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    body = sdist()
    Index.pages["/simple/some-data/"] = ("text/html", b'<a href="/f/some_data-1.0.tar.gz">x</a>')
    Index.pages["/f/some_data-1.0.tar.gz"] = ("application/gzip", body)
    use_indexes(monkeypatch, f"{index}/simple")
    package = PACKAGE.model_copy(update={"sha256": hashlib.sha256(body).hexdigest()})
    (found,) = inputs.resolve_files(SourceConfig(name="x", kind="text", package=package), machine)
    time = found.path.stat().st_mtime_ns
    found.path.write_bytes(body[:-1] + b"x")
    os.utime(found.path, ns=(time, time))
    with pytest.raises(UserError, match=r"expected .* for package Some_Data"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=package), machine)


def test_html_index_and_wrong_hash(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    Index.pages["/simple/some-data/"] = (
        "text/html",
        b'<a href="../../f/some_data-1.0.tar.gz#sha256=' + b"0" * 64 + b'">x</a>',
    )
    Index.pages["/f/some_data-1.0.tar.gz"] = ("application/gzip", sdist())
    use_indexes(monkeypatch, f"{index}/simple")
    with pytest.raises(UserError, match=f"expected {'0' * 64}"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)
    assert not list(machine.cache_dir.rglob("*.gz")), "nothing wrong is left looking right"


def test_interrupted_download_is_resumed(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    body = sdist("many words " * 5000)
    Index.pages["/simple/some-data/"] = ("text/html", b'<a href="/f/some_data-1.0.tar.gz">x</a>')
    Index.pages["/f/some_data-1.0.tar.gz"] = ("application/gzip", body)
    Index.break_after = 100
    use_indexes(monkeypatch, f"{index}/simple")
    (found,) = inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)
    assert found.path.read_bytes() == body
    assert ("/f/some_data-1.0.tar.gz", "bytes=100-") in Index.asked


def test_find_links_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, machine: Machine):
    folder = tmp_path / "links"
    folder.mkdir()
    (folder / "some_data-1.0.tar.gz").write_bytes(sdist())
    use_indexes(monkeypatch, folders=(str(folder),))
    assert find_package(PACKAGE).url == (folder / "some_data-1.0.tar.gz").as_uri()
    (found,) = inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE, path="texts/*"), machine)
    assert [member.name for member in found.iter_members()] == ["texts/a.txt"]


def test_missing_package_is_an_error(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    use_indexes(monkeypatch, f"{index}/simple")
    with pytest.raises(UserError, match=r"Some_Data 1\.0 \(sdist\) is not in the package index"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)
    with pytest.raises(UserError, match=r"Some_Data 1\.0 .* is not in the cache"):
        inputs.resolve_files(
            SourceConfig(name="x", kind="text", package=PACKAGE), Machine(cache_dir=machine.cache_dir, offline=True)
        )


def test_pip_settings_are_read(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("PIP_INDEX_URL", "https://user:secret@example.org/simple")
    monkeypatch.setenv("PIP_CONFIG_FILE", "/dev/null")
    places = package_index.read_pip_settings()
    assert places.indexes[0] == "https://user:secret@example.org/simple"


def test_url_credentials_are_sent_and_redacted(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine):
    use_indexes(monkeypatch, index.replace("http://", "http://user:secret@") + "/simple")
    Index.pages["/simple/some-data/"] = ("text/html", b'<a href="/gone/some_data-1.0.tar.gz">x</a>')
    with pytest.raises(UserError) as caught:
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)
    assert "secret" not in str(caught.value)


@pytest.mark.parametrize("sha256", [None, "0" * 64])
def test_index_writes_only_into_the_cache(
    index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine, sha256: str | None
):
    use_indexes(monkeypatch, index + "/simple")
    file = {"filename": "some_data-1.0-x/../../../../evil.whl", "url": "/evil.whl"}
    Index.pages["/simple/some-data/"] = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": [file]}).encode())
    Index.pages["/evil.whl"] = ("texts", b"evil")
    package = PackageConfig(name="some-data", version="1.0", distribution="wheel", sha256=sha256)
    with pytest.raises(UserError, match="is not in the package index"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=package), machine)
    assert not list(machine.cache_dir.parent.rglob("*evil*"))


def test_index_names_no_local_file(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine, tmp_path: Path):
    (tmp_path / "secret").write_text("x")
    use_indexes(monkeypatch, index + "/simple")
    file = {"filename": "some_data-1.0.tar.gz", "url": (tmp_path / "secret").as_uri()}
    Index.pages["/simple/some-data/"] = ("application/vnd.pypi.simple.v1+json", json.dumps({"files": [file]}).encode())
    with pytest.raises(UserError, match="is not in the package index"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)


@pytest.mark.parametrize("body", ["[]", "{}", '{"files": [1]}', '{"files": [{"filename": "a"}]}', "[" * 100_000])
def test_broken_index_is_one_line(index: str, monkeypatch: pytest.MonkeyPatch, machine: Machine, body: str):
    use_indexes(monkeypatch, index + "/simple")
    Index.pages["/simple/some-data/"] = ("application/vnd.pypi.simple.v1+json", body.encode())
    with pytest.raises(UserError, match="not a package index"):
        inputs.resolve_files(SourceConfig(name="x", kind="text", package=PACKAGE), machine)


def test_passwords_do_not_follow_a_redirect_to_another_host(machine: Machine):
    seen: list[tuple[str, str | None]] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            seen.append((self.path, self.headers.get("Authorization")))
            targets = {"/start": "/same", "/same": f"http://localhost:{server.server_port}/other"}
            self.send_response(302 if self.path in targets else 200)
            if self.path in targets:
                self.send_header("Location", targets[self.path])
            self.send_header("Content-Length", "0")
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    server = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    try:
        open_url(f"http://user:secret@127.0.0.1:{server.server_port}/start", {}).close()
        origin = f"http://127.0.0.1:{server.server_port}"
        with pytest.raises(UserError, match=r"a redirect to localhost:\d+, which machine\.allowed_inputs does not"):
            open_url(f"{origin}/start", {}, allowed=(origin,))
    finally:
        server.shutdown()
        server.server_close()
    assert [(path, login is not None) for path, login in seen] == [
        ("/start", True), ("/same", True), ("/other", False), ("/start", False), ("/same", False),
    ]  # fmt: skip
