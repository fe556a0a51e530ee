"""Ask the host cheap questions: see plugins/modules/probe.py for the documentation."""

from __future__ import annotations

import typing as t

from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import run_script


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "script": {"type": "str", "required": True},
                "sensitive": {"type": "bool", "default": False},
            }
        )
        output = run_script(self, args["script"], what="the probe", sensitive=args["sensitive"])
        facts: dict[str, str] = {}
        for line in output.splitlines():
            key, sep, value = line.partition("=")
            if not sep or not key.replace("_", "").isalnum():
                raise AnsibleActionFail(f"the probe printed a line that is not key=value: {line[:80]!r}")
            facts[key] = value
        result: dict[str, t.Any] = {"changed": False, "facts": facts}
        if args["sensitive"]:
            result["_ansible_no_log"] = True
        return result
