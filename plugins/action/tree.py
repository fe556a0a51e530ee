"""Install a role's file tree: see plugins/modules/tree.py for the documentation."""

from __future__ import annotations

import base64
import dataclasses
import fnmatch
import hashlib
import json
import os
import re
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleError
from ansible.plugins.action import ActionBase
from ansible.template import trust_as_template
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import quote_all, run_script

# What sha256sum and stat print for other names would need unescaping.
_PATH = re.compile(r"^/[A-Za-z0-9_./@:+,=\\-]+$")
_NAME = re.compile(r"^[a-z0-9_-]+$")
_SKIPPED = ("__pycache__", ".mypy_cache", ".pytest_cache", ".ruff_cache")

_CHECK = """
cat {manifest} 2>/dev/null || echo '{{}}'
echo
echo '--'
stat -c '%f %U %G %n' -- {paths} 2>/dev/null
echo '--'
sha256sum -- {files} 2>/dev/null
exit 0
"""


@dataclasses.dataclass
class Entry:
    """One file or directory as it is to be on the host."""

    path: str
    owner: str = "root"
    group: str = "root"
    mode: int = 0o644
    content: bytes | None = None  # None: a directory
    validate: str | None = None
    sensitive: bool = False

    @property
    def digest(self) -> str:
        return hashlib.sha256(self.content or b"").hexdigest()


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        task_vars = task_vars or {}
        _, args = self.validate_argument_spec(
            argument_spec={
                "name": {"type": "str"},
                "src": {"type": "path"},
                "trees": {"type": "list", "elements": "dict", "default": []},
                "rules": {"type": "list", "elements": "dict", "default": []},
                "contents": {"type": "list", "elements": "dict", "default": []},
                "directories": {"type": "list", "elements": "dict", "default": []},
            }
        )
        role = self._task._role
        name = args["name"] or (role.get_name(include_role_fqcn=False) if role else None)
        root = args["src"] or (role._role_path if role else None)
        if not name or not _NAME.match(name):
            raise AnsibleActionFail(f"tree: `name` must be lower-case letters, digits, '-' and '_', not {name!r}")
        # The operator's variables may reach any role: only what the templates ask for is rendered.
        self._searchpath = [os.path.join(root, "templates"), os.path.join(root, "templates", "_"), root] if root else []

        rules = [_check_keys(rule, {"path"}, {"owner", "group", "mode", "validate", "sensitive", "when"}) for rule in args["rules"]]
        entries: dict[str, Entry] = {}

        def add(entry: Entry, given: dict[str, t.Any]) -> None:
            if not _PATH.match(entry.path) or "/../" in entry.path:
                raise AnsibleActionFail(f"tree: {entry.path!r} is not an absolute path of plain characters")
            if entry.path in entries:
                raise AnsibleActionFail(f"tree: {entry.path} is given twice")
            _apply(entry, given)
            entries[entry.path] = entry

        for directory, dest, rendered in self._directories(root, args["trees"]):
            for source, relative in _walk(directory):
                target = os.path.join(dest, relative)
                if rendered and target.endswith(".j2"):
                    target = target[: -len(".j2")]
                rule = next((r for r in rules if fnmatch.fnmatchcase(target, r["path"])), {})
                if not rule.get("when", True):
                    continue
                content = self._render_file(source, task_vars, {}) if rendered else _read(source)
                add(Entry(path=target, content=content, mode=0o755 if os.access(source, os.X_OK) else 0o644), rule)
        for item in args["contents"]:
            _check_keys(item, {"path"}, {"content", "template", "vars", "owner", "group", "mode", "validate", "sensitive", "when"})
            if not item.get("when", True):
                continue
            if ("content" in item) == ("template" in item):
                raise AnsibleActionFail(f"tree: {item['path']} needs either `content` or `template`")
            if "content" in item:
                text = item["content"]
                content = text.encode() if isinstance(text, str) else json.dumps(text, indent=2, sort_keys=True).encode() + b"\n"
            else:
                content = self._render_file(self._find_template(item["template"]), task_vars, item.get("vars", {}))
            rule = next((r for r in rules if fnmatch.fnmatchcase(item["path"], r["path"])), {})
            add(Entry(path=item["path"], content=content), {**rule, **item})
        for item in args["directories"]:
            _check_keys(item, {"path"}, {"owner", "group", "mode", "when"})
            if item.get("when", True):
                add(Entry(path=item["path"], mode=0o755), item)

        return self._converge(name, entries, task_vars)

    def _converge(self, name: str, entries: dict[str, Entry], task_vars: dict[str, t.Any]) -> dict[str, t.Any]:
        """Compare with the host in one round trip; hand what differs, and only that, to the module."""
        manifest = f"/var/lib/metalhub/tree/{name}.json"
        ours = sorted(path for path, entry in entries.items() if entry.content is not None)
        check = _CHECK.format(manifest=manifest, paths=quote_all(entries) or "/", files=quote_all(ours) or "/dev/null")
        output = run_script(self, check, what=f"the look at the files of {name}").replace("\r\n", "\n")
        raw_manifest, raw_stat, raw_sums = output.split("--\n")
        owned = set(json.loads(raw_manifest).get("paths", []))
        attributes: dict[str, tuple[int, str, str]] = {}
        for line in raw_stat.splitlines():
            mode, owner, group, path = line.split(" ", 3)
            attributes[path] = (int(mode, 16), owner, group)
        digests = {path: digest for digest, _, path in (line.partition("  ") for line in raw_sums.splitlines())}

        different = [entry for entry in entries.values() if not _same(entry, attributes.get(entry.path), digests.get(entry.path))]
        obsolete = sorted(owned - set(ours))
        if not different and owned == set(ours):
            return {"changed": False, "paths": []}
        module_args = {
            "name": name,
            "files": [
                {
                    "path": entry.path,
                    "owner": entry.owner,
                    "group": entry.group,
                    "mode": f"{entry.mode:04o}",
                    "content": base64.b64encode(entry.content).decode(),
                    "validate": entry.validate,
                    "sensitive": entry.sensitive,
                    "backup": entry.path not in owned,
                }
                for entry in different
                if entry.content is not None
            ],
            "directories": [
                {"path": entry.path, "owner": entry.owner, "group": entry.group, "mode": f"{entry.mode:04o}"}
                for entry in different
                if entry.content is None
            ],
            "owned": ours,
            "remove": obsolete,
        }
        return self._execute_module(module_name="metalhub.platform.tree", module_args=module_args, task_vars=task_vars)

    def _directories(self, root: str | None, trees: list[dict[str, t.Any]]) -> t.Iterator[tuple[str, str, bool]]:
        """Yield (directory on the controller, where it goes, whether it is templates)."""
        if root:
            for sub, rendered in (("files", False), ("templates", True)):
                if os.path.isdir(os.path.join(root, sub)):
                    yield os.path.join(root, sub), "/", rendered
        for tree in trees:
            _check_keys(tree, {"src", "dest"}, set())
            if not os.path.isdir(tree["src"]):
                raise AnsibleActionFail(f"tree: the controller has no directory {tree['src']}")
            yield os.path.realpath(tree["src"]), tree["dest"], False

    def _find_template(self, template: str) -> str:
        for directory in self._searchpath:
            path = os.path.join(directory, template)
            if os.path.isfile(path):
                return path
        raise AnsibleActionFail(f"tree: no template {template} in {', '.join(self._searchpath)}")

    def _render_file(self, source: str, task_vars: dict[str, t.Any], extra: dict[str, t.Any]) -> bytes:
        variables = {**task_vars, **extra} if extra else task_vars
        templar = self._templar.copy_with_new_env(searchpath=self._searchpath, available_variables=variables)
        try:
            text = templar.template(
                trust_as_template(self._loader.get_text_file_contents(source)),
                escape_backslashes=False,
                overrides={"trim_blocks": True},
            )
        except AnsibleError as error:
            raise AnsibleActionFail(f"tree: {source} does not render: {error}") from error
        return str(text if text is not None else "").encode()


