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
# The times are compared on the host, so that an answer is the same as long as nothing differs. /proc/uptime has hundredths
# only: 0.02 s allow for its rounding, to the side of one restart too many.
_CHECK = r"""
watch() {
  number=$1
  printf 'watch %s %s\n' "$number" "$2"
  shift 2
  left=$#
  while [ "$left" -gt 0 ]; do [ ! -e "$1" ] || set -- "$@" "$1"; shift; left=$((left - 1)); done
  [ "$#" -eq 0 ] || find "$@" '(' -type f -o -type d ')' -printf "changed $number %C@\n" 2>/dev/null
}
{ read -r up rest < /proc/uptime; echo "clock $(date +%s.%N) $up"
(cd /run/metalhub/units 2>/dev/null && stat -c 'reloaded %n %.Y' -- @UNITS@ 2>/dev/null)
@WATCHES@
systemctl show -p LoadState -p ActiveState -p UnitFileState -p NeedDaemonReload \
  -p InactiveExitTimestampMonotonic -p ExecMainStartTimestampMonotonic -- @UNITS@
} | awk -v names='@NAMES@' '
BEGIN { split(names, unit, " "); at = 1 }
/^clock / { boot = $2 - $3; next }
/^reloaded / { reloaded[$2] = $3 + 0; next }
/^watch / { watched[$2] = $3; watches++; next }
/^changed / { if ($3 + 0 > newest[$2]) newest[$2] = $3 + 0; next }
/^$/ { at++; next }
{ sep = index($0, "="); value[at, substr($0, 1, sep - 1)] = substr($0, sep + 1); if (at > last) last = at }
END {
  for (i = 1; i <= last; i++) {
    print "unit=" unit[i] " LoadState=" value[i, "LoadState"] " ActiveState=" value[i, "ActiveState"] \
      " UnitFileState=" value[i, "UnitFileState"] " NeedDaemonReload=" value[i, "NeedDaemonReload"]
    begun = value[i, "InactiveExitTimestampMonotonic"] + 0
    if (value[i, "ExecMainStartTimestampMonotonic"] + 0 > begun) begun = value[i, "ExecMainStartTimestampMonotonic"] + 0
    since[unit[i]] = boot + begun / 1000000
    if (reloaded[unit[i]] > since[unit[i]]) since[unit[i]] = reloaded[unit[i]]
    runs[unit[i]] = value[i, "ActiveState"] ~ /^(active|activating|reloading)$/
  }
  for (i = 1; i <= watches; i++) {
    u = watched[i]
    print "stale=" (runs[u] && newest[i] > since[u] - 0.02 ? "yes" : "no")
  }
}'
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

        units = list(dict.fromkeys([*enabled, *stopped, *restart_on, *reload_on]))
        if not units:
            return {"changed": False, "actions": []}
        watches = [(unit, globs) for table in (restart_on, reload_on) for unit, globs in table.items()]
        script = (
            _CHECK.replace("@UNITS@", quote_all(units))
            .replace("@NAMES@", " ".join(unit.replace("\\", "\\\\") for unit in units))
            .replace(
                "@WATCHES@",
                "\n".join(f"watch {number} {quote_all([unit])} {' '.join(globs)}" for number, (unit, globs) in enumerate(watches, 1)),
            )
        )
        lines = run_script(self, script, what="the look at units").splitlines()
        looks = [dict(word.partition("=")[::2] for word in line.split()) for line in lines]
        if len(looks) != len(units) + len(watches):
            raise AnsibleActionFail("units: systemd does not answer on the host")
        states = {look["unit"]: look for look in looks[: len(units)]}
        stale = [look["stale"] == "yes" for look in looks[len(units) :]]
        stale_restart = {unit for unit, old in zip(restart_on, stale[: len(restart_on)], strict=True) if old}
        stale_reload = {unit for unit, old in zip(reload_on, stale[len(restart_on) :], strict=True) if old} - stale_restart

        commands: list[str] = []
        actions: list[str] = []

        def plan(verb: str, unit: str, options: str = "") -> None:
            commands.append(f"act {verb} {quote_all([unit])} {options}")
            actions.append(f"{verb} {unit}")

        if any(look["NeedDaemonReload"] == "yes" for look in states.values()):
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
