"""Write and open bundles: the folder that goes from the machine that builds to the device.

    NAME/
      model.onnx      the typed graph: what the plan was built from, and what runs where there is no GPU
      model.plan      the builder's bytes, untouched (only when an engine was built)
      manifest.json   records.Manifest; `files` holds the size and SHA-256 of every other file

A bundle is complete or it is not there. `write_bundle` fills `.NAME.refinenet-edge` beside NAME, syncs it to the disk
and exchanges the two in one step: after a kill or a power cut NAME is the old bundle or the new one, whole. Where the
system cannot exchange (no Linux, some network file systems) the old one is first renamed to `.NAME.refinenet-edge.old`;
then there is a moment in which NAME is missing and both lie beside it, and `open_bundle` names them. What a kill leaves
beside NAME goes with the next bundle that is written there.

An opened bundle stays what it was: its files are held open, a rebuild of the folder does not change them, and the bytes
that run are compared with their digest when they are read. Nothing is read but what the manifest lists, so a graph that
keeps weights in another file is refused.

The digests find damage, not malice: a plan is code for the GPU, so take bundles only from those you trust.
"""

import contextlib
import dataclasses
import errno
import hashlib
import json
import os
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from refinenet_edge.errors import BuildError, BundleError
from refinenet_edge.files import beside_of, folder_beside, open_regular, put_folder, replaced_of, write_synced
from refinenet_edge.onnx_file import require_whole
from refinenet_edge.records import FileDigest, Identity, Manifest, Recipe, from_json, from_plain, to_json

MODEL = "model.onnx"
PLAN = "model.plan"
MANIFEST = "manifest.json"
MAX_MANIFEST = 4 * 1024 * 1024  # bytes
CHUNK = 1024 * 1024  # bytes hashed at a time
TRIES, PAUSE = 20, 0.02  # of opening a folder that is replaced meanwhile; seconds between them


class _Held:
    """A file held open, and what it must hold."""

    def __init__(self, path: Path, digest: FileDigest) -> None:
        self.path, self.digest = path, digest
        self._file = open_regular(path, follow=False)  # a link could lead out of the bundle

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()

    def pieces(self) -> Iterator[bytes]:
        """Its bytes, piece by piece, never more than its size. Raises `BundleError` at their end if they are others."""
        size, sha256, at = self.digest.size, hashlib.sha256(), 0
        descriptor = self._file.fileno()
        if (there := os.fstat(descriptor).st_size) != size:
            raise BundleError(f"has {there} bytes, {size} were written")
        while chunk := os.pread(descriptor, min(CHUNK, size - at), at):
            sha256.update(chunk)
            at += len(chunk)
            yield chunk
        if sha256.hexdigest() != self.digest.sha256:
            raise BundleError("is damaged (its SHA-256 differs from the manifest's)")


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all there and whole when it was opened, and are held open."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of the manifest, which holds the digests of the other files
    _files: Mapping[str, _Held] = field(repr=False, compare=False)

    @property
    def identity(self) -> Identity:
        """Which bundle this is, for what is measured or made with it."""
        m = self.manifest
        return Identity(m.model, m.checkpoint, m.precision, m.backend, self.digest)

    def read(self, name: str) -> bytes:
        """File `name` as it was when the bundle was opened; the manifest too.

        Raises `BundleError` if the manifest does not list it, or it was changed where it lies.
        """
        if name not in self._files:
            raise BundleError(f"bundle {self.path} has no {name}{self.advice}")
        try:
            return b"".join(self._files[name].pieces())
        except (OSError, BundleError) as exc:
            raise BundleError(f"bundle {self.path}: {name} {_said(exc)}{self.advice}") from exc

    def read_graph(self) -> bytes:
        """The ONNX graph. Raises `BundleError`, also where it is no ONNX or refers to another file."""
        data = self.read(MODEL)
        try:
            require_whole(data)
        except BundleError as exc:
            raise BundleError(f"bundle {self.path}: {MODEL} {exc}{self.advice}") from exc
        return data

    @property
    def advice(self) -> str:
        """The end of an error about this bundle: how to build it again."""
        return _advice(self.manifest.command)


def write_bundle(folder: Path, manifest: Manifest, files: Mapping[str, bytes]) -> Manifest:
    """Write `files` and `manifest` as the bundle `folder`, replacing a bundle that is there; missing parents are made.

    Returns the manifest as written, `files` filled in. Raises `BuildError` when `folder` is something other than a
    bundle or the disk refuses: what was under the name is then still there, and the unfinished bundle is removed.
    """
    if MANIFEST in files:
        raise BuildError(f"{MANIFEST} is written from the manifest, it cannot be one of the files")
    digests = {name: FileDigest(hashlib.sha256(data).hexdigest(), len(data)) for name, data in files.items()}
    manifest = dataclasses.replace(manifest, files=digests)
    text = to_json(manifest).encode()
    if len(text) > MAX_MANIFEST:
        raise BuildError(f"the manifest has {len(text)} bytes, at most {MAX_MANIFEST} can be read back")
    folder = Path(os.path.abspath(folder))  # not resolve(): a link is refused, not followed
    try:
        require_replaceable(folder)
        with folder_beside(folder) as beside:
            for name, data in {**files, MANIFEST: text}.items():
                write_synced(beside / name, data)
            put_folder(beside, folder, replace=True)
    except OSError as exc:
        raise BuildError(f"bundle {folder} cannot be written: {exc}; free the space or name another folder") from exc
    return manifest


