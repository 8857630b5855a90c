"""Remote caches: the copy equals what is there, is made once, and is whole or not at all, whatever fails in between.

Most tests use file:// URLs; one has a server that speaks as much of S3 as a reader needs, for pyarrow's S3 client.
"""

import os
import re
import shutil
import subprocess
import sys
import threading
from collections import Counter
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import numpy as np
import pytest
from pyarrow.fs import FileSystem, LocalFileSystem, SubTreeFileSystem

from loaders.cache import remote
from loaders.cache.format import MANIFEST, PANEL, ROWS, read_manifest, verify, write_manifest
from loaders.cache.remote import is_url, local_copy
from loaders.errors import InputError
from loaders.panel import open_panel
from tests.panels import write_panel

CHUNK = 4096


def upload(folder, **changes):
    """A cache of many small chunks, another file beside it, and a subfolder that is no part of it; gives its id."""
    panel = write_panel(folder, **changes)
    panel.manifest.chunk_bytes = CHUNK
    write_manifest(folder, panel.manifest)
    np.save(folder / "sectors.npy", np.arange(5000))
    (folder / "empty.txt").touch()
    (folder / "notes").mkdir()
    (folder / "notes" / "thesis.tex").write_text("not copied")
    return read_manifest(folder).cache_id


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.is_file()}


def kept(store):
    """What a store holds, its lock aside."""
    return sorted(path.name for path in store.iterdir() if path.name != ".lock") if store.exists() else []


def refused(url, store, *words):
    with pytest.raises(InputError) as caught:
        local_copy(url, store)
    text = str(caught.value)
    assert "\n" not in text
    assert len(text) < 800
    for word in words:
        assert word in text, text


@pytest.fixture
def there(tmp_path):
    folder = tmp_path / "there"
    upload(folder)
    return folder


@pytest.fixture
def reads(monkeypatch):
    """Counts the files opened, by name; `fail` may make a read at an offset raise or come back short."""

    class Opened:
        def __init__(self, name, file):
            self.name, self.file = name, file

        def __enter__(self):
            return self

        def __exit__(self, *exception):
            self.file.close()

        def read(self):
            return self.file.read()

        def read_at(self, length, start):
            counting.sizes.append(length)
            return counting.fail(self.name, start, self.file.read_at(length, start))

    class Counting:
        def __init__(self):
            self.opened, self.sizes, self.fail = Counter(), [], lambda name, start, data: data
            self.lock = threading.Lock()

        def __call__(self, url):
            self.system, path = FileSystem.from_uri(url)
            return self, path

        def get_file_info(self, selector):
            return self.system.get_file_info(selector)

        def open_input_file(self, path):
            name = Path(path).name
            with self.lock:
                self.opened[name] += 1
            return Opened(name, self.system.open_input_file(path))

    counting = Counting()
    monkeypatch.setattr(remote, "_open", counting)
    return counting


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("s3://bucket/cache", True), ("file:///data/cache", True), ("abfs://box@account/x", True), ("x-y+1.z://", True),
        ("cache/", False), ("/data/cache", False), ("s3:/bucket", False), ("://x", False), ("1a://x", False),
        ("data/s3://x", False), ("", False),
    ],
)  # fmt: skip
def test_what_is_a_url(text, answer):
    assert is_url(text) is answer


@pytest.mark.parametrize("end", ["", "/"])
def test_the_copy_equals_what_is_there_and_opens(there, tmp_path, end):
    lines = []
    copy = local_copy(there.as_uri() + end, tmp_path / "deep" / "store", lines.append)
    assert copy == tmp_path / "deep" / "store" / read_manifest(there).cache_id
    assert contents(copy) == contents(there)
    assert not (copy / "notes").exists()
    verify(copy)
    np.testing.assert_array_equal(open_panel(copy).features, open_panel(there).features)
    assert len(lines) == 1
    assert there.as_uri() in lines[0]


def test_a_path_with_a_space_is_escaped_in_its_url(tmp_path):
    identity = upload(tmp_path / "my cache")
    assert local_copy((tmp_path / "my cache").as_uri(), tmp_path / "store").name == identity


