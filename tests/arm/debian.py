"""An ARM64 Debian in a folder, run in qemu's user mode: a Jetson's system without NVIDIA's part.

Its packages are this machine's Debian's for arm64, unpacked and not configured: that takes a minute instead of an hour.
Programs run below a chroot in namespaces of their own, where the kernel (6.7 or later) hands ARM64 to qemu: nothing of
this machine is changed, and nobody need be root.
"""

from __future__ import annotations

import shlex
import subprocess
from collections.abc import Iterable
from pathlib import Path

from device_environment import clean

HERE = Path(__file__).parents[2] / "build/arm"
ROOT = HERE / "root"
QEMU = "/usr/bin/qemu-aarch64-static"
NEEDS = "make arm needs `sudo apt-get install qemu-user-static`, Debian and Linux 6.7 or later"
# what a process that is not root may not do, or what asks for a lock or a user that is not there
OPTIONS = {
    "APT::Architecture": "arm64",
    "APT::Architectures": "arm64",
    "APT::Install-Recommends": "false",
    "APT::Sandbox::User": "",
    "Dir::State": HERE / "apt/state",
    "Dir::State::status": HERE / "apt/state/status",
    "Dir::Cache": HERE / "apt/cache",
}
# what their packages' scripts would have linked
ALTERNATIVES = {"libblas.so.3": "blas/libblas.so.3", "liblapack.so.3": "lapack/liblapack.so.3"}
# ELF, 64 bit, little endian, of machine 183: see Documentation/admin-guide/binfmt-misc.rst
MAGIC = r":arm64:M::\x7fELF\x02\x01\x01\x00\x00\x00\x00\x00\x00\x00\x00\x00\x02\x00\xb7\x00"
MASK = r":\xff\xff\xff\xff\xff\xff\xff\x00\xff\xff\xff\xff\xff\xff\xff\xff\xfe\xff\xff\xff"
ENTER = f"""
set -e
mount -t binfmt_misc none /proc/sys/fs/binfmt_misc
printf %s {shlex.quote(f"{MAGIC}{MASK}:{QEMU}:F")} > /proc/sys/fs/binfmt_misc/register
for shared in dev proc etc/ssl; do mkdir -p {ROOT}/$shared; mount --rbind /$shared {ROOT}/$shared; done
touch {ROOT}/etc/resolv.conf
mount --bind /etc/resolv.conf {ROOT}/etc/resolv.conf
exec chroot {ROOT} /bin/bash -c 'cd /work && exec /bin/bash "$@"' bash "$@"
"""


def install(packages: Iterable[str]) -> None:
    """Unpack Debian's `packages`, and what they need, into the folder; those that are there are left alone."""
    archives = HERE / "apt/cache/archives"
    for folder in (HERE / "apt/state/lists/partial", archives / "partial", ROOT / "work", ROOT / "tmp", ROOT / "root"):
        folder.mkdir(parents=True, exist_ok=True)
    (HERE / "apt/state/status").touch()
    for name in ("bin", "sbin", "lib"):
        (ROOT / "usr" / name).mkdir(parents=True, exist_ok=True)
        if not (ROOT / name).exists():
            (ROOT / name).symlink_to(f"usr/{name}")
    options = [word for name, value in OPTIONS.items() for word in ("-o", f"{name}={value}")]
    if not list((HERE / "apt/state/lists").glob("*Packages")):
        subprocess.run(["apt-get", *options, "-qq", "update"], check=True)
    subprocess.run(["apt-get", *options, "-qq", "-y", "--download-only", "install", *packages], check=True)
    unpack = 'dpkg-deb --fsys-tarfile "$0" | tar -x --keep-directory-symlink --no-same-owner -C "$1"'
    for archive in archives.glob("*.deb"):
        if not (done := HERE / "unpacked" / archive.name).exists():
            subprocess.run(["bash", "-o", "pipefail", "-c", unpack, archive, ROOT], check=True)
            done.parent.mkdir(exist_ok=True)
            done.touch()
    for name, target in ALTERNATIVES.items():
        link = ROOT / "usr/lib/aarch64-linux-gnu" / name
        if link.with_name(target.split("/")[0]).is_dir() and not link.exists():
            link.symlink_to(target)


def run(*words: str | Path) -> subprocess.CompletedProcess[str]:
    """`bash WORDS` in the folder's /work, on ARM64; what it says on both streams is in `stdout`."""
    env = {name: value for name, value in clean().items() if name.startswith("PIP_")}
    env |= {"PATH": "/usr/bin:/usr/sbin", "HOME": "/root", "PYTHONUTF8": "1", "COLUMNS": "300"}
    env |= {"PIP_FIND_LINKS": "/work/dist", "PIP_DISABLE_PIP_VERSION_CHECK": "1"}
    command = ["unshare", "--user", "--map-root-user", "--mount", "--fork", "/bin/bash", "-c", ENTER, "bash", *words]
    return subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, env=env)


def missing() -> str:
    """Why nothing runs here, "" when it does."""
    said = run("-c", "uname -m").stdout.strip()
    return "" if said.endswith("aarch64") else f"{NEEDS}: {said}"
