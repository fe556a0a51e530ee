"""Check what the inventory says: see plugins/modules/preflight.py for the documentation."""

from __future__ import annotations

import dataclasses
import typing as t

from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.module_utils.model import check_site
from ansible_collections.metalhub.platform.plugins.module_utils.report import format_problem, format_problems
from ansible_collections.metalhub.platform.plugins.plugin_utils.site import Reader


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(argument_spec={"ignore": {"type": "list", "elements": "str", "default": []}})
        reader = Reader(self, task_vars or {}, args["ignore"])
        problems = [dataclasses.replace(p, value="(hidden)") if reader.hidden(p) else p for p in check_site(reader.site)]
        sources = reader.sources(problems)
        errors = [p for p in problems if not p.warning]
        result: dict[str, t.Any] = {"changed": False}
        result["warnings"] = [format_problem(p, sources.get(p.variable, "")).replace("\n    ", " ") for p in problems if p.warning]
        if errors:
            result.update(failed=True, msg=format_problems(errors, sources))
        else:
            result["msg"] = f"Nothing is wrong with {len(reader.site.hosts)} host(s)."
        return result