def test_files_are_read_in_ranges_of_a_chunk(there, tmp_path, reads):
    local_copy(there.as_uri(), tmp_path / "store")
    assert reads.opened == {MANIFEST: 1, PANEL: 1, ROWS: 1, "sectors.npy": 1, "empty.txt": 1}
    assert max(reads.sizes) == CHUNK
    assert sum(reads.sizes) == sum(len(data) for name, data in contents(there).items() if name != MANIFEST)
    assert len(reads.sizes) > 20


def test_the_second_use_downloads_the_manifest_only(there, tmp_path, reads):
    first = local_copy(there.as_uri(), tmp_path / "store")
    (there / PANEL).unlink()
    reads.opened.clear()
    lines = []
    assert local_copy(there.as_uri(), tmp_path / "store", lines.append) == first
    assert (reads.opened, lines) == ({MANIFEST: 1}, [])
    shutil.copytree(first, tmp_path / "mirror")
    reads.opened.clear()
    assert local_copy((tmp_path / "mirror").as_uri(), tmp_path / "store") == first  # the id counts, not the URL
    assert reads.opened == {MANIFEST: 1}


def test_a_changed_cache_is_another_copy(there, tmp_path):
    first = local_copy(there.as_uri(), tmp_path / "store")
    shutil.rmtree(there)
    other = upload(there, seed=1)
    second = local_copy(there.as_uri(), tmp_path / "store")
    assert second.name == other != first.name
    verify(first)
    verify(second)


@pytest.mark.parametrize("damage", ["truncated", "no panel", "no rows", "altered manifest"])
def test_a_damaged_copy_is_made_again(there, tmp_path, damage):
    copy = local_copy(there.as_uri(), tmp_path / "store")
    if damage == "truncated":
        os.truncate(copy / PANEL, 1000)
    elif damage in ("no panel", "no rows"):
        (copy / (PANEL if damage == "no panel" else ROWS)).unlink()
    else:
        (copy / MANIFEST).write_text((there / MANIFEST).read_text().replace("C001", "D001"))
    assert local_copy(there.as_uri(), tmp_path / "store") == copy
    assert contents(copy) == contents(there)
    assert kept(tmp_path / "store") == [copy.name]


def test_an_altered_byte_is_named_by_its_chunk_and_nothing_is_kept(there, tmp_path):
    with (there / PANEL).open("r+b") as file:
        file.seek(3 * CHUNK + 17)
        byte = file.read(1)
        file.seek(-1, os.SEEK_CUR)
        file.write(bytes([byte[0] ^ 1]))
    words = (f"{there.as_uri()}/{PANEL}", f"checksum differs in chunk 3 (bytes {3 * CHUNK}..{4 * CHUNK - 1})", "Upload")
    refused(there.as_uri(), tmp_path / "store", *words)
    assert not kept(tmp_path / "store")


@pytest.mark.parametrize("size", [10, 3 * CHUNK, 3 * CHUNK + 100, 0])
def test_a_truncated_remote_file(there, tmp_path, size):
    os.truncate(there / PANEL, size)
    refused(there.as_uri(), tmp_path / "store", f"{there.as_uri()}/{PANEL}", f"{-(-size // CHUNK)} chunks")
    assert not kept(tmp_path / "store")


def test_a_missing_remote_panel(there, tmp_path):
    (there / PANEL).unlink()
    refused(there.as_uri(), tmp_path / "store", f"{there.as_uri()}/{PANEL}", "is missing")
    assert not kept(tmp_path / "store")


@pytest.mark.parametrize("text", ["{", "[]", '{"format_version": 99}', "C001"])
def test_a_remote_manifest_that_is_none(there, tmp_path, text):
    if text == "C001":
        text = (there / MANIFEST).read_text().replace("C001", "D001")
    (there / MANIFEST).write_text(text)
    refused(there.as_uri(), tmp_path / "store", f"{there.as_uri()}/{MANIFEST}")
    assert not kept(tmp_path / "store")


