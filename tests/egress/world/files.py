"""What the allowed hosts serve: a package index, an apt repository, a git repository, files as conda downloads them."""

from __future__ import annotations

import hashlib
import io
import subprocess
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path("/run/egress-world/files")
PIECE = bytes(1 << 18)


@dataclass(frozen=True)
class Content:
    """A body: bytes, or so many zeros that are not kept anywhere."""

    data: bytes = b""
    size: int = -1

    def __post_init__(self) -> None:
        if self.size < 0:
            object.__setattr__(self, "size", len(self.data))

    def pieces(self) -> Iterator[bytes]:
        if self.data:
            yield self.data
            return
        left = self.size
        while left > 0:
            yield PIECE[: min(left, len(PIECE))]
            left -= len(PIECE)


def find(host: str, path: str) -> Content | None:
    """The file of a host; None where there is none."""
    place = (ROOT / host / path.lstrip("/")).resolve()
    if place.is_dir():
        place = place / "index.html"
    return Content(place.read_bytes()) if place.is_relative_to(ROOT) and place.is_file() else None


def _write(path: str, data: bytes) -> None:
    target = ROOT / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)


def _wheel() -> None:
    name = "egress_probe-1.0-py3-none-any.whl"
    info = "egress_probe-1.0.dist-info"
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as wheel:
        wheel.writestr("egress_probe.py", "WORDS = 'installed through the control'\n")
        wheel.writestr(f"{info}/METADATA", "Metadata-Version: 2.1\nName: egress-probe\nVersion: 1.0\n")
        wheel.writestr(f"{info}/WHEEL", "Wheel-Version: 1.0\nGenerator: tests\nRoot-Is-Purelib: true\nTag: py3-none-any\n")
        wheel.writestr(f"{info}/RECORD", "")
    digest = hashlib.sha256(buffer.getvalue()).hexdigest()
    _write(f"pip.pkg.example/files/{name}", buffer.getvalue())
    _write("pip.pkg.example/simple/egress-probe/index.html", f'<a href="/files/{name}#sha256={digest}">{name}</a>\n'.encode())


def _apt() -> None:
    work = ROOT.parent / "deb"
    (work / "DEBIAN").mkdir(parents=True, exist_ok=True)
    (work / "DEBIAN/control").write_text(
        "Package: egress-probe\nVersion: 1.0\nArchitecture: all\nMaintainer: t <t@t.example>\nDescription: a probe\n"
    )
    target = ROOT / "apt.pkg.example/debian/egress-probe_1.0_all.deb"
    target.parent.mkdir(parents=True, exist_ok=True)
    subprocess.run(["dpkg-deb", "--root-owner-group", "-b", str(work), str(target)], check=True, timeout=30, stdout=subprocess.DEVNULL)
    data = target.read_bytes()
    control = (work / "DEBIAN/control").read_text()
    packages = f"{control}Filename: ./{target.name}\nSize: {len(data)}\nSHA256: {hashlib.sha256(data).hexdigest()}\n".encode()
    _write("apt.pkg.example/debian/Packages", packages)
    release = f"Suite: probe\nArchitectures: all amd64\nSHA256:\n {hashlib.sha256(packages).hexdigest()} {len(packages)} Packages\n"
    _write("apt.pkg.example/debian/Release", release.encode())


def _git() -> None:
    target = ROOT / "git.pkg.example/probe.git"
    script = f"""set -e; rm -rf {target} {ROOT.parent}/work; git init -q -b main {ROOT.parent}/work; cd {ROOT.parent}/work
    echo cloned through the control > words; git add words; git -c user.name=t -c user.email=t@t.example commit -qm words
    git clone -q --bare . {target}; cd {target}; git update-server-info"""
    subprocess.run(["sh", "-c", script], check=True, timeout=30)


def make() -> None:
    """Write all of it."""
    ROOT.mkdir(parents=True, exist_ok=True)
    _wheel()
    _apt()
    _git()
    _write("conda.pkg.example/channel/noarch/repodata.json", b'{"info": {"subdir": "noarch"}, "packages": {}}\n')
