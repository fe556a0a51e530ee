#!/usr/bin/python
"""The half of `metalhub.platform.tree` that runs on the host, and its documentation."""

DOCUMENTATION = r"""
module: tree
short_description: Install a tree of files, comparing it in one round trip
version_added: 0.1.0
description:
  - A role's C(templates/) and C(files/) mirror the target's file system. The tree is rendered on the controller, compared with
    the host by digest in one shell round trip, and only what differs is sent.
  - The role owns what it installed. What it no longer ships is removed, so a file that a condition turned off goes away.
  - All new files are validated before the first is moved into place, each by a rename.
  - Where a file that Metalhub had not put there would be replaced, the old one is kept under C(/var/lib/metalhub/tree/backup).
  - Directories are made and never removed.
options:
  name:
    description: Under which name the host remembers the tree. The role's name where it is not given.
    type: str
  src:
    description: A directory with C(templates/) and C(files/). The role's own where it is not given.
    type: path
  trees:
    description: Further directories of plain files, each a dict of C(src) on the controller and C(dest) on the host.
    type: list
    elements: dict
    default: []
  rules:
    description:
      - Attributes by C(path), an fnmatch pattern on the path on the host, of which the first that matches counts. C(owner), C(group),
        C(mode) (quoted octal), C(validate) (a command with C(%s)), C(sensitive) (never shown in a diff), C(when).
    type: list
    elements: dict
    default: []
  contents:
    description:
      - Files known only at run time, each a dict with C(path), either C(content) or C(template) with C(vars), and the attributes of a rule.
      - A C(content) that is no text is written as JSON. Templates that are only named here lie in C(templates/_/).
    type: list
    elements: dict
    default: []
  directories:
    description: Directories to make, each a dict with C(path), C(owner), C(group), C(mode), C(when).
    type: list
    elements: dict
    default: []
attributes:
  check_mode:
    description: Says what would change.
    support: full
  diff_mode:
    description: Shows the difference of every file that is not sensitive.
    support: full
author: The Metalhub authors (@metalhub)
"""

EXAMPLES = r"""
- name: Install the configuration
  metalhub.platform.tree:
    rules:
      - {path: /etc/docker/daemon.json, validate: dockerd --validate --config-file %s}
    contents:
      - {path: /etc/metalhub/hub.yml, content: "{{ __hub_document | to_nice_yaml }}", mode: "0640", group: metalhub-hub}
    directories:
      - {path: /var/lib/metalhub/hub, owner: metalhub-hub, mode: "0700"}
  register: __hub_tree
"""

RETURN = r"""
paths:
  description: The files and directories that changed, sorted.
  returned: success
  type: list
  elements: str
"""

import base64  # noqa: E402
import grp  # noqa: E402
import json  # noqa: E402
import os  # noqa: E402
import pwd  # noqa: E402
import shlex  # noqa: E402
import shutil  # noqa: E402
import stat  # noqa: E402
import tempfile  # noqa: E402

from ansible.module_utils.basic import AnsibleModule  # noqa: E402

STATE = "/var/lib/metalhub/tree"
UNIT_DIRECTORIES = ("/etc/systemd/system/", "/run/systemd/system/")


def read(path):
    """Return the bytes at `path`, or None where there is no regular file."""
    try:
        with open(path, "rb") as stream:
            return stream.read()
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError):
        return None


def as_text(content, sensitive):
    if content is None:
        return ""
    if sensitive:
        return "(hidden)\n"
    try:
        return content.decode()
    except UnicodeDecodeError:
        return f"(binary, {len(content)} bytes)\n"


def describe(path):
    """Return owner, group and mode at `path` as one line of text, empty where nothing is there."""
    try:
        status = os.lstat(path)
    except (FileNotFoundError, NotADirectoryError):
        return ""
    try:
        owner = pwd.getpwuid(status.st_uid).pw_name
    except KeyError:
        owner = str(status.st_uid)
    try:
        group = grp.getgrgid(status.st_gid).gr_name
    except KeyError:
        group = str(status.st_gid)
    return f"{owner}:{group} {stat.S_IMODE(status.st_mode):04o}\n"


