"""Write the playbook that asks for the same state by Ansible's stock modules.

It is made from a recorded run of ours and from what lies on the converged hosts, so it can be made again for any site.
Where there is a choice it is made in the opponent's favour: templates come with their text already rendered, there is no
fact gathering, no argument check, no assertion, no handler, and no removal of files that are no longer wanted.
"""

from __future__ import annotations

import dataclasses
import io
import json
import os
import shlex
import tarfile
import typing as t
from collections.abc import Callable
from pathlib import Path

import yaml

OURS = "metalhub.platform."
# These never leave the controller: the opponent is spared them.
CONTROLLER_ONLY = {
    f"ansible.builtin.{name}"
    for name in (
        "add_host", "assert", "debug", "fail", "group_by", "import_role", "import_tasks", "include_role", "include_tasks", "include_vars",
        "meta", "set_fact", "set_stats", "validate_argument_spec",
    )
}  # fmt: skip

Record = dict[str, t.Any]
# Runs a shell command on a host and returns its standard output.
Remote = Callable[[str, str], bytes]


@dataclasses.dataclass
class File:
    """A file of ours as it lies on a host."""

    owner: str
    group: str
    mode: int
    content: bytes


def read_records(path: Path) -> list[Record]:
    """Read what the `record` callback wrote."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def fetch_trees(host: str, remote: Remote) -> dict[str, dict[str, File]]:
    """Map the name of each tree on a host to its files. Bytes, owners and modes are the host's own."""
    raw = remote(host, 'cd /var/lib/metalhub/tree 2>/dev/null || exit 0; for f in *.json; do echo "$f"; tr -d \'\\n\' <"$f"; echo; done')
    lines = raw.decode().splitlines()
    trees = {name.removesuffix(".json"): json.loads(text)["paths"] for name, text in zip(lines[::2], lines[1::2], strict=True)}
    paths = sorted({path for tree in trees.values() for path in tree})
    if not paths:
        return {}
    files: dict[str, File] = {}
    archive = remote(host, f"tar -cPh -- {' '.join(map(shlex.quote, paths))}")
    with tarfile.open(fileobj=io.BytesIO(archive)) as tar:
        for member in tar:
            stream = tar.extractfile(member)
            content = stream.read() if stream else b""
            files["/" + member.name.lstrip("/")] = File(
                member.uname or str(member.uid), member.gname or str(member.gid), member.mode, content
            )
    return {name: {path: files[path] for path in tree} for name, tree in trees.items()}


