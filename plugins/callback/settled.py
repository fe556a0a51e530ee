"""Keep what a run that changed nothing asked, and say whether the next may just ask it again."""

from __future__ import annotations

import hashlib
import json
import os
import sys
import tempfile
import time
import typing as t

from ansible import constants as C
from ansible import context
from ansible.plugins.callback import CallbackBase
from ansible.release import __version__ as ansible_version
from ansible_collections.metalhub.platform.plugins.plugin_utils import settled

DOCUMENTATION = r"""
name: settled
type: aggregate
short_description: Remember what a run that changed nothing asked the hosts
version_added: 0.1.0
description:
  - Keeps, for the module M(metalhub.platform.settled), the questions and a digest of the answers of a run that changed nothing.
  - A run is kept only when all that it did on the hosts was to ask through Metalhub's own actions, and when it read nothing from
    outside but files, the inventory, the command line and the environment. It is good for one day, for the same playbook,
    inventory, variables, environment, code and files. Not noticed is a file outside the collection and the inventory that was not
    there, and whose absence was only tested for.
  - Records lie under C(.cache/settled) beside C(ansible.cfg), readable by the user only, and hold no answer, only digests.
"""

_ROOT = os.path.realpath(os.path.join(os.path.dirname(__file__), "..", ".."))
_ROOTS = ("ansible.cfg", "playbooks", "roles", "plugins", "group_vars", "files", "meta")
_SKIPPED = (".git", ".cache", ".venv", "__pycache__", "node_modules", ".ansible", ".ruff_cache", ".mypy_cache", ".pytest_cache")
_ACTION = "metalhub.platform.settled"
_ONLY_ASK = {f"metalhub.platform.{name}" for name in ("tree", "packages", "units", "probe", "host_facts", "preflight", "settled")}
_ON_THE_CONTROLLER = {
    f"ansible.builtin.{name}"
    for name in ("assert", "debug", "fail", "include_role", "include_tasks", "include_vars", "meta", "set_fact", "validate_argument_spec")
}
_VOLATILE_ENVIRONMENT = ("PWD", "OLDPWD", "SHLVL", "_", "TERM", "COLUMNS", "LINES", "TMUX", "TMUX_PANE", "STY", "WINDOW", "WINDOWID")
_VOLATILE_VARIABLES = ("omit", "hostvars", "vars", "ansible_check_mode", "ansible_diff_mode", "ansible_verbosity")
_AGE = 24 * 3600.0  # what depends on the time of day or the date is decided anew at least this often


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "metalhub.platform.settled"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._why_not = ""  # why this run cannot be kept
        self._playbook = ""
        self._roots: list[str] = []
        self._key: str | None = None
        self._record = ""
        self._notes: t.Any = None
        self._settled: bool | None = None  # None until the hosts were asked

    def v2_playbook_on_start(self, playbook: t.Any) -> None:
        self._playbook = os.path.realpath(playbook._file_name)

    def v2_playbook_on_play_start(self, play: t.Any) -> None:
        if self._key is not None:
            return
        self._key = ""
        arguments = context.CLIARGS
        partial = arguments.get("subset") or arguments.get("skip_tags") or arguments.get("start_at_task") or arguments.get("step")
        if partial or list(arguments.get("tags") or ["all"]) != ["all"]:
            return
        self._key = self._digest(play.get_variable_manager(), [str(source) for source in arguments.get("inventory") or []])
        directory = os.path.join(os.path.dirname(C.CONFIG_FILE) if C.CONFIG_FILE else os.path.expanduser("~"), ".cache", "settled")
        os.makedirs(directory, mode=0o700, exist_ok=True)
        which = hashlib.sha256("\0".join([self._playbook, *self._roots]).encode()).hexdigest()[:16]
        self._record = os.path.join(directory, which + ".json")
        if reason := self._refusal():
            self._display.v(f"settled: {reason}")
        else:
            os.environ[settled.RECORD_VARIABLE] = self._record

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        if not self._key or self._notes or task.resolved_action != _ACTION:
            return
        # From here on: what was looked at before is looked at in every run.
        self._notes = tempfile.TemporaryFile(mode="a+b", dir=os.path.dirname(self._record))  # noqa: SIM115 - open until the run ends
        os.environ[settled.NOTES_VARIABLE] = str(self._notes.fileno())
        ignored = (
            sys.prefix,
            sys.base_prefix,
            sys.exec_prefix,
            C.DEFAULT_LOCAL_TMP,
            os.path.dirname(self._record),
            "/proc/",
            "/sys/",
            "/dev/",
        )
        settled.watch(ignored + tuple(os.path.join(_ROOT, name) for name in _ROOTS))

    def v2_runner_on_ok(self, result: t.Any) -> None:
        task, returned = result.task, result.result
        action = task.resolved_action or task.action
        if action == _ACTION:
            self._settled = self._settled is not False and bool(returned.get("settled"))
        elif self._settled is not None and self._notes and not self._why_not:
            if returned.get("changed"):
                self._why_not = f"{task.get_name()} changed something"
            elif action not in _ONLY_ASK | _ON_THE_CONTROLLER:
                self._why_not = f"{task.get_name()} runs {action}"

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._why_not = f"{result.task.get_name()} failed"

    def v2_runner_on_unreachable(self, result: t.Any) -> None:
        self._why_not = f"{result.host.get_name()} is unreachable"

    def v2_playbook_on_stats(self, stats: t.Any) -> None:
        if self._settled:
            self._display.display("Every host answers as in the last run that changed nothing: nothing to do.")
        if self._settled or not self._notes or context.CLIARGS.get("check"):
            return
        notes = self._read_notes()
        if not self._why_not:
            self._why_not = next((n["outside"] for n in notes if "outside" in n), "")
        if self._why_not:
            self._display.v(f"settled: this run is not kept, because {self._why_not}")
            return
        hosts: dict[str, list[dict[str, str]]] = {}
        for entry in notes:
            if "script" in entry:
                looks = hosts.setdefault(entry.pop("host"), [])
                if entry["script"] not in [look["script"] for look in looks]:
                    looks.append(entry)
        files = {entry["file"]: settled.file_state(entry["file"]) for entry in notes if "file" in entry}
        temporary = self._record + ".new"
        with open(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w", encoding="utf-8") as stream:
            json.dump({"key": self._key, "made": time.time(), "files": files, "hosts": hosts}, stream)
        os.replace(temporary, self._record)

    def _read_notes(self) -> list[dict[str, t.Any]]:
        self._notes.seek(0)
        return [json.loads(line) for line in self._notes]

    def _refusal(self) -> str:
        """Say why the record cannot be asked again; empty where it can."""
        try:
            with open(self._record, encoding="utf-8") as stream:
                record = json.load(stream)
        except FileNotFoundError:
            return "no run that changed nothing is on record"
        if record["key"] != self._key:
            return "the inventory, the code, a file or the environment is not what it was"
        if not 0 <= time.time() - record["made"] < _AGE:
            return "the record is older than a day"
        for path, state in record["files"].items():
            if settled.file_state(path) != state:
                return f"{path} is not what it was"
        return ""

    def _digest(self, manager: t.Any, sources: list[str]) -> str:
        """Digest all that a run depends on, apart from the hosts and the files that it alone knows of."""
        inventory = manager._inventory
        self._roots = [os.path.realpath(source) for source in sources if os.path.exists(source)]
        beside = [os.path.dirname(source) for source in self._roots if os.path.isfile(source)]
        inventories = self._roots + [os.path.join(directory, name) for directory in beside for name in ("group_vars", "host_vars")]
        roots = [os.path.join(_ROOT, name) for name in _ROOTS] + [os.path.dirname(self._playbook), *inventories]
        environment = {
            name: value for name, value in os.environ.items() if name not in _VOLATILE_ENVIRONMENT and not name.startswith("SSH_")
        }
        hosts = {}
        for host in inventory.get_hosts(ignore_limits=True, ignore_restrictions=True):
            variables = manager.get_vars(host=host, include_hostvars=False)
            hosts[host.name] = {name: value for name, value in variables.items() if name not in _VOLATILE_VARIABLES}
        everything = {
            "versions": [ansible_version, sys.version],
            "sources": sources,
            "files": list(settled.tree_state(roots, _SKIPPED)),
            "environment": sorted(environment.items()),
            "hosts": hosts,
        }
        return hashlib.sha256(json.dumps(everything, sort_keys=True, default=repr).encode()).hexdigest()