class Tree:
    def __init__(self, module):
        self.module = module
        self.name = module.params["name"]
        self.manifest = os.path.join(STATE, f"{self.name}.json")
        self.paths = []
        self.diff = []

    def fail(self, message):
        self.module.fail_json(msg=message, paths=sorted(self.paths))

    def ids(self, item):
        """Return (uid, gid) of an item's owner and group."""
        found = []
        for kind, look_up in (("owner", lambda n: pwd.getpwnam(n).pw_uid), ("group", lambda n: grp.getgrnam(n).gr_gid)):
            given = item[kind]
            try:
                found.append(int(given) if given.isdigit() else look_up(given))
            except KeyError:
                self.fail(f"{item['path']}: the host has no {kind} {given!r}")
        return found

    def write_manifest(self, paths):
        os.makedirs(STATE, exist_ok=True)
        temporary = self.manifest + ".new"
        with open(temporary, "w", encoding="utf-8") as stream:
            json.dump({"paths": sorted(paths)}, stream, indent=1)
        os.replace(temporary, self.manifest)

    def record(self, path, before, after, old_attributes, new_attributes):
        self.paths.append(path)
        if before != after:
            self.diff.append({"before_header": path, "after_header": path, "before": before, "after": after})
        if old_attributes != new_attributes:
            header = f"{path} (owner and mode)"
            self.diff.append({"before_header": header, "after_header": header, "before": old_attributes, "after": new_attributes})

    def stage(self, item):
        """Write the new content beside its place and validate it. Returns the temporary path."""
        path = item["path"]
        parent = os.path.dirname(path)
        os.makedirs(parent, mode=0o755, exist_ok=True)
        handle, temporary = tempfile.mkstemp(prefix=".metalhub-", suffix=os.path.splitext(path)[1], dir=parent)
        try:
            with os.fdopen(handle, "wb") as stream:
                stream.write(base64.b64decode(item["content"]))
                stream.flush()
                os.fsync(stream.fileno())
            os.chown(temporary, *self.ids(item))
            os.chmod(temporary, int(item["mode"], 8))
            if item["validate"]:
                command = [word.replace("%s", temporary) for word in shlex.split(item["validate"])]
                code, out, err = self.module.run_command(command)
                if code != 0:
                    said = "hidden, the file is sensitive" if item["sensitive"] else (err or out).strip()[-2000:]
                    self.fail(f"{path} is refused by its own program ({item['validate']}): {said}. The old file stays.")
        except BaseException:
            os.unlink(temporary)
            raise
        return temporary

    def run(self):
        files, check = self.module.params["files"], self.module.check_mode
        remove = self.module.params["remove"]
        for item in self.module.params["directories"]:
            path, wanted = item["path"], f"{item['owner']}:{item['group']} {item['mode']}\n"
            if os.path.lexists(path) and not os.path.isdir(path):
                self.fail(f"{path} must be a directory, and something else is there")
            self.record(path, "", "", describe(path), wanted)
            if not check:
                os.makedirs(path, exist_ok=True)
                os.chown(path, *self.ids(item))
                os.chmod(path, int(item["mode"], 8))
        for item in files:
            path, before = item["path"], read(item["path"])
            if os.path.isdir(path):
                self.fail(f"{path} must be a file, and a directory is there")
            after, sensitive = base64.b64decode(item["content"]), item["sensitive"]
            old, new = as_text(before, sensitive), as_text(after, sensitive)
            if sensitive and before is not None and before != after:
                new = "(hidden, changed)\n"
            self.record(path, old, new, describe(path), f"{item['owner']}:{item['group']} {item['mode']}\n")
        for path in remove:
            if os.path.lexists(path):
                content = read(path)
                self.record(path, "(removed)\n" if content is None else as_text(content, self.hidden(path)), "", describe(path), "")
        if check:
            return
        staged = []
        try:
            for item in files:
                staged.append((item, self.stage(item)))
            # What was ours and what will be: a run that is killed from here on loses track of nothing.
            self.write_manifest(set(self.module.params["owned"]) | set(remove))
            for item, temporary in staged:
                if item["backup"] and os.path.lexists(item["path"]):
                    self.back_up(item["path"])
                os.replace(temporary, item["path"])
        finally:
            for _, temporary in staged:
                if os.path.lexists(temporary):
                    os.unlink(temporary)
        for path in remove:
            if os.path.lexists(path):
                os.unlink(path)
        if any(path.startswith(UNIT_DIRECTORIES) for path in self.paths) and os.path.isdir("/run/systemd/system"):
            self.module.run_command(["systemctl", "daemon-reload"], check_rc=True)
        self.write_manifest(self.module.params["owned"])

    def hidden(self, path):
        """Whether a file about to be removed may hold a secret: others cannot read it."""
        return not stat.S_IMODE(os.lstat(path).st_mode) & stat.S_IROTH

    def back_up(self, path):
        target = os.path.join(STATE, "backup", path.lstrip("/"))
        if not os.path.lexists(target):
            os.makedirs(os.path.dirname(target), mode=0o700, exist_ok=True)
            shutil.copy2(path, target, follow_symlinks=False)


def main():
    attributes = {"path": {"type": "str", "required": True}, "owner": {"type": "str"}, "group": {"type": "str"}, "mode": {"type": "str"}}
    module = AnsibleModule(
        argument_spec={
            "name": {"type": "str", "required": True},
            "files": {
                "type": "list",
                "elements": "dict",
                "options": {
                    **attributes,
                    "content": {"type": "str", "no_log": True},
                    "validate": {"type": "str"},
                    "sensitive": {"type": "bool"},
                    "backup": {"type": "bool"},
                },
            },
            "directories": {"type": "list", "elements": "dict", "options": attributes},
            "owned": {"type": "list", "elements": "str"},
            "remove": {"type": "list", "elements": "str"},
        },
        supports_check_mode=True,
    )
    tree = Tree(module)
    tree.run()
    result = {"changed": bool(tree.paths), "paths": sorted(tree.paths)}
    if module._diff:
        result["diff"] = tree.diff
    module.exit_json(**result)


if __name__ == "__main__":
    main()
