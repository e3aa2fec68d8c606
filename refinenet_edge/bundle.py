"""Write and open bundles: the folder that goes from the machine that builds to the device.

    NAME/
      model.onnx      the typed graph: what the plan was built from, and what runs where there is no GPU
      model.plan      the builder's bytes, untouched (only when an engine was built)
      manifest.json   records.Manifest; `files` holds the size and SHA-256 of every other file

A bundle is complete or it is not there. `write_bundle` fills `.NAME.<token>.new` beside NAME, syncs it to the disk and
renames it. When it replaces a bundle it first renames the old one to `.NAME.<token>.old`, which it removes at the end.
So after a kill or a power cut

* up to the first rename NAME is the old bundle, or is missing if there was none;
* between the two renames NAME is missing, and both whole bundles lie beside it, as `.old` and `.new`;
* from then on NAME is the new bundle.

What a kill leaves beside NAME stays there: nothing sweeps it. `open_bundle` names it when NAME is missing.

The digests find damage, not malice: a plan is code for the GPU, so take bundles only from those you trust.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import logging
import os
import re
import secrets
import shutil
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from refinenet_edge.errors import BuildError, BundleError
from refinenet_edge.records import FileDigest, Identity, Manifest, Recipe, from_json, from_plain, to_json

MODEL = "model.onnx"
PLAN = "model.plan"
MANIFEST = "manifest.json"
MAX_MANIFEST = 4 * 1024 * 1024  # bytes
CHUNK = 1024 * 1024  # bytes hashed at a time

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Bundle:
    """A bundle whose files were all there and whole when it was opened."""

    path: Path
    manifest: Manifest
    digest: str  # SHA-256 of the manifest, which holds the digests of the other files

    @property
    def identity(self) -> Identity:
        """Which bundle this is, for what is measured or made with it."""
        m = self.manifest
        return Identity(m.model, m.checkpoint, m.precision, m.backend, self.digest)

    def path_of(self, name: str) -> Path:
        """The path of file `name`. Raises `BundleError` if the manifest does not list it."""
        if name not in self.manifest.files:
            raise BundleError(f"bundle {self.path} has no {name}{self.advice}")
        return self.path / name

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
    beside = folder.parent / f".{folder.name}.{secrets.token_hex(4)}.new"
    try:
        require_replaceable(folder)
        folder.parent.mkdir(parents=True, exist_ok=True)
        beside.mkdir()
        for name, data in {**files, MANIFEST: text}.items():
            _write_synced(beside / name, data)
        _sync_folder(beside)
        _swap_in(beside, folder)
    except OSError as exc:
        raise BuildError(f"bundle {folder} cannot be written: {exc}; free the space or name another folder") from exc
    finally:
        shutil.rmtree(beside, ignore_errors=True)  # already renamed when all went well
    return manifest


def open_bundle(folder: str | Path) -> Bundle:
    """The bundle at `folder`, its manifest read and every file's size and SHA-256 compared with it.

    Files that the manifest does not list are ignored. Raises `BundleError` saying what is wrong, where, and the command
    that builds the bundle again.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise BundleError(f"no bundle at {folder}{_left_beside(folder)}")
    text = _read_manifest(folder / MANIFEST)
    try:
        manifest = from_json(Manifest, text)
    except BundleError as exc:
        raise BundleError(f"bundle {folder}: {MANIFEST}: {exc}{_advice(_command_in(text))}") from exc
    for name, digest in manifest.files.items():
        problem = _damage(folder / name, digest)
        if problem:
            raise BundleError(f"bundle {folder}: {name} {problem}{_advice(manifest.command)}")
    return Bundle(folder, manifest, hashlib.sha256(text.encode()).hexdigest())


def require_replaceable(folder: Path) -> None:
    """Raise `BuildError` unless a bundle may be written at `folder`: nothing is there, or a bundle."""
    if folder.is_symlink() or (folder.exists() and not (folder / MANIFEST).is_file()):
        raise BuildError(
            f"{folder} is not a bundle (a link, or no {MANIFEST}) and is not replaced: name another folder"
        )


def _write_synced(path: Path, data: bytes) -> None:
    with path.open("xb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())


def _sync_folder(folder: Path) -> None:
    if os.name == "nt":  # Windows cannot open a folder to sync it
        return
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _swap_in(new: Path, folder: Path) -> None:
    if not folder.exists():
        os.rename(new, folder)
        _sync_folder(folder.parent)
        return
    old = new.with_suffix(".old")
    os.rename(folder, old)
    try:
        os.rename(new, folder)
    except BaseException:
        os.rename(old, folder)
        raise
    _sync_folder(folder.parent)  # the new name is on the disk before the old bytes go
    try:
        shutil.rmtree(old)
    except OSError as exc:
        logger.warning("the replaced bundle could not be removed, remove %s by hand: %s", old, exc)


def _read_manifest(path: Path) -> str:
    again = _advice(None)
    try:
        if not stat.S_ISREG(path.lstat().st_mode):
            raise BundleError(f"bundle {path.parent}: {MANIFEST} is not a regular file{again}")
        with path.open("rb") as file:
            data = file.read(MAX_MANIFEST + 1)
        if len(data) > MAX_MANIFEST:
            raise BundleError(f"bundle {path.parent}: {MANIFEST} is larger than {MAX_MANIFEST} bytes{again}")
        return data.decode()
    except FileNotFoundError as exc:
        raise BundleError(f"{path.parent} is not a bundle: it has no {MANIFEST}{again}") from exc
    except (OSError, UnicodeDecodeError) as exc:
        raise BundleError(f"bundle {path.parent}: {MANIFEST} cannot be read: {exc}{again}") from exc


def _damage(path: Path, digest: FileDigest) -> str:
    """What is wrong with the file at `path`, "" if nothing is."""
    try:
        status = path.lstat()  # not stat(): a link could lead out of the bundle
        if not stat.S_ISREG(status.st_mode):
            return "is not a regular file"
        if status.st_size != digest.size:
            return f"has {status.st_size} bytes, {digest.size} were written"
        sha256 = hashlib.sha256()
        with path.open("rb") as file:
            while chunk := file.read(CHUNK):
                sha256.update(chunk)
    except FileNotFoundError:
        return "is missing"
    except OSError as exc:
        return f"cannot be read: {exc}"
    return "" if sha256.hexdigest() == digest.sha256 else "is damaged (its SHA-256 differs from the manifest's)"


def _left_beside(folder: Path) -> str:
    ours = re.compile(rf"\.{re.escape(folder.name)}\.[0-9a-f]{{8}}\.(old|new)")
    left = sorted(path for path in folder.parent.glob(".*") if ours.fullmatch(path.name))
    whole = [str(path) for path in left if (path / MANIFEST).is_file()]
    if not whole:
        return _advice(None)
    return f"; a write was cut short, rename what it left beside it: {' or '.join(whole)}"


def _command_in(text: str) -> object:
    """The rebuild command of a manifest that this toolkit cannot read."""
    try:
        value = json.loads(text)
        recipe = value.get("recipe", value.get("command"))  # command: of schema 1
        return from_plain(Recipe, recipe).command if isinstance(recipe, dict) else recipe
    except (AttributeError, ValueError, RecursionError, BundleError):
        return None


def _advice(command: object) -> str:
    # the command comes from the bundle: it is shown only when it cannot play tricks on the terminal
    if isinstance(command, str) and command and command.isprintable():
        return f"; build it again: {command}"
    return "; build it again with refinenet-edge build, or copy the whole folder again"