def open_bundle(folder: str | Path) -> Bundle:
    """The bundle at `folder`, its manifest read and every file's size and SHA-256 compared with it.

    Files that the manifest does not list are ignored. Raises `BundleError` saying what is wrong, where, and the command
    that builds the bundle again.
    """
    folder = Path(folder)
    for left in reversed(range(TRIES)):
        before = _identity(folder)
        try:
            return _open(folder)
        except BundleError:
            # while it is replaced, the files found are of one or the other bundle, or there is none for a moment
            if not left or (before == _identity(folder) and not replaced_of(folder).is_dir()):
                raise
            time.sleep(PAUSE)
    raise AssertionError


def _open(folder: Path) -> Bundle:
    if not folder.is_dir():
        raise BundleError(f"no bundle at {folder}{_left_beside(folder)}")
    data = _read_manifest(folder / MANIFEST)
    try:
        text = data.decode()
        manifest = from_json(Manifest, text)
    except UnicodeDecodeError as exc:
        raise BundleError(f"bundle {folder}: {MANIFEST} cannot be read: {exc}{_advice(None)}") from exc
    except BundleError as exc:
        raise BundleError(f"bundle {folder}: {MANIFEST}: {exc}{_advice(_command_in(text))}") from exc
    own = FileDigest(hashlib.sha256(data).hexdigest(), len(data))
    held = {}
    for name, digest in {**manifest.files, MANIFEST: own}.items():
        try:
            held[name] = _Held(folder / name, digest)
            for _ in held[name].pieces():
                pass
        except (OSError, BundleError) as exc:
            raise BundleError(f"bundle {folder}: {name} {_said(exc)}{_advice(manifest.command)}") from exc
    return Bundle(folder, manifest, own.sha256, held)


def require_replaceable(folder: Path) -> None:
    """Raise `BuildError` unless a bundle may be written at `folder`: nothing is there, or a bundle."""
    if folder.is_symlink() or (folder.exists() and not (folder / MANIFEST).is_file()):
        raise BuildError(
            f"{folder} is not a bundle (a link, or no {MANIFEST}) and is not replaced: name another folder"
        )


def _identity(folder: Path) -> tuple[int, int] | None:
    """What is another for another bundle at `folder`; None where there is nothing."""
    with contextlib.suppress(OSError, ValueError):
        status = folder.stat()
        return status.st_ino, status.st_ctime_ns
    return None


def _read_manifest(path: Path) -> bytes:
    again = _advice(None)
    try:
        with open_regular(path, follow=False) as file:
            data = file.read(MAX_MANIFEST + 1)
    except FileNotFoundError as exc:
        raise BundleError(f"{path.parent} is not a bundle: it has no {MANIFEST}{again}") from exc
    except (OSError, ValueError) as exc:
        raise BundleError(f"bundle {path.parent}: {MANIFEST} {_said(exc)}{again}") from exc
    if len(data) > MAX_MANIFEST:
        raise BundleError(f"bundle {path.parent}: {MANIFEST} is larger than {MAX_MANIFEST} bytes{again}")
    return data


def _said(exc: Exception) -> str:
    """What is wrong with a file, after its name."""
    if isinstance(exc, BundleError):
        return str(exc)
    if isinstance(exc, FileNotFoundError):
        return "is missing"
    if isinstance(exc, OSError) and exc.errno in (errno.ELOOP, errno.EINVAL):
        return "is not a regular file"
    return f"cannot be read: {getattr(exc, 'strerror', None) or exc}"


def _left_beside(folder: Path) -> str:
    left = (beside_of(folder), replaced_of(folder))
    whole = [str(path) for path in left if (path / MANIFEST).is_file()]
    if not whole:
        return _advice(None)
    return f"; a write was cut short, rename what it left beside it: {' or '.join(whole)}"


def _command_in(text: str) -> object:
    """The rebuild command of a manifest that this toolkit cannot read."""
    try:
        value = json.loads(text)
        recipe = value.get("recipe", value.get("command"))  # command: of older ones
        return from_plain(Recipe, recipe).command if isinstance(recipe, dict) else recipe
    except (AttributeError, ValueError, RecursionError, BundleError):
        return None


def _advice(command: object) -> str:
    # the command comes from the bundle: it is shown only when it cannot play tricks on the terminal
    if isinstance(command, str) and command and command.isprintable():
        return f"; build it again: {command}"
    return "; build it again with refinenet-edge build, or copy the whole folder again"
