"""Files as everything here treats them: written whole or not at all, known by their SHA-256."""

from __future__ import annotations

import contextlib
import hashlib
import os
import secrets
from pathlib import Path

from refinenet_edge.errors import InputError, RefineNetEdgeError

MAX_TEXT = 32 << 20  # bytes


def write_atomically(path: Path, data: bytes, error: type[RefineNetEdgeError]) -> None:
    """Put `data` under `path`: written beside, synced, renamed. Raises `error`; then what was there is still there."""
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        with beside.open("xb") as file:
            file.write(data)
            file.flush()
            os.fsync(file.fileno())
        os.replace(beside, path)
    except OSError as exc:
        raise error(f"{path} cannot be written: {exc.strerror or exc}; free the space or name another place") from exc
    finally:
        with contextlib.suppress(OSError):  # already renamed when all went well
            beside.unlink()


def sha256(path: Path, error: type[RefineNetEdgeError]) -> str:
    """The hex SHA-256 of a file, read piece by piece. Raises `error`."""
    digest = hashlib.sha256()
    try:
        with path.open("rb") as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except OSError as exc:
        raise error(f"{path} cannot be read: {exc.strerror or exc}") from exc
    return digest.hexdigest()


def read_bytes(path: Path, most: int, what: str) -> bytes:
    """A file of at most `most` bytes. Raises `InputError`, which calls it `what`, such as "image"."""
    try:
        if not path.is_file():
            raise InputError(f"no {what} at {path}")
        if (size := path.stat().st_size) > most:
            raise InputError(f"{what} {path} has {size} bytes, at most {most} are read")
        return path.read_bytes()
    except (OSError, ValueError) as exc:
        raise InputError(f"{what} {path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc


def read_text(path: Path) -> str | None:
    """What a small file of the system says, without the NUL that ends a device tree's string; None: nothing."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT).decode(errors="replace").replace("\0", " ").strip() or None
    except OSError:
        return None


def list_files(folder: Path, error: type[RefineNetEdgeError], *, below: bool = False) -> list[str]:
    """The names of the files in `folder`, in order, "/" between their parts; `below`: with those in its sub-folders.

    Hidden files and folders are left out, and folders that are links are not entered. Raises `error` where one cannot
    be listed.
    """

    def refuse(exc: OSError) -> None:
        raise error(f"folder {exc.filename} cannot be listed: {exc.strerror or exc}") from exc

    names = []
    for at, folders, files in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if below and name[0] != "."]
        inside = Path(at).relative_to(folder)
        names += [(inside / name).as_posix() for name in files if name[0] != "."]
    return sorted(names)
