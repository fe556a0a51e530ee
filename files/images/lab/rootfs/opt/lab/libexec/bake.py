"""Writes the archive that `bundle.py` reads. Run it as root at the end of an image's build.

What belongs into it is found out by running the session's programs once with `-X importtime`, which names
every module that they load. A program that does not come up fails the build.
"""

from __future__ import annotations

import _sre
import ast
import contextlib
import http.server
import importlib.machinery as machinery
import marshal
import os
import re
import re._compiler as compiler
import subprocess
import sys
import tempfile
import threading
import time
import urllib.error
import urllib.request
import warnings
from collections.abc import Callable
from importlib import metadata
from typing import Any

import bundle

HERE = os.path.dirname(os.path.abspath(__file__))
PORT = 18888
SERVER = os.path.join(os.path.dirname(HERE), "bin", "jupyterhub-singleuser")
BUNDLE = f"import sys; sys.path.insert(0, {HERE!r}); import bundle; bundle.install(); del sys.path[0]; "
KERNEL = "sys.argv = ['kernel', '-f', {file!r}]; from ipykernel import kernelapp; kernelapp.launch_new_instance()"
# What the server loads with the first kernel and terminal, and what users import first.
ALSO = "import jupyter_client.manager, jupyter_client.provisioning, terminado, numpy, pandas, pandas.plotting"


class Hub(http.server.BaseHTTPRequestHandler):
    """The server asks its hub for the version before it listens."""

    def do_GET(self) -> None:
        self.send_response(200)
        self.send_header("X-JupyterHub-Version", metadata.version("jupyterhub"))
        self.end_headers()
        self.wfile.write(b"{}")

    do_POST = do_GET

    def log_message(self, *_: object) -> None:
        return


def modules(log: str) -> list[str]:
    """Return the names in the output of `-X importtime`, in the order of their completion."""
    return re.findall(r"^import time:\s+\d+ \|\s+\d+ \|\s+(\S+)$", log, re.MULTILINE)


def answers(url: str) -> bool:
    """Return whether a server answers at all; a refusal is an answer."""
    try:
        urllib.request.urlopen(url, timeout=5).close()
    except urllib.error.HTTPError as error:
        error.close()
    except OSError:
        return False
    return True


def run(arguments: list[str], environment: dict[str, str], home: str, ready: Callable[[], bool] | None = None) -> list[str]:
    """Run a program until it is ready (without a test: until it ends) and return the modules that it loaded."""
    with tempfile.TemporaryFile("w+") as log:
        base = {"PATH": os.environ["PATH"], "HOME": home, "METALHUB_BAKE": os.path.join(home, "patterns")}
        process = subprocess.Popen(
            [sys.executable, "-sP", "-X", "importtime", *arguments],
            env=base | environment,
            cwd=home,
            stdout=log,
            stderr=log,
            user=1000,
            group=1000,
            extra_groups=[],
        )
        deadline = time.monotonic() + 60
        try:
            while time.monotonic() < deadline:
                if process.poll() is not None or (ready and ready()):
                    break
                time.sleep(0.1)
            time.sleep(1 if ready else 0)
            good = process.poll() is None if ready else process.poll() == 0
        finally:
            process.kill()
            process.wait()
        log.seek(0)
        output = log.read()
    if not good:
        sys.exit(f"bake: {arguments[0]} did not come up:\n{output[-4000:]}")
    return modules(output)


