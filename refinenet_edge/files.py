"""Files as everything here treats them: written whole or not at all, read within bounds, known by their SHA-256.

What is being written lies beside its place as `.NAME.refinenet-edge`, locked while its writer lives: the next writer of
the same name waits for that one, and removes what a killed one left.
"""

import contextlib
import ctypes
import errno
import hashlib
import io
import logging
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

from refinenet_edge.errors import InputError, RefineNetEdgeError

try:
    import fcntl
except ImportError:  # not a Unix: nothing is locked
    fcntl = None  # type: ignore[assignment]

MAX_TEXT = 32 << 20  # bytes
PATIENCE = 60.0  # seconds
SAVE_SECONDS = 15.0  # between two saves of a run that is not finished
NO_WAIT = getattr(os, "O_NONBLOCK", 0)  # a pipe is opened at once, and then refused
NO_LINK = getattr(os, "O_NOFOLLOW", 0)
AT_FDCWD, RENAME_EXCHANGE = -100, 2  # of Linux

logger = logging.getLogger(__name__)


def write_atomically(path: Path, data: bytes | Iterable[bytes], error: type[RefineNetEdgeError]) -> None:
    """Put `data`, in one piece or piece after piece, under `path`: written beside, synced, renamed. Raises `error`;
    then what was there is still there.
    """
    try:
        beside = beside_of(path)
        descriptor = claim(beside)
        try:
            with os.fdopen(descriptor, "wb") as file:
                file.writelines([data] if isinstance(data, bytes) else data)
                file.flush()
                os.fsync(file.fileno())
                os.replace(beside, path)  # before it is closed, which ends the lock
        except BaseException:
            with contextlib.suppress(OSError):
                beside.unlink()
            raise
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        said = getattr(exc, "strerror", None) or exc
        raise error(f"{path} cannot be written: {said}; free the space or name another place") from exc


def beside_of(path: Path) -> Path:
    """Where what will be `path` is written."""
    path = Path(os.path.abspath(path))
    return path.parent / f".{path.name}.refinenet-edge"  # of the root, too, which has no name


@contextlib.contextmanager
def resumable(
    path: Path | None, state: Callable[[], bytes], done: Callable[[], int], error: type[RefineNetEdgeError]
) -> Iterator[Callable[[], None]]:
    """Keep `state()` in the file `path` while a run goes on, for the next one to go on from; None: nowhere.

    It is written at once, whenever what is yielded is called and `SAVE_SECONDS` have passed, and where the run stops
    for whatever reason with something `done`. A run that is finished removes it. Raises `error`.
    """
    if path is None:
        yield lambda: None
        return
    saved = 0.0

    def save(now: bool = False) -> None:
        nonlocal saved
        if now or time.monotonic() - saved > SAVE_SECONDS:
            write_atomically(path, state(), error)
            saved = time.monotonic()

    save(now=True)  # a place that cannot be written is found out now, not at the end
    try:
        yield save
    except BaseException:
        if done():
            save(now=True)
        else:
            path.unlink(missing_ok=True)
        raise
    path.unlink(missing_ok=True)


