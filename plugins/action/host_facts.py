"""Read the facts that the platform decides by: see plugins/modules/host_facts.py for the documentation."""

from __future__ import annotations

import time
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.module_utils.hostfacts import SCRIPT, parse_host
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import run_script


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        # The first connection of a run may take seconds: without it, they would look like skew.
        self._connection._connect()
        script = SCRIPT.replace("@NOW@", str(int(time.time())))
        return {"changed": False, **parse_host(run_script(self, script, what="the look at the host"))}
