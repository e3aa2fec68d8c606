"""Folders of files, on this machine or wherever pyarrow's or fsspec's filesystems reach: s3://, gs://, hdfs://, ...

A name is a path below the folder, "/" between its parts. What is written appears whole or not at all.
"""

from __future__ import annotations

import contextlib
import io
import re
import secrets
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from refinenet_edge.errors import InputError, MissingExtra
from refinenet_edge.files import list_files, make_folder, read_bytes, stamp_of, write_atomically
from refinenet_edge.urls import is_url, shown

# a file there appears when it has been uploaded; elsewhere it is renamed when it is whole
UPLOADED_WHOLE = ("s3", "gcs", "abfs", "py::fsspec+s3", "py::fsspec+gs", "py::fsspec+abfs")
MAX_BYTES = 256 * 1024 * 1024  # that read() takes into memory
CLUSTER = "pip install 'refinenet-edge[cluster]'"


def absolute(where: str) -> str:
    """`where` so that it means the same whatever folder a worker was started in."""
    return where if is_url(where) else str(Path(where).resolve())


def open_storage(where: str) -> Storage:
    """The folder `where`, a path or a URL, which need not exist. Raises `InputError`, `MissingExtra`."""
    return Remote(where) if is_url(where) else Local(Path(where))


def locate(where: str) -> tuple[Storage, str]:
    """The folder that `where` means and "", or the folder of the one file and its name in it. Raises `InputError`."""
    if is_url(where):
        storage = Remote(where)
        return storage, storage.enter_parent()
    path = Path(where)
    if path.is_file():
        return Local(path.parent), path.name
    if not path.is_dir():
        raise InputError(f"there is no file or folder {where}")
    return Local(path), ""


