"""Certificates for tests of real TLS."""

from __future__ import annotations

import subprocess
from collections.abc import Iterable, Mapping
from pathlib import Path

_KEY = ("-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes")


def _openssl(*argv: str, cwd: Path) -> None:
    subprocess.run(["openssl", *argv], cwd=cwd, check=True, capture_output=True)


def make_authority(directory: Path, name: str, subjects: Mapping[str, str], addresses: Iterable[str]) -> None:
    """An authority, `name`.crt, and certificates that it signed, each with its key: file to common name, good for the addresses."""
    _openssl("req", "-x509", *_KEY, "-keyout", f"{name}.key", "-out", f"{name}.crt", "-subj", f"/CN={name}", cwd=directory)
    (directory / "ext").write_text(f"subjectAltName={','.join(f'IP:{address}' for address in addresses)}\n", encoding="ascii")
    for file, subject in subjects.items():
        _openssl("req", *_KEY, "-keyout", f"{file}.key", "-out", f"{file}.csr", "-subj", f"/CN={subject}", cwd=directory)
        signer = ["-CA", f"{name}.crt", "-CAkey", f"{name}.key", "-CAcreateserial", "-extfile", "ext"]
        _openssl("x509", "-req", "-in", f"{file}.csr", *signer, "-out", f"{file}.crt", cwd=directory)
