"""Remote token shards: on-demand downloads, caching, retries and errors."""

import http.server
import re
import shutil
import threading
from collections.abc import Iterator
from pathlib import Path

import fsspec
import numpy as np
import pytest

from groundup.artifacts.errors import UserError
from groundup.tokenizer import TokenShard, range_cache
from groundup.tokenizer.token_shards import ShardWriter


@pytest.fixture
def local(tmp_path: Path) -> TokenShard:
    folder = tmp_path / "local"
    folder.mkdir()
    lengths = np.random.default_rng(1).integers(1, 900, 400)
    ids = np.random.default_rng(2).integers(0, 60_000, lengths.sum())
    with ShardWriter(folder, "train", vocab_size=60_000, tokenizer="t", end_of_text=0) as writer:
        writer.append(ids, lengths, ["web", "books"] * 200, lengths.tolist())
        writer.commit(1)
        writer.finish()
    return TokenShard(folder / "train")


class Server(http.server.SimpleHTTPRequestHandler):
    """An HTTP server with range requests, like an object store."""

    ranges = True
    failures = 0
    requests: list[str]

    def do_GET(self) -> None:
        path = Path(self.translate_path(self.path))
        requested = re.fullmatch(r"bytes=(\d+)-(\d+)", self.headers.get("Range", ""))
        type(self).requests.append(f"{path.name} {self.headers.get('Range')}")
        if requested and type(self).failures:
            type(self).failures -= 1
            self.send_error(503)
            return
        data = path.read_bytes()
        content = data[int(requested[1]) : int(requested[2]) + 1] if requested and self.ranges else data
        self.send_response(206 if requested and self.ranges else 200)
        self.send_header("Content-Length", str(len(content)))
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: object) -> None: ...


@pytest.fixture
def server(tmp_path: Path) -> Iterator[tuple[str, type[Server]]]:
    class RecordingServer(Server):
        requests: list[str] = []  # noqa: RUF012

        def __init__(self, *arguments: object):
            super().__init__(*arguments, directory=str(tmp_path))  # type: ignore[arg-type]

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), RecordingServer) as running:
        thread = threading.Thread(target=running.serve_forever)
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", RecordingServer
        running.shutdown()
        thread.join()


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(range_cache, "CHUNK_BYTES", 1 << 12)
    monkeypatch.setattr(range_cache.time, "sleep", lambda seconds: None)


def fetched(server: type[Server]) -> list[str]:
    return [line for line in server.requests if line.startswith("train.bin bytes")]


def test_remote_chunks_are_fetched_on_demand_and_once(
    local: TokenShard, server: tuple[str, type[Server]], tmp_path: Path
):
    remote = TokenShard(f"{server[0]}/local/train", cache=tmp_path / "cache")
    assert fetched(server[1]) == []
    assert np.array_equal(remote.document(7), local.document(7))
    assert len(fetched(server[1])) == 1
    remote.fetch([(100, 110), (100_000, 100_010)])
    assert np.array_equal(remote.read(100_000, 100_010), local.read(100_000, 100_010))
    before = fetched(server[1])
    again = TokenShard(f"{server[0]}/local/train", cache=tmp_path / "cache")
    assert np.array_equal(again.document(7), local.document(7))
    assert np.array_equal(again.read(100_000, 100_010), local.read(100_000, 100_010))
    assert fetched(server[1]) == before
    assert np.array_equal(again.tokens, local.tokens)
    assert again.document_offsets.tolist() == local.document_offsets.tolist()
    assert again.document_sources.tolist() == local.document_sources.tolist()


def test_fsspec_filesystems(local: TokenShard, tmp_path: Path):
    memory = fsspec.filesystem("memory")
    memory.put(str(Path(local.base).parent) + "/", "/corpus/", recursive=True)
    try:
        remote = TokenShard("memory://corpus/train", cache=tmp_path / "cache")
        assert np.array_equal(remote.document(399), local.document(399))
        memory.pipe("/corpus/train.bin", memory.cat("/corpus/train.bin")[:-2])
        with pytest.raises(UserError, match=r"train\.bin: \d+ bytes, expected \d+ by the sidecar"):
            TokenShard("memory://corpus/train", cache=tmp_path / "new")
        with pytest.raises(UserError, match=r"memory://elsewhere/train\.json: no such file"):
            TokenShard("memory://elsewhere/train", cache=tmp_path / "cache")
    finally:
        memory.rm("/corpus", recursive=True)
    with pytest.raises(UserError, match=r"unknown://corpus/train\.json: cannot be opened"):
        TokenShard("unknown://corpus/train", cache=tmp_path / "cache")


def test_failed_requests_are_retried(local: TokenShard, server: tuple[str, type[Server]], tmp_path: Path):
    remote = TokenShard(f"{server[0]}/local/train", cache=tmp_path / "cache")
    server[1].failures = 2
    assert np.array_equal(remote.document(7), local.document(7))
    server[1].failures = 100
    with pytest.raises(UserError, match="cannot be read"):
        remote.document(300)
    server[1].failures = 0
    assert np.array_equal(remote.document(300), local.document(300))


def test_server_without_range_requests_is_refused(local: TokenShard, server: tuple[str, type[Server]], tmp_path: Path):
    remote = TokenShard(f"{server[0]}/local/train", cache=tmp_path / "cache")
    server[1].ranges = False
    with pytest.raises(UserError, match="does not support range requests"):
        remote.document(7)


def test_changed_shard_at_the_same_url_has_a_new_cache(
    local: TokenShard, server: tuple[str, type[Server]], tmp_path: Path
):
    url, folder = f"{server[0]}/local/train", Path(local.base).parent
    TokenShard(url, cache=tmp_path / "cache").document(0)
    shutil.rmtree(folder)
    folder.mkdir()
    with ShardWriter(folder, "train", vocab_size=60_000, tokenizer="t", end_of_text=0) as writer:
        writer.append(np.array([5, 6, 0]), [3], ["web"], [2])
        writer.commit(1)
        writer.finish()
    assert TokenShard(url, cache=tmp_path / "cache").document(0).tolist() == [5, 6, 0]
