"""Say what the inventory means: see plugins/modules/plan.py for the documentation."""

from __future__ import annotations

import json
import shlex
import shutil
import typing as t
from pathlib import Path

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.plugins.action import ActionBase
from ansible.utils.display import Display
from ansible_collections.metalhub.platform.plugins.module_utils.model import check_site
from ansible_collections.metalhub.platform.plugins.module_utils.profiles import read_runtime
from ansible_collections.metalhub.platform.plugins.module_utils.report import (
    Table,
    format_problems,
    plan_site,
    render_html,
    render_text,
    runtime_profiles,
)
from ansible_collections.metalhub.platform.plugins.plugin_utils.host_shell import run_script
from ansible_collections.metalhub.platform.plugins.plugin_utils.site import Reader


class ActionModule(ActionBase):
    _requires_connection = False
    _supports_check_mode = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        super().run(tmp, task_vars)
        _, args = self.validate_argument_spec(
            argument_spec={
                "ignore": {"type": "list", "elements": "str", "default": []},
                "page": {"type": "path", "default": ""},
                "runtime": {"type": "path", "default": ""},
            }
        )
        reader = Reader(self, task_vars or {}, args["ignore"])
        errors = [p for p in check_site(reader.site) if not p.warning and not reader.hidden(p)]
        problems = format_problems(errors, reader.sources(errors)) if errors else ""
        title = f"Metalhub at {reader.site.variable('metalhub_domain') or 'a domain still to be named'}"
        tables = plan_site(reader.site)
        if args["runtime"]:
            tables.insert(3, self._runtime(reader.site, args["runtime"]))  # after the profiles
        width = min(max(shutil.get_terminal_size((100, 24)).columns, 72), 160)
        Display().display("\n".join(filter(None, [render_text(title, tables, width), problems and f"\n{problems}"])))
        changed = False
        if args["page"]:
            page, content = Path(args["page"]), render_html(title, tables, problems)
            changed = not page.is_file() or page.read_text(encoding="utf-8") != content
            if changed and not self._task.check_mode:
                try:
                    page.write_text(content, encoding="utf-8")
                except OSError as error:
                    raise AnsibleActionFail(f"the page {page} cannot be written on the controller: {error.strerror}") from error
        return {"changed": changed}

    def _runtime(self, site: t.Any, path: str) -> Table:
        """What was changed of profiles at runtime. A host that does not answer does not keep the rest from being said."""
        file = shlex.quote(path)
        try:
            text = run_script(self, f"[ ! -e {file} ] || cat {file}", what="reading the changes of profiles", sensitive=True)
            return runtime_profiles(site, read_runtime(json.loads(text)["profiles"]) if text.strip() else {})
        except (AnsibleConnectionFailure, AnsibleActionFail, ValueError, KeyError, TypeError) as error:
            why = "the control host did not answer" if isinstance(error, AnsibleConnectionFailure) else f"{path} there cannot be read"
            return Table("Profiles, changed at runtime", ("profile",), (("not known",),), (f"They are left out: {why}.",))