def test_a_download_that_fails_or_ends_early_leaves_nothing(there, tmp_path, reads):
    def lost(name, start, data):
        if name == PANEL and start == 5 * CHUNK:
            raise OSError("AWS Error SLOW_DOWN\nPlease reduce your request rate." + 99 * " And wait.")
        return data

    reads.fail = lost
    refused(there.as_uri(), tmp_path / "store", f"{there.as_uri()}/{PANEL}", "SLOW_DOWN Please reduce", "network")
    reads.fail = lambda name, start, data: data[:7] if (name, start) == (PANEL, 5 * CHUNK) else data
    refused(there.as_uri(), tmp_path / "store", f"ended at byte {5 * CHUNK + 7} of {(there / PANEL).stat().st_size}")
    assert not kept(tmp_path / "store")
    reads.fail = lambda name, start, data: data
    verify(local_copy(there.as_uri(), tmp_path / "store"))


@pytest.mark.parametrize(
    ("url", "words"),
    [
        ("gopher://host/cache", ["Unrecognized filesystem type", "s3://"]),
        ("https://host/cache", ["Unrecognized filesystem type", "s3://"]),
        ("file://host/cache", ["cannot be read", "file:///"]),
        ("s3://bucket/a b", ["cannot be read", "Cannot parse"]),
        ("s3://key:topsecret@bucket/a b?region=x", ["s3://key@bucket/a b: cannot be read"]),
        ("hdfs://host:99999/cache", ["cannot be read"]),
        ("s3://", ["s3://: names no folder"]),
        ("file:///", ["file:///: names no folder"]),
        ("file:///nowhere/at/all", ["file:///nowhere/at/all", "cannot be read", "Check the URL"]),
    ],
)
def test_a_url_that_cannot_be_opened_is_one_line_without_its_password(tmp_path, url, words):
    refused(url, tmp_path / "store", *words)
    with pytest.raises(InputError) as caught:
        local_copy(url, tmp_path / "store")
    assert "topsecret" not in str(caught.value)
    assert not list(tmp_path.iterdir())


def test_a_folder_without_caches_and_a_file(there, tmp_path):
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "thesis.tex").write_text("mine")
    refused((tmp_path / "other").as_uri(), tmp_path / "store", "no cache here")
    refused((there / PANEL).as_uri(), tmp_path / "store", "cannot be read")
    assert not (tmp_path / "store").exists()