def collect(home: str) -> list[str]:
    """Return what the server, a kernel and a first `import pandas` load."""
    listener = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    threading.Thread(target=listener.serve_forever, daemon=True).start()
    hub = {
        "JUPYTERHUB_API_TOKEN": "bake",
        "JUPYTERHUB_API_URL": f"http://127.0.0.1:{listener.server_port}/hub/api",
        "JUPYTERHUB_BASE_URL": "/",
        "JUPYTERHUB_CLIENT_ID": "bake",
        "JUPYTERHUB_OAUTH_ACCESS_SCOPES": '["access:servers"]',
        "JUPYTERHUB_OAUTH_CALLBACK_URL": "/user/bake/oauth_callback",
        "JUPYTERHUB_SERVER_NAME": "",
        "JUPYTERHUB_SERVICE_PREFIX": "/user/bake/",
        "JUPYTERHUB_SERVICE_URL": f"http://127.0.0.1:{PORT}/user/bake/",
        "JUPYTERHUB_USER": "bake",
    }
    runtime = {"JUPYTER_RUNTIME_DIR": os.path.join(home, "runtime")}
    connection = os.path.join(home, "kernel.json")
    return list(
        dict.fromkeys(
            [
                *run([SERVER], hub | runtime, home, lambda: answers(f"http://127.0.0.1:{PORT}/user/bake/lab")),
                *run(["-c", BUNDLE + KERNEL.format(file=connection)], runtime, home, lambda: os.path.exists(connection)),
                *run(["-c", BUNDLE + ALSO], {}, home),
            ]
        )
    )


def find(name: str, seen: dict[str, machinery.ModuleSpec | None]) -> machinery.ModuleSpec | None:
    """Return the spec of a module by its name alone; nothing is imported."""
    if name not in seen:
        parent, _, _ = name.rpartition(".")
        path = None
        if parent:
            above = find(parent, seen)
            path = above.submodule_search_locations if above else []
        seen[name] = machinery.PathFinder.find_spec(name, path) if path is None or path else None
    return seen[name]


def compiled(recorded: str) -> bundle.Patterns:
    """Return what `re` makes of the patterns in the record; those that depend on the locale are left out."""
    made: bundle.Patterns = {}
    taken: list[tuple[Any, ...]] = []

    class Compiler:
        def __getattr__(self, name: str) -> Any:
            return getattr(_sre, name)

        def compile(self, *arguments: Any) -> Any:
            taken.append(arguments)
            return _sre.compile(*arguments)

    compiler._sre = Compiler()
    for line in dict.fromkeys(recorded.splitlines()):
        pattern, flags = ast.literal_eval(line)
        with warnings.catch_warnings(action="ignore"), contextlib.suppress(re.error):
            taken.clear()
            compiler.compile(pattern, flags)
            same, all_flags, code, *groups = taken[-1]
            if not all_flags & re.LOCALE:
                # marshal takes numbers, and no kinds of them.
                made[pattern, flags] = marshal.dumps((same, int(all_flags), [int(word) for word in code], *groups))
    compiler._sre = _sre
    return made


def main() -> None:
    with tempfile.TemporaryDirectory() as home:
        os.chown(home, 1000, 1000)
        names = collect(home)
        with open(os.path.join(home, "patterns"), encoding="utf-8") as stream:
            patterns = compiled(stream.read())
    sys.path.remove(HERE)
    index: bundle.Index = {}
    chunks: list[bytes] = []
    offset = 0
    seen: dict[str, machinery.ModuleSpec | None] = {}
    for name in names:
        spec = find(name, seen)
        if spec is None or spec.origin is None:
            continue
        is_package = bool(spec.submodule_search_locations)
        directory = os.path.dirname(spec.origin)
        root = os.path.dirname(directory) if is_package else directory
        if isinstance(spec.loader, machinery.SourceFileLoader):
            code = marshal.dumps(spec.loader.get_code(name))
            index[name] = (root, spec.origin, is_package, offset, len(code))
            chunks.append(code)
            offset += len(code)
        elif isinstance(spec.loader, machinery.ExtensionFileLoader):
            index[name] = (root, spec.origin, is_package, 0, 0)
    roots = [item for item in sys.path if item.endswith("site-packages") and os.path.isdir(item)]
    header = marshal.dumps((bundle.stamp(roots), index, patterns))
    with open(bundle.ARCHIVE, "wb") as stream:
        stream.write(bundle.MAGIC + len(header).to_bytes(8, "little") + header)
        stream.writelines(chunks)
    print(f"bake: {len(index)} modules, {len(patterns)} patterns, {(offset + len(header)) / 2**20:.1f} MiB")


if __name__ == "__main__":
    main()