class Local:
    """A folder on this machine, or on one that all machines have mounted."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder

    def names(self) -> list[str]:
        """Every file below, in order; none where the folder is missing. Hidden files and folders are left out."""
        return list_files(self.folder, InputError, below=True) if self.folder.is_dir() else []

    def stamps(self) -> dict[str, str]:
        """The same files, with what changes when one is written or replaced."""
        return {name: self.stamp(name) for name in self.names()}

    def stamp(self, name: str) -> str:
        """Of one of them; of none where it is gone."""
        return stamp_of(self.folder / name)

    def read(self, name: str) -> bytes:
        """A file of at most `MAX_BYTES`. Raises `InputError`."""
        return read_bytes(self.folder / name, MAX_BYTES, "file")

    def write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        """Put `data`, in one piece or piece after piece, there, folders made as needed. Raises `InputError`; then what
        was there is still there.
        """
        path = self.folder / name
        make_folder(path.parent)
        write_atomically(path, data, InputError)

    def remove(self, name: str) -> None:
        """Remove a file, if it is there."""
        (self.folder / name).unlink(missing_ok=True)

    @contextlib.contextmanager
    def path(self, name: str) -> Iterator[Path]:
        """The file as one on this machine, for a library that opens paths. Raises `InputError`."""
        yield self.folder / name


def _without_secret(said: str, url: str) -> str:
    """What a library says of `url`, unless it quotes what nobody else may read."""
    rest, kept = (text.partition("://")[2] for text in (url, shown(url)))
    secret = rest[: rest.find(kept)]
    if any(len(part) > 3 and part in said for part in re.split("[:/@]", secret)):
        return "it is no URL that can be read; a secret has / as %2F in it, and + as %2B"
    return said


class Remote:
    """The same of a folder behind a URL: pyarrow's own filesystems first, then fsspec's."""

    def __init__(self, url: str) -> None:
        self.url = shown(url)
        try:
            from pyarrow import fs
        except ModuleNotFoundError as exc:
            raise MissingExtra(f"{self.url} needs pyarrow: {CLUSTER}") from exc
        self._fs = fs
        try:
            self._files, self._root = _open(fs, url)
        except ImportError as exc:  # fsspec names the package that a scheme needs
            raise MissingExtra(f"{self.url}: {exc}") from exc
        except (OSError, ValueError) as exc:
            raise InputError(f"{self.url} cannot be opened: {_without_secret(str(exc), url)}") from None

    def enter_parent(self) -> str:
        """Where the URL is a file's, become its folder; the file's name, or ""."""
        if self._info(self._root).type != self._fs.FileType.File:
            return ""
        self._root, _, name = self._root.rpartition("/")
        return name

    def names(self) -> list[str]:
        return list(self.stamps())

    def stamps(self) -> dict[str, str]:
        try:
            infos = self._files.get_file_info(self._fs.FileSelector(self._root, allow_not_found=True, recursive=True))
        except OSError as exc:
            raise InputError(f"{self.url} cannot be listed: {exc}") from exc
        root = self._root.rstrip("/") + "/"
        files = (info for info in infos if info.type == self._fs.FileType.File)
        # some give the path a leading "/"
        stamps = {info.path[info.path.index(root) + len(root) :]: _stamp(info) for info in files}
        return {
            name: stamps[name] for name in sorted(stamps) if not any(p[0] == "." for p in PurePosixPath(name).parts)
        }

    def stamp(self, name: str) -> str:
        return _stamp(self._info(self._at(name)))

    def read(self, name: str) -> bytes:
        if (size := self._info(self._at(name)).size or 0) > MAX_BYTES:
            raise InputError(f"{self.url}: {name} has {size} bytes, at most {MAX_BYTES} are read")
        with self._stream(name) as file:
            return bytes(file.read())

    def write(self, name: str, data: bytes | Iterable[bytes]) -> None:
        whole = self._files.type_name in UPLOADED_WHOLE
        place = self._at(name)
        beside = place if whole else f"{place.rpartition('/')[0]}/.{secrets.token_hex(8)}.tmp"
        # a stream that is closed is an upload that is done: `data` may raise before, not while it is open
        pieces = io.BytesIO(data) if isinstance(data, bytes) else tempfile.TemporaryFile()  # noqa: SIM115
        try:
            if not isinstance(data, bytes):
                pieces.writelines(data)
                pieces.seek(0)
            if not whole:
                self._files.create_dir(place.rpartition("/")[0], recursive=True)
            try:
                with self._files.open_output_stream(beside) as file:
                    shutil.copyfileobj(pieces, file)
                if not whole:
                    self._files.move(beside, place)
            except BaseException:
                if not whole:  # a kill leaves it, which nothing reads
                    with contextlib.suppress(OSError):
                        self._files.delete_file(beside)
                raise
        except OSError as exc:
            raise InputError(f"{self.url}: {name} cannot be written: {exc}") from exc
        finally:
            pieces.close()

    def remove(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self._files.delete_file(self._at(name))

    @contextlib.contextmanager
    def path(self, name: str) -> Iterator[Path]:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / PurePosixPath(name).name
            with self._stream(name) as source, path.open("wb") as file:
                shutil.copyfileobj(source, file)
            yield path

    @contextlib.contextmanager
    def _stream(self, name: str) -> Iterator[Any]:
        try:
            with self._files.open_input_stream(self._at(name)) as file:
                yield file
        except OSError as exc:
            raise InputError(f"{self.url}: {name} cannot be read: {exc}") from exc

    def _at(self, name: str) -> str:
        return f"{self._root.rstrip('/')}/{name}"

    def _info(self, path: str) -> Any:
        try:
            return self._files.get_file_info(path)
        except OSError as exc:
            raise InputError(f"{self.url} cannot be read: {exc}") from exc


Storage = Local | Remote


def _stamp(info: Any) -> str:
    """Of a pyarrow FileInfo; not every filesystem knows times."""
    return f"{info.size}.{info.mtime_ns}"


def _open(fs: Any, url: str) -> tuple[Any, str]:
    """A pyarrow filesystem and the path in it."""
    try:
        files, path = fs.FileSystem.from_uri(url)
        return files, str(path)
    except ValueError as unknown:  # pyarrow's ArrowInvalid: a scheme it does not have
        try:
            from fsspec.core import url_to_fs
        except ModuleNotFoundError:
            raise unknown from None
        files, path = url_to_fs(url)
        return fs.PyFileSystem(fs.FSSpecHandler(files)), str(path)