def test_a_store_that_cannot_be_written_or_is_full(there, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("mine")
    refused(there.as_uri(), tmp_path / "file" / "store", "file", "cannot be kept")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr(shutil, "disk_usage", lambda path: usage)
    refused(there.as_uri(), tmp_path / "store", "0.0 GB free")
    assert not kept(tmp_path / "store")


def test_what_a_killed_process_left_is_removed(there, tmp_path):
    store, identity = tmp_path / "store", read_manifest(there).cache_id
    for name in (f".{identity}.partial", ".other.partial"):
        (store / name).mkdir(parents=True)
        (store / name / PANEL).write_bytes(b"half")
    local_copy(there.as_uri(), store)
    assert kept(store) == sorted([".other.partial", identity])


@pytest.fixture
def shards(tmp_path):
    """A remote folder of three caches, one of them in it twice."""
    folder = tmp_path / "shards"
    for name, seed in (("asia", 1), ("europe", 2), ("africa", 3)):
        upload(folder / name, seed=seed)
    shutil.copytree(folder / "asia", folder / "asia again")
    (folder / ".hidden").mkdir()
    (folder / "readme.txt").write_text("three caches")
    return folder


def test_a_folder_of_shards(shards, tmp_path, reads):
    store = tmp_path / "store"
    copy = local_copy(shards.as_uri(), store)
    assert copy.parent == store
    assert re.fullmatch("[0-9a-f]{16}", copy.name)
    assert sorted(path.name for path in copy.iterdir()) == ["africa", "asia", "asia again", "europe"]
    for shard in copy.iterdir():
        assert contents(shard) == contents(shards / shard.name)
        verify(shard)
    assert reads.opened[PANEL] == 3
    for path in shards.glob(f"*/{PANEL}"):
        path.unlink()
    reads.opened.clear()
    assert local_copy(shards.as_uri(), store) == copy
    assert reads.opened == {MANIFEST: 4}
    store.rename(tmp_path / "moved")
    verify(tmp_path / "moved" / copy.name / "asia")
    shutil.rmtree(shards / "europe")
    assert local_copy(shards.as_uri(), tmp_path / "moved").name != copy.name


def test_a_shard_that_fails_leaves_no_set_and_the_next_try_goes_on(shards, tmp_path, reads):
    def lost(name, start, data):
        if reads.opened[PANEL] == 2 and start == 2 * CHUNK:
            raise OSError("connection reset")
        return data

    reads.fail = lost
    refused(shards.as_uri(), tmp_path / "store", "asia", "connection reset")
    first = read_manifest(shards / "africa").cache_id
    assert kept(tmp_path / "store") == [first]
    reads.fail = lambda name, start, data: data
    reads.opened.clear()
    copy = local_copy(shards.as_uri(), tmp_path / "store")
    assert reads.opened[PANEL] == 2
    assert len(list(copy.iterdir())) == 4


def test_a_shard_without_a_manifest_is_named_before_anything_is_copied(shards, tmp_path):
    (shards / "europe" / MANIFEST).unlink()
    refused(shards.as_uri(), tmp_path / "store", f"{shards.as_uri()}/europe", "no cache here")
    assert not kept(tmp_path / "store")


def test_threads_that_copy_at_once_download_once(there, tmp_path, reads):
    start = threading.Barrier(4)

    def copy(_):
        start.wait()
        return local_copy(there.as_uri(), tmp_path / "store")

    with ThreadPoolExecutor(4) as pool:
        (found,) = set(pool.map(copy, range(4)))
    assert contents(found) == contents(there)
    assert reads.opened == {MANIFEST: 4, PANEL: 1, ROWS: 1, "sectors.npy": 1, "empty.txt": 1}
    assert kept(tmp_path / "store") == [found.name]


def test_processes_that_copy_at_once_download_once(there, tmp_path):
    program = """
import sys
from pathlib import Path
from loaders.cache.remote import local_copy
lines = []
print(local_copy(sys.argv[1], Path(sys.argv[2]), lines.append), len(lines))
"""
    command = [sys.executable, "-c", program, there.as_uri(), str(tmp_path / "store")]
    children = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    answers = [child.communicate()[0].split() for child in children]
    assert [child.returncode for child in children] == [0, 0, 0]
    copy = tmp_path / "store" / read_manifest(there).cache_id
    assert {path for path, _ in answers} == {str(copy)}
    assert sum(int(downloads) for _, downloads in answers) == 1
    assert contents(copy) == contents(there)


def test_any_file_system_of_pyarrow(there, tmp_path, monkeypatch):
    tree = SubTreeFileSystem(str(tmp_path), LocalFileSystem())
    monkeypatch.setattr(remote, "_open", lambda url: (tree, url.partition("://")[2]))
    assert contents(local_copy("abfs://there", tmp_path / "store")) == contents(there)


@pytest.fixture
def s3(tmp_path):
    """A server of the files under tmp_path/bucket, and what it was asked for; the objects of `secret` are forbidden."""
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_HEAD(self):
            self.do_GET()

        def do_GET(self):
            url = urlsplit(self.path)
            query, path = parse_qs(url.query), tmp_path / url.path.lstrip("/")
            asked.append((self.command, path.name, self.headers.get("Range")))
            if "secret" in self.path:
                self.answer(403, b"<Error><Code>AccessDenied</Code><Message>Access Denied</Message></Error>")
            elif "list-type" in query:
                self.answer(200, listing(path, query.get("prefix", [""])[0]).encode())
            elif not path.is_file():
                self.answer(404, b"")
            elif "Range" in self.headers:
                first, last = map(int, self.headers["Range"].removeprefix("bytes=").split("-"))
                self.answer(206, path.read_bytes()[first : last + 1])
            else:
                self.answer(200, path.read_bytes())

        def answer(self, code, body):
            self.send_response(code)
            self.send_header("Content-Length", str(len(body)))
            self.send_header("Last-Modified", "Mon, 04 Jan 2010 00:00:00 GMT")
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *arguments):
            pass

    def listing(bucket, prefix):
        folder = bucket / prefix
        found = sorted(folder.iterdir()) if folder.is_dir() else []
        files = "".join(
            f"<Contents><Key>{prefix}{p.name}</Key><Size>{p.stat().st_size}</Size>"
            "<LastModified>2010-01-04T00:00:00.000Z</LastModified></Contents>"
            for p in found
            if p.is_file()
        )
        folders = "".join(
            f"<CommonPrefixes><Prefix>{prefix}{p.name}/</Prefix></CommonPrefixes>" for p in found if p.is_dir()
        )
        return f"<ListBucketResult><IsTruncated>false</IsTruncated>{files}{folders}</ListBucketResult>"

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        host = f"127.0.0.1%3A{server.server_port}"
        yield lambda key: f"s3://me:topsecret@bucket/{key}?scheme=http&region=here&endpoint_override={host}", asked
        server.shutdown()
        thread.join()