def _read(source: str) -> bytes:
    with open(source, "rb") as stream:
        return stream.read()


def _walk(directory: str) -> t.Iterator[tuple[str, str]]:
    """Yield (source, path relative to `directory`) of every file, links followed, in a stable order."""
    for current, subdirs, names in os.walk(directory, followlinks=True):
        subdirs[:] = sorted(d for d in subdirs if d not in _SKIPPED and not (d == "_" and current == directory))
        for name in sorted(names):
            if name not in (".gitkeep",) and not name.endswith(".pyc"):
                source = os.path.join(current, name)
                yield source, os.path.relpath(source, directory)


def _check_keys(item: dict[str, t.Any], required: set[str], optional: set[str]) -> dict[str, t.Any]:
    missing, unknown = required - set(item), set(item) - required - optional
    if missing or unknown:
        raise AnsibleActionFail(f"tree: {item.get('path', item)}: missing {sorted(missing)}, unknown {sorted(unknown)}")
    return item


def _apply(entry: Entry, given: dict[str, t.Any]) -> None:
    entry.owner = str(given.get("owner", entry.owner))
    entry.group = str(given.get("group", entry.group))
    entry.validate = given.get("validate")
    entry.sensitive = bool(given.get("sensitive", False))
    if "mode" in given:
        mode = given["mode"]
        # An unquoted 0640 in YAML is the number 416: only text is unambiguous.
        if not isinstance(mode, str) or not re.fullmatch(r"0?[0-7]{3,4}", mode):
            raise AnsibleActionFail(f"tree: {entry.path}: `mode` must be quoted octal text such as \"0640\", not {mode!r}")
        entry.mode = int(mode, 8)
    if entry.validate is not None and "%s" not in entry.validate:
        raise AnsibleActionFail(f"tree: {entry.path}: `validate` must have a %s where the new file's path goes")


def _same(entry: Entry, attributes: tuple[int, str, str] | None, digest: str | None) -> bool:
    if attributes is None:
        return False
    mode, owner, group = attributes
    kind = 0o040000 if entry.content is None else 0o100000
    if (mode & 0o170000, mode & 0o7777, owner, group) != (kind, entry.mode, entry.owner, entry.group):
        return False
    return entry.content is None or digest == entry.digest
