"""Make packages present: see plugins/modules/packages.py for the documentation."""

from __future__ import annotations

import fnmatch
import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import quote_all, run_script

# ${db:Status-Status} is "installed" only for a package that is wholly there.
_CHECK = """
if command -v dpkg-query >/dev/null 2>&1; then
  echo manager=dpkg
  dpkg-query -W -f='${{binary:Package}} ${{db:Status-Status}} ${{Version}}\\n' {names} 2>/dev/null
elif command -v rpm >/dev/null 2>&1; then
  echo manager=rpm
  rpm -q --qf '%{{NAME}} installed %{{VERSION}}-%{{RELEASE}}\\n' {names} 2>/dev/null
else
  echo manager=none
fi
exit 0
"""


def split_pin(package: str) -> tuple[str, str]:
    """Split `name=version` into the name and the version's glob pattern (`*` where none is given)."""
    name, _, version = package.partition("=")
    return name, version or "*"


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={"name": {"type": "list", "elements": "str", "required": True}}
        )
        wanted = dict(split_pin(package) for package in args["name"])
        if not wanted:
            return {"changed": False, "missing": []}
        lines = run_script(self, _CHECK.format(names=quote_all(wanted)), what="the look at packages").splitlines()
        manager = lines[0].partition("=")[2]
        if manager not in ("dpkg", "rpm"):
            raise AnsibleActionFail("the host has neither dpkg nor rpm: Metalhub runs on Debian, Ubuntu and RHEL")
        present: dict[str, str] = {}
        for line in lines[1:]:
            name, _, rest = line.partition(" ")
            state, _, version = rest.partition(" ")
            if state == "installed":
                present[name.partition(":")[0]] = version
        missing = sorted(
            name if pin == "*" else f"{name}={pin}"
            for name, pin in wanted.items()
            if name not in present or not fnmatch.fnmatchcase(present[name], pin)
        )
        if not missing:
            return {"changed": False, "missing": []}
        if manager == "dpkg":
            module = "ansible.builtin.apt"
            module_args: dict[str, t.Any] = {
                "name": missing,
                "state": "present",
                "install_recommends": False,
                "update_cache": True,
                "cache_valid_time": 3600,
                "lock_timeout": 180,
                "allow_downgrade": any("=" in name for name in missing),
            }
        else:
            module = "ansible.builtin.dnf"
            module_args = {"name": [name.replace("=", "-") for name in missing], "state": "present", "lock_timeout": 180}
        result = self._execute_module(module_name=module, module_args=module_args, task_vars=task_vars)
        result["missing"] = missing
        return result
