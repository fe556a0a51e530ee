"""Bring systemd units to a state: see plugins/modules/units.py for the documentation."""

from __future__ import annotations

import re
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import quote_all, run_script

_UNIT = re.compile(r"^[A-Za-z0-9:_.\\@-]+\.(service|socket|timer|mount|automount|path|target|swap)$")
# A glob of the host's shell: what could start a command or an expansion other than a glob is refused.
_GLOB = re.compile(r"^/[A-Za-z0-9_./*?@:+\\\[\]-]+$")

# The moment from which a unit surely runs with what lay on the disk: the beginning of its start, or the last reload that we
# began (a reload leaves no mark in systemd). A configuration file whose inode changed later makes it stale. Held against the
# files themselves, not against what this run happened to change, a run that was killed before its restart is mended.
_CHECK = r"""
boot=$(cut -d' ' -f1 /proc/uptime); now=$(date +%s.%N)
look() {
  unit=$1; shift
  state=$(systemctl show -p LoadState -p ActiveState -p Result -p UnitFileState -p NeedDaemonReload \
    -p InactiveExitTimestampMonotonic -p ExecMainStartTimestampMonotonic -- "$unit" | tr '\n' ' ')
  stamp=$(stat -c %.Y "/run/metalhub/units/$unit" 2>/dev/null || echo 0)
  newest=0
  for f in "$@"; do
    [ -e "$f" ] || continue
    newest="$newest $(find "$f" '(' -type f -o -type d ')' -printf '%C@ ' 2>/dev/null)"
  done
  newest=$(printf '%s\n' $newest | sort -n | tail -n 1)
  echo "unit=$unit now=$now uptime=$boot stamp=$stamp newest=$newest $state"
}
"""

_APPLY_PROLOGUE = r"""
mkdir -p /run/metalhub/units
act() {
  verb=$1; unit=$2; shift 2
  touch "/run/metalhub/units/$unit"
  if ! systemctl "$verb" "$@" -- "$unit" >/dev/null 2>/run/metalhub/units/.error; then
    echo "systemctl $verb $unit: $(cat /run/metalhub/units/.error)" >&2
    journalctl -u "$unit" -n 12 --no-pager -o cat >&2 2>/dev/null
    exit 1
  fi
}
"""


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "enabled": {"type": "list", "elements": "str", "default": []},
                "stopped": {"type": "list", "elements": "str", "default": []},
                "restart_on": {"type": "dict", "default": {}},
                "reload_on": {"type": "dict", "default": {}},
            }
        )
        enabled: list[str] = args["enabled"]
        stopped: list[str] = args["stopped"]
        restart_on: dict[str, list[str]] = args["restart_on"]
        reload_on: dict[str, list[str]] = args["reload_on"]
        watched = set(restart_on) | set(reload_on)
        if both := sorted(set(enabled) & set(stopped)):
            raise AnsibleActionFail(f"units: {both} are both `enabled` and `stopped`")
        for unit in [*enabled, *stopped, *watched]:
            if not _UNIT.match(unit):
                raise AnsibleActionFail(f"units: {unit!r} is not a unit's full name, such as 'docker.service'")
        for globs in [*restart_on.values(), *reload_on.values()]:
            for glob in globs:
                if not _GLOB.match(glob):
                    raise AnsibleActionFail(f"units: {glob!r} is not an absolute path or glob")

        # One look a unit and kind of watch: `look` takes the globs of one of them.
        script = [_CHECK]
        for unit in dict.fromkeys([*enabled, *stopped]):
            script.append(f"look {quote_all([unit])}")
        for table in (restart_on, reload_on):
            for unit, globs in table.items():
                script.append(f"look {quote_all([unit])} {' '.join(globs)}")
        lines = run_script(self, "\n".join(script) + "\n", what="the look at units").splitlines()
        looks = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
        states = {look["unit"]: look for look in looks[: len(dict.fromkeys([*enabled, *stopped]))]}
        rest = looks[len(states) :]
        stale_restart = {look["unit"] for look in rest[: len(restart_on)] if _stale(look)}
        stale_reload = {look["unit"] for look in rest[len(restart_on) :] if _stale(look)} - stale_restart

        commands: list[str] = []
        actions: list[str] = []

        def plan(verb: str, unit: str, options: str = "") -> None:
            commands.append(f"act {verb} {quote_all([unit])} {options}")
            actions.append(f"{verb} {unit}")

        if any(look["NeedDaemonReload"] == "yes" for look in looks):
            commands.append("systemctl daemon-reload || exit 1")
            actions.append("daemon-reload")
        for unit in stopped:
            look = states[unit]
            if look["LoadState"] == "not-found":
                continue
            if look["ActiveState"] not in ("inactive", "failed"):
                plan("stop", unit)
            if look["UnitFileState"] in ("enabled", "enabled-runtime"):
                plan("disable", unit)
        for unit in enabled:
            look = states[unit]
            if look["LoadState"] == "not-found" and not self._task.check_mode:
                raise AnsibleActionFail(f"units: the host has no unit {unit}")
            if look["LoadState"] == "masked":
                plan("unmask", unit)
            if look["UnitFileState"] in ("disabled", "masked", "enabled-runtime", ""):
                plan("enable", unit)
            if look["ActiveState"] not in ("active", "activating", "reloading"):
                plan("start", unit)
        for unit in restart_on:
            if unit in stale_restart and f"start {unit}" not in actions:
                plan("restart", unit)
        for unit in reload_on:
            if unit in stale_reload and not {f"start {unit}", f"restart {unit}"} & set(actions):
                plan("reload-or-restart", unit)

        if actions and not self._task.check_mode:
            run_script(self, _APPLY_PROLOGUE + "\n".join(commands) + "\n", what="the change of units")
        result: dict[str, t.Any] = {"changed": bool(actions), "actions": actions}
        if self._task.diff and actions:
            result["diff"] = {"before": "", "after": "".join(f"{action}\n" for action in actions)}
        return result


def _stale(look: dict[str, str]) -> bool:
    """Whether an active unit began before the newest of its files changed. All times in seconds since the epoch."""
    if look["ActiveState"] not in ("active", "activating", "reloading") or not look.get("newest"):
        return False
    begun = max(int(look.get("InactiveExitTimestampMonotonic") or 0), int(look.get("ExecMainStartTimestampMonotonic") or 0))
    epoch = float(look["now"]) - float(look["uptime"]) + begun / 1e6
    # /proc/uptime has hundredths only: allow for its rounding, to the side of one restart too many.
    return float(look["newest"]) > max(epoch, float(look["stamp"])) - 0.02