def write_opponent(records: list[Record], remote: Remote, directory: Path) -> tuple[Path, dict[str, int]]:
    """Write opponent.yml and its files below `directory`. Returns its path and how many tasks there are of each module."""
    trees: dict[str, dict[str, dict[str, File]]] = {}
    known_units: dict[tuple[str, str], bool] = {}
    plays: list[dict[str, t.Any]] = []
    counts: dict[str, int] = {}

    def emit(hosts: list[str], module: str, args: dict[str, t.Any], name: str, delegate: str | None, **more: t.Any) -> None:
        task: dict[str, t.Any] = {"name": name, module: args, **more}
        if delegate:
            task["delegate_to"] = delegate
        counts[module] = counts.get(module, 0) + 1
        if not plays or plays[-1]["hosts"] != hosts:
            plays.append({"name": "The same by stock modules", "hosts": hosts, "gather_facts": False, "tasks": []})
        plays[-1]["tasks"].append(task)

    def has_unit(host: str, unit: str) -> bool:
        key = (host, unit)
        if key not in known_units:
            known_units[key] = remote(host, f"systemctl show -p LoadState --value -- {shlex.quote(unit)}").strip() != b"not-found"
        return known_units[key]

    for group in _by_task([r for r in records if r["state"] == "ok" and r["action"] not in CONTROLLER_ONLY]):
        for hosts, delegate, record in group:
            if record["looped"]:
                counts["(left out: looped)"] = counts.get("(left out: looped)", 0) + 1
                continue
            where = [delegate] if delegate else hosts
            args, name = record["args"], record["name"]
            if record["action"] == OURS + "tree":
                tree = args.get("name") or record["role"]
                for host in where:
                    if host not in trees:
                        trees[host] = fetch_trees(host, remote)
                for item in args.get("directories", []):
                    if item.get("when", True):
                        emit(hosts, "ansible.builtin.file", {
                            "path": item["path"], "state": "directory", "owner": item.get("owner", "root"),
                            "group": item.get("group", "root"), "mode": item.get("mode", "0755"),
                        }, f"{name}: {item['path']}", delegate)  # fmt: skip
                for path in sorted({path for host in where for path in trees[host].get(tree, {})}):
                    having = [host for host in where if path in trees[host].get(tree, {})]
                    for same in _same_attributes(having, lambda h, p=path, n=tree: trees[h][n][p]):
                        sample = trees[same[0]][tree][path]
                        rendered = _is_template(path, record)
                        for host in same:
                            _store(directory / "files" / host, path, trees[host][tree][path].content, rendered)
                        source = f"files/{same[0]}{path}" if delegate else "files/{{ inventory_hostname }}" + path
                        emit(hosts if delegate else same, f"ansible.builtin.{'template' if rendered else 'copy'}", {
                            "src": f"{directory}/{source}", "dest": path, "owner": sample.owner, "group": sample.group,
                            "mode": f"{sample.mode:04o}",
                        }, f"{name}: {path}", delegate)  # fmt: skip
            elif record["action"] == OURS + "packages":
                if args.get("name"):
                    emit(hosts, "ansible.builtin.apt", {"name": args["name"], "state": "present"}, name, delegate)
            elif record["action"] == OURS + "units":
                for unit in args.get("enabled", []):
                    emit(
                        hosts,
                        "ansible.builtin.systemd_service",
                        {"name": unit, "enabled": True, "state": "started"},
                        f"{name}: {unit}",
                        delegate,
                    )
                for unit in args.get("stopped", []):
                    having = [host for host in where if has_unit(host, unit)]
                    if having:
                        emit(hosts if delegate else having, "ansible.builtin.systemd_service",
                             {"name": unit, "enabled": False, "state": "stopped"}, f"{name}: {unit}", delegate)  # fmt: skip
            elif record["action"] == OURS + "probe":
                emit(hosts, "ansible.builtin.shell", {"cmd": "{% raw %}" + args["script"] + "{% endraw %}"}, name, delegate,
                     changed_when=False, no_log=True)  # fmt: skip
            elif record["action"].startswith(OURS):
                continue  # preflight and the like have no counterpart
            elif not record["hidden"]:
                emit(hosts, record["action"], args, name, delegate, changed_when=False)
            else:
                counts["(left out: hidden)"] = counts.get("(left out: hidden)", 0) + 1
    path = directory / "opponent.yml"
    path.write_text(yaml.safe_dump(plays, sort_keys=False, width=140), encoding="utf-8")
    return path, counts


def _by_task(records: list[Record]) -> t.Iterator[list[tuple[list[str], str | None, Record]]]:
    """Yield, task by task in the order of the run, (hosts, delegated to, record); hosts that were asked the same come together."""
    tasks: dict[str, list[Record]] = {}
    for record in records:
        tasks.setdefault(record["task"], []).append(record)
    for group in tasks.values():
        merged: dict[str, tuple[list[str], str | None, Record]] = {}
        for record in group:
            # The text of files may differ from host to host and is read from the hosts: what matters here is the rest.
            asked = {k: v for k, v in record["args"].items() if k not in ("contents", "rules")}
            key = json.dumps([record["delegate_to"], asked], sort_keys=True)
            merged.setdefault(key, ([], record["delegate_to"], record))[0].append(record["host"])
        yield list(merged.values())


def _same_attributes(hosts: list[str], file: Callable[[str], File]) -> list[list[str]]:
    groups: dict[tuple[str, str, int], list[str]] = {}
    for host in hosts:
        found = file(host)
        groups.setdefault((found.owner, found.group, found.mode), []).append(host)
    return list(groups.values())


def _is_template(path: str, record: Record) -> bool:
    named = any(item.get("path") == path and "template" in item for item in record["args"].get("contents", []))
    root = record["args"].get("src") or record["role_path"]
    return named or bool(root and os.path.exists(f"{root}/templates{path}.j2"))


def _store(root: Path, path: str, content: bytes, rendered: bool) -> None:
    target = root / path.lstrip("/")
    target.parent.mkdir(parents=True, exist_ok=True)
    if rendered and any(mark in content for mark in (b"{{", b"{%", b"{#")):
        content = b"{% raw %}" + content + b"{% endraw %}"
    target.write_bytes(content)
    target.chmod(0o600)
