"""Ask a host again what the last run asked: see plugins/modules/settled.py for the documentation."""

from __future__ import annotations

import json
import os
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.plugin_utils import settled
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import host_key, run_script


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        self.validate_argument_spec(argument_spec={})
        path = os.environ.get(settled.RECORD_VARIABLE)
        if not path:
            return {"changed": False, "settled": False, "differs": []}
        with open(path, encoding="utf-8") as stream:
            looks = json.load(stream)["hosts"].get(host_key(self), [])
        if not looks:
            return {"changed": False, "settled": True, "differs": []}
        lines = run_script(self, settled.replay(looks), what="the look at the host").splitlines()
        differs = sorted({looks[int(line.partition("=")[2])]["task"] for line in lines if line.startswith("differs=")})
        return {"changed": False, "settled": not differs and lines[-1:] == ["answered"], "differs": differs}