def make_folder(folder: Path, otherwise: str = "name another with --out") -> None:
    """The folder, and those above it, where they are missing. Raises `InputError`, which ends with `otherwise`."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as exc:
        raise InputError(f"folder {folder} cannot be made: {exc.strerror or exc}; {otherwise}") from exc


def write_synced(path: Path, data: bytes) -> None:
    """A new file whose bytes are on the disk. Raises `OSError`."""
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def sync_folder(folder: Path) -> None:
    """Have the names in `folder` on the disk. Raises `OSError`."""
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextlib.contextmanager
def folder_beside(place: Path) -> Iterator[Path]:
    """A new, empty folder beside `place`, to be filled by `write_synced` and put there by `put_folder`.

    What lies beside then, because it was not put or was replaced, is removed. Raises `OSError`.
    """
    beside = beside_of(place)
    beside.parent.mkdir(parents=True, exist_ok=True)
    claimed = [claim(beside, folder=True)]
    try:
        if place.exists():  # it will lie beside: nobody else is to clean it away meanwhile
            claimed.append(os.open(place, os.O_RDONLY))
            lock(claimed[-1])
        yield beside
    finally:
        if any(lies_at(descriptor, beside) for descriptor in claimed):  # not what the next writer has begun
            _remove(beside)
        if place.exists():  # else that is what a kill between two renames has left
            _remove(replaced_of(place))
        for descriptor in claimed:
            os.close(descriptor)


def put_folder(new: Path, place: Path, replace: bool = False) -> None:
    """Put the folder `new` at `place`, with all that is in it on the disk before. Raises `OSError`.

    `replace`: also where there is a folder, which then lies at `new`. It is exchanged in one step where the system can;
    else there is a moment in which nothing is at `place`, and the old one at `replaced_of` it.
    """
    for at, _, _ in os.walk(new):
        sync_folder(Path(at))
    if not replace or not place.exists():
        os.rename(new, place)
    elif not exchange(new, place):
        _remove(replaced_of(place))
        os.rename(place, replaced_of(place))
        try:
            os.rename(new, place)
        except BaseException:
            os.rename(replaced_of(place), place)
            raise
    sync_folder(place.parent)  # the new name is on the disk before the old bytes go


def replaced_of(place: Path) -> Path:
    """Where the folder at `place` lies for a moment, where it cannot be exchanged with the new one."""
    beside = beside_of(place)
    return beside.with_name(f"{beside.name}.old")


def _remove(folder: Path) -> None:
    try:
        shutil.rmtree(folder)
    except FileNotFoundError:
        pass
    except OSError as exc:
        logger.warning("what lies beside could not be removed, remove %s by hand: %s", folder, exc)


def claim(place: Path, *, folder: bool = False) -> int:
    """A new, empty file or folder at `place`: its descriptor, locked until it is closed. Raises `OSError`.

    Waits `PATIENCE` seconds for another writer of it; what one that was killed left is removed.
    """
    while True:
        try:
            fresh = True
            if folder:
                os.mkdir(place)
            else:
                os.close(os.open(place, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
        except FileExistsError:
            fresh = False
        try:
            descriptor = os.open(place, (os.O_RDONLY if folder else os.O_RDWR) | NO_LINK | NO_WAIT)
        except FileNotFoundError:  # it was another writer's, who has just put it in its place
            continue
        try:
            lock(descriptor)
            if lies_at(descriptor, place):
                if fresh:
                    return descriptor
                shutil.rmtree(place) if folder else os.unlink(place)
        except BaseException:
            os.close(descriptor)
            raise
        os.close(descriptor)


def lies_at(descriptor: int, place: Path) -> bool:
    """Whether what `descriptor` is of lies at `place`; not what another writer has put there since."""
    try:
        return os.path.samestat(os.fstat(descriptor), os.lstat(place))
    except FileNotFoundError:
        return False


def lock(descriptor: int) -> None:
    """Lock what `descriptor` is of until it is closed, within `PATIENCE` seconds. Raises `OSError`."""
    if fcntl is None:
        return
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            return fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as exc:
            if time.monotonic() > deadline:
                raise OSError(errno.EBUSY, "another process is writing it") from exc
            time.sleep(0.05)
        except OSError:  # a file system without locks: what it holds is then nobody's
            return


def exchange(one: Path, other: Path) -> bool:
    """Exchange what lies under two names, in one step; False where the system cannot. Raises `OSError`."""
    rename = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if rename is None:
        return False
    if rename(AT_FDCWD, os.fsencode(one), AT_FDCWD, os.fsencode(other), RENAME_EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in (errno.EINVAL, errno.ENOSYS, errno.EOPNOTSUPP):  # a file system or a kernel without it
        return False
    raise OSError(code, os.strerror(code), str(other))


def open_regular(path: Path, *, follow: bool = True) -> io.BufferedReader:
    """A regular file to read, opened without waiting. Raises `OSError` for anything else.

    `follow` False: a link is refused too.
    """
    descriptor = os.open(path, os.O_RDONLY | NO_WAIT | (0 if follow else NO_LINK))
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise OSError(errno.EINVAL, "not a regular file", str(path))
    return os.fdopen(descriptor, "rb")


def sha256(path: Path, error: type[RefineNetEdgeError]) -> str:
    """The hex SHA-256 of a file, read piece by piece. Raises `error`."""
    digest = hashlib.sha256()
    try:
        with open_regular(path) as file:
            while chunk := file.read(1 << 20):
                digest.update(chunk)
    except (OSError, ValueError) as exc:
        raise error(f"{path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    return digest.hexdigest()


def scratch_folder(beside: Path) -> tempfile.TemporaryDirectory[str]:
    """A folder for a while: the system's, or where that has none to write to, as in a container, `beside`."""
    try:
        return tempfile.TemporaryDirectory(dir=tempfile.gettempdir())
    except FileNotFoundError:
        return tempfile.TemporaryDirectory(prefix=".", dir=beside)


def stamp_of(path: Path | None) -> str:
    """What changes when the file is written, or another is put in its place; "-" where there is none.

    The time of the last change of its inode is part of it: copying and unpacking can keep all else.
    """
    try:
        status = path.stat() if path else None
    except OSError:
        status = None
    return f"{status.st_size}.{status.st_mtime_ns}.{status.st_ctime_ns}" if status else "-"


def read_bytes(path: Path, most: int, what: str, error: type[RefineNetEdgeError] = InputError) -> bytes:
    """A regular file of at most `most` bytes. Raises `error`, which calls it `what`, such as "image"."""
    try:
        with open_regular(path) as file:
            # one that claims to be small may still have no end
            data = file.read(most + 1) if os.fstat(file.fileno()).st_size <= most else None
    except FileNotFoundError as exc:
        raise error(f"no {what} at {path}") from exc
    except (OSError, ValueError) as exc:  # ValueError: a NUL in the name
        raise error(f"{what} {path} cannot be read: {getattr(exc, 'strerror', None) or exc}") from exc
    if data is None or len(data) > most:
        raise error(f"{what} {path} is larger than {most} bytes")
    return data


def read_utf8(path: Path, most: int, what: str, error: type[RefineNetEdgeError] = InputError) -> str:
    """The text of `read_bytes`; a byte order mark is left out. Raises as it does."""
    try:
        return read_bytes(path, most, what, error).decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise error(f"{what} {path} cannot be read: {exc}") from exc


def read_text(path: Path) -> str:
    """What a small file of the system says, without the NUL that ends a device tree's string; "" for none."""
    try:
        with path.open("rb") as file:
            return file.read(MAX_TEXT).decode(errors="replace").replace("\0", " ").strip()
    except OSError:
        return ""


def is_there(path: Path) -> bool:
    """Whether something is at `path`. Raises `InputError` where that cannot be told, as of what a closed folder has."""
    try:
        path.stat()
    except PermissionError as exc:
        raise InputError(f"{path} cannot be read: {exc.strerror}") from exc
    except (OSError, ValueError):  # ValueError: a NUL in the name
        return False
    return True


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
        inside = "" if at == str(folder) else f"{Path(at).relative_to(folder).as_posix()}/"
        names += [inside + name for name in files if name[0] != "."]
    return sorted(names)
