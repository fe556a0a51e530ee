"""The announcement in JupyterLab: its file is served as never changing, so another content needs another name."""

from __future__ import annotations

import hashlib
import json
from pathlib import Path

LAB = Path(__file__).parents[3] / "files/images/lab/rootfs/opt/lab/share/jupyter/labextensions/metalhub-session"


def test_the_file_is_named_by_its_content() -> None:
    (file,) = (LAB / "static").iterdir()
    assert file.name == f"remoteEntry.{hashlib.sha256(file.read_bytes()).hexdigest()[:12]}.js"
    assert json.loads((LAB / "package.json").read_text())["jupyterlab"]["_build"]["load"] == f"static/{file.name}"
