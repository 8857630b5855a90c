"""Caches at a URL of an object store (s3://, gs://, abfs://, hdfs://, file:///), by way of a complete local copy.

    store/
      {cache_id}/       a copied cache: manifest.json and every plain file beside it
      {id of the set}/  of a remote folder of caches, its shards: {name} -> ../{cache_id}

A cache is mapped, so it has to be a local file; it is copied once and then found by its id, whatever URL it comes from.
A copy appears under its final name when every chunk of it agrees with the manifest. A shard is a copy like any other,
so an interrupted copy of many resumes with those that are missing; the set appears when all are there.

One process or thread copies into a store at a time and the others find what it left: of eight ranks one downloads.
"""

import fcntl
import hashlib
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from textwrap import shorten

import pyarrow as pa
from pyarrow.fs import FileInfo, FileSelector, FileSystem, FileType, LocalFileSystem

from loaders.cache.atomic import atomic_folder
from loaders.cache.format import MANIFEST, Manifest, open_columns, open_rows, read_manifest, verify
from loaders.errors import InputError, check_memory
from loaders.progress import Progress, counted, part_of, quiet

THREADS = 8  # ranged reads at once: one stream of an object store is far slower than the network


def is_url(text: str) -> bool:
    """Whether `text` is a scheme followed by ://, and so for `local_copy` rather than a local path."""
    return re.match(r"[A-Za-z][A-Za-z0-9+.-]*://", text) is not None


def local_copy(
    url: str, store: Path, on_progress: Callable[[str], None] = lambda line: None, progress: Progress = quiet
) -> Path:
    """The local copy of a remote cache, or of a remote folder of caches; downloads what `store` does not hold yet.

    Args:
        url: a folder with a manifest.json, or one whose subfolders, hidden ones aside, have one each. Credentials,
            region and endpoint come from the environment or the URL's query, as pyarrow.fs reads them.
        store: folder of copies, made where it is missing.
        on_progress: receives a line before each download.
        progress: of each download.

    Of what is already there only the manifest is read again. Raises InputError for a URL that cannot be opened, a
    folder that is no cache, no access, a download that fails or differs from its manifest, and a store that cannot be
    written; no incomplete copy is left.
    """
    where = _shown(url)
    with _reading(where, url):
        system, path = _open(url)
    if not path.strip("/"):
        raise InputError(where, "names no folder", "Write for example s3://bucket/folder")
    folder = _Folder(system, path.rstrip("/"), where)
    entries = folder.entries()
    if MANIFEST in entries:
        return _copy_of(_read_cache(folder, entries), store, on_progress, progress)

    names = sorted(n for n, e in entries.items() if e.type == FileType.Directory and not n.startswith("."))
    if not names:
        raise InputError(where, f"no cache here ({MANIFEST} is missing)", "Check the URL, or upload the cache again")
    shards = {name: _read_cache(folder.below(name), folder.below(name).entries()) for name in names}
    copies = {name: _copy_of(shard, store, on_progress, progress) for name, shard in shards.items()}
    content = "\n".join(f"{name} {copy.name}" for name, copy in copies.items())
    out = store / hashlib.sha256(content.encode()).hexdigest()[:16]
    with _alone_in(store):
        if not _is_set(out, copies):
            with atomic_folder(out, follow=False) as partial:
                for name, copy in copies.items():
                    (partial / name).symlink_to(Path("..") / copy.name)
    return out


def _is_set(folder: Path, copies: dict[str, Path]) -> bool:
    """Whether a folder holds nothing but links to these copies."""
    try:
        found = {entry.name: os.readlink(entry) for entry in folder.iterdir()}
    except OSError:  # there is none, or something that is no link
        return False
    return not folder.is_symlink() and found == {name: f"../{copy.name}" for name, copy in copies.items()}


@dataclass(frozen=True)
class _Folder:
    system: FileSystem
    path: str  # in the file system
    where: str  # for messages

    def below(self, name: str) -> "_Folder":
        return _Folder(self.system, f"{self.path}/{name}", f"{self.where}/{name}")

    def entries(self) -> dict[str, FileInfo]:
        with _reading(self.where):
            return {info.base_name: info for info in self.system.get_file_info(FileSelector(self.path))}


@dataclass(frozen=True)
class _Cache:
    folder: _Folder
    text: bytes  # of the manifest
    manifest: Manifest
    files: dict[str, FileInfo]  # the plain files beside it


def _open(url: str) -> tuple[FileSystem, str]:
    system, path = FileSystem.from_uri(url)
    return system, path