def test_s3(s3, tmp_path):
    url, asked = s3
    there = tmp_path / "bucket" / "caches" / "one"
    upload(there)
    copy = local_copy(url("caches/one"), tmp_path / "store")
    assert contents(copy) == contents(there)
    ranges = [span for command, name, span in asked if command == "GET" and name == PANEL]
    assert len(ranges) == len(read_manifest(there).checksums)
    assert f"bytes=0-{CHUNK - 1}" in ranges
    asked.clear()
    assert local_copy(url("caches/one"), tmp_path / "store") == copy
    assert {name for _, name, _ in asked} == {MANIFEST, "bucket"}  # a listing asks for the bucket
    assert contents(local_copy(url("caches/"), tmp_path / "store") / "one") == contents(there)
    for key, words in (("caches/two", ["caches/two"]), ("caches/secret", ["ACCESS_DENIED", "credentials"])):
        with pytest.raises(InputError) as caught:
            local_copy(url(key), tmp_path / "store")
        assert "\n" not in str(caught.value)
        assert "topsecret" not in str(caught.value)
        for word in words:
            assert word in str(caught.value)


def test_a_link_in_the_store_is_not_written_through(there, tmp_path):
    store, identity = tmp_path / "store", read_manifest(there).cache_id
    other = tmp_path / "other"
    upload(other, seed=9)
    store.mkdir()
    (store / identity).symlink_to(other)
    before = (other / "manifest.json").read_bytes()
    refused(there.as_uri(), store, identity, f"is a link to {other}", "Remove the link")
    assert (other / "manifest.json").read_bytes() == before

    (store / identity).unlink()
    (store / identity).symlink_to(there)  # a copy kept elsewhere is read, and never written
    assert local_copy(there.as_uri(), store) == store / identity


def test_a_link_among_the_files_of_a_source_is_refused(there, tmp_path):
    (tmp_path / "secret").write_text("not part of the cache")
    (there / "notes.txt").symlink_to(tmp_path / "secret")
    refused(there.as_uri(), tmp_path / "store", "notes.txt", f"is a link to {tmp_path / 'secret'}")
    assert not (tmp_path / "store").exists() or not kept(tmp_path / "store")


def test_a_set_of_shards_that_was_changed_is_refused(shards, tmp_path):
    where = local_copy(shards.as_uri(), tmp_path / "store")
    assert local_copy(shards.as_uri(), tmp_path / "store") == where
    (where / "asia").unlink()
    (where / "asia").symlink_to(shards / "europe")
    refused(shards.as_uri(), tmp_path / "store", where.name, "holds files and is no cache")
