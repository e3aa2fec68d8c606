"""A Debian in a folder: this machine's release, of its own architecture or, in qemu's user mode, of ARM64.

Its packages are unpacked and not configured: that takes a minute instead of an hour. Programs run below a chroot in
namespaces of their own, where the kernel (6.7 or later) hands ARM64 to qemu: nothing of this machine is changed, and
nobody need be root.
"""

from __future__ import annotations

import platform
import shlex
import subprocess
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

from device_environment import clean

BUILD = Path(__file__).parents[1] / "build"
QEMU = "/usr/bin/qemu-aarch64-static"
NEEDS = "it needs `sudo apt-get install qemu-user-static`, Debian and Linux 6.7 or later"
MACHINES = {"amd64": "x86_64", "arm64": "aarch64"}
# what their packages' scripts would have linked
ALTERNATIVES = {"libblas.so.3": "blas/libblas.so.3", "liblapack.so.3": "lapack/liblapack.so.3"}
# ELF, 64 bit, little endian, of machine 183: see Documentation/admin-guide/binfmt-misc.rst
MAGIC = r":arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
TO_QEMU = f"""
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s {shlex.quote(f"{MAGIC}{MASK}:{QEMU}:F")} > /proc/sys/fs/binfmt_misc/register
"""
ENTER = """
for shared in dev proc etc/ssl {shared}; do mkdir -p {root}/$shared; mount --rbind /$shared {root}/$shared; done
touch {root}/etc/resolv.conf
mount --bind /etc/resolv.conf {root}/etc/resolv.conf
exec chroot {root} /bin/bash -c 'cd /work && exec /bin/bash "$@"' bash "$@"
"""


@dataclass(frozen=True)
class Debian:
    """The Debian of `architecture` ("amd64" or "arm64") in `folder`; /work is for what it is to work on."""

    folder: Path
    architecture: str

    @property
    def root(self) -> Path:
        return self.folder / "root"

    @property
    def work(self) -> Path:
        return self.root / "work"

    def _options(self) -> Iterator[str]:
        """Of apt-get: not what only root may do, or what asks for a lock or a user that is not there."""
        options = {
            "APT::Architecture": self.architecture,
            "APT::Architectures": self.architecture,
            "APT::Install-Recommends": "false",
            "APT::Sandbox::User": "",
            "Dir::State": self.folder / "apt/state",
            "Dir::State::status": self.folder / "apt/state/status",
            "Dir::Cache": self.folder / "apt/cache",
        }
        for name, value in options.items():
            yield from ("-o", f"{name}={value}")

    def install(self, packages: Iterable[str]) -> None:
        """Unpack Debian's `packages`, and what they need; those that are there are left alone."""
        state, archives = self.folder / "apt/state", self.folder / "apt/cache/archives"
        for made in (state / "lists/partial", archives / "partial", self.work, self.root / "tmp", self.root / "root"):
            made.mkdir(parents=True, exist_ok=True)
        (state / "status").touch()
        for name in ("bin", "sbin", "lib", *(["lib64"] if self.architecture == "amd64" else [])):
            (self.root / "usr" / name).mkdir(parents=True, exist_ok=True)
            if not (self.root / name).exists():
                (self.root / name).symlink_to(f"usr/{name}")
        apt = ["apt-get", *self._options(), "-qq"]
        if not list((state / "lists").glob("*Packages")):
            subprocess.run([*apt, "update"], check=True)
        subprocess.run([*apt, "-y", "--download-only", "install", *packages], check=True)
        unpack = 'dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --no-same-owner -C "$1"'
        for archive in archives.glob("*.deb"):
            if not (done := self.folder / "unpacked" / archive.name).exists():
                subprocess.run(["bash", "-o", "pipefail", "-c", unpack, archive, self.root], check=True)
                done.parent.mkdir(exist_ok=True)
                done.touch()
        if not (shell := self.root / "usr/bin/sh").exists():
            shell.symlink_to("bash")
        for name, target in ALTERNATIVES.items():
            link = self.root / "usr/lib" / f"{MACHINES[self.architecture]}-linux-gnu" / name
            if link.with_name(target.split("/")[0]).is_dir() and not link.exists():
                link.symlink_to(target)

    def run(self, *words: str | Path, **variables: str) -> subprocess.CompletedProcess[str]:
        """`bash WORDS` in /work; what it says on both streams is in `stdout`. `variables` are of its environment."""
        env = {name: value for name, value in clean().items() if name.startswith("PIP_")}
        settings = [word for value in env.values() for word in value.split()]
        env |= {"PATH": "/usr/bin:/usr/sbin", "HOME": "/root", "PYTHONUTF8": "1", "COLUMNS": "300"}
        env |= {"PIP_DISABLE_PIP_VERSION_CHECK": "1", **variables}
        # where pip takes its wheels from
        places = " ".join(shlex.quote(word.strip("/")) for word in settings if Path(word).is_dir())
        foreign = MACHINES[self.architecture] != platform.machine()
        enter = "set -e\n" + (TO_QEMU if foreign else "") + ENTER.format(root=self.root, shared=places)
        command = [
            "unshare",
            "--user",
            "--map-root-user",
            "--mount",
            "--fork",
            "/bin/bash",
            "-c",
            enter,
            "bash",
            *words,
        ]
        return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)

    def missing(self) -> str:
        """Why nothing runs here, "" when it does."""
        said = self.run("-c", "uname -m").stdout.strip()
        return "" if said.endswith(MACHINES[self.architecture]) else f"{NEEDS}: {said}"