def _read_cache(folder: _Folder, entries: dict[str, FileInfo]) -> _Cache:
    if MANIFEST not in entries:
        raise InputError(folder.where, f"no cache here ({MANIFEST} is missing)", "Upload the cache again")
    with _reading(f"{folder.where}/{MANIFEST}"), folder.system.open_input_file(entries[MANIFEST].path) as file:
        text = file.read()
    with tempfile.TemporaryDirectory() as local:
        (Path(local) / MANIFEST).write_bytes(text)
        with _named_as(folder.where, Path(local)):
            manifest = read_manifest(Path(local))
    files = {name: info for name, info in entries.items() if info.type == FileType.File and name != MANIFEST}
    if isinstance(folder.system, LocalFileSystem) and (links := _links(entries)):
        what = f"is a link to {os.readlink(entries[links[0]].path)}, and a copy would hold what lies there"
        raise InputError(f"{folder.where}/{links[0]}", what, "Put the file itself there, or remove the link")
    return _Cache(folder, text, manifest, files)


def _links(entries: dict[str, FileInfo]) -> list[str]:
    """Names of a local folder's files that are links; links to folders are no part of a cache."""
    return [name for name, info in entries.items() if info.type == FileType.File and Path(info.path).is_symlink()]


def _copy_of(cache: _Cache, store: Path, on_progress: Callable[[str], None], progress: Progress) -> Path:
    out = store / cache.manifest.cache_id
    if _holds(out, cache.manifest):
        return out
    with _alone_in(store):
        if _holds(out, cache.manifest):  # by now
            return out
        size, free = sum(info.size for info in cache.files.values()), shutil.disk_usage(store).free
        if size > free:
            what = f"{size / 1e9:.1f} GB to copy and {free / 1e9:.1f} GB free"
            raise InputError(str(store), what, "Free some space, or keep the copies on another disk")
        on_progress(f"copying {cache.folder.where} ({size / 1e9:.2f} GB)")
        with atomic_folder(out, follow=False) as partial:
            (partial / MANIFEST).write_bytes(cache.text)
            before = 0
            for name, info in cache.files.items():
                _download(cache, info, partial / name, part_of(progress, before / size, (before + info.size) / size))
                before += info.size
            with _named_as(cache.folder.where, partial):
                verify(partial)
    return out


def _holds(folder: Path, manifest: Manifest) -> bool:
    """Whether a folder is a whole copy. Its bytes were compared when it appeared, and are not read again."""
    try:
        found = read_manifest(folder)
        open_columns(folder, found)
        open_rows(folder, found)
    except InputError:
        return False
    return found.cache_id == manifest.cache_id


def _download(cache: _Cache, info: FileInfo, out: Path, progress: Progress) -> None:
    where, chunk, size = f"{cache.folder.where}/{info.base_name}", cache.manifest.chunk_bytes, info.size
    with _reading(where):
        source = cache.folder.system.open_input_file(info.path)
    with source, out.open("wb") as target, ThreadPoolExecutor(THREADS) as pool:
        target.truncate(size)

        def copy(start: int) -> None:
            with _reading(where):
                rest = memoryview(source.read_at(min(chunk, size - start), start))
            if len(rest) < min(chunk, size - start):
                raise InputError(where, f"ended at byte {start + len(rest)} of {size}", "Try again")
            while rest:
                written = os.pwrite(target.fileno(), rest, start)
                rest, start = rest[written:], start + written

        starts = range(0, size, chunk)
        list(counted(pool.map(copy, starts), len(starts), progress, "copying the cache"))


@contextmanager
def _alone_in(store: Path) -> Iterator[None]:
    """Wait until no other process or thread copies into the store; a killed one's lock ends with it."""
    try:
        store.mkdir(parents=True, exist_ok=True)
        lock = (store / ".lock").open("w")
        fcntl.flock(lock, fcntl.LOCK_EX)
    except OSError as error:
        what = f"copies cannot be kept there ({error.strerror})"
        raise InputError(str(store), what, "Keep them in another folder") from error
    with lock:
        yield


@contextmanager
def _reading(where: str, url: str | None = None) -> Iterator[None]:
    """Turn what a file system raises into one line, in which a `url` is replaced by `where`, its printable form."""
    try:
        yield
    except (OSError, pa.ArrowException) as error:
        check_memory(error)
        text = str(error).replace(url, where) if url else str(error)
        text = shorten(text.strip(" .\n"), 400, placeholder=" ...")  # some list every place they tried
        cure = "Check the URL (s3://, gs://, abfs://, hdfs:// or file:///), the credentials and the network"
        raise InputError(where, f"cannot be read ({text})", cure) from error


@contextmanager
def _named_as(where: str, folder: Path) -> Iterator[None]:
    """Let an InputError about a local folder name the remote one."""
    try:
        yield
    except InputError as error:
        raise InputError(error.where.replace(str(folder), where), error.what, "Upload the cache again") from error


def _shown(url: str) -> str:
    """The URL without its query and without a password: it ends up in logs."""
    return re.sub(r"(://[^/@:]*):[^/@]*@", r"\1@", re.sub("(?<=[^/:])/+$", "", url.partition("?")[0]))
