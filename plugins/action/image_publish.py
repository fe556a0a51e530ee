"""Build or fetch an image and push it: see plugins/modules/image_publish.py for the documentation."""

from __future__ import annotations

import os
import tempfile
import typing as t

from ansible import constants as C
from ansible.errors import AnsibleActionFail
from ansible.plugins.action import ActionBase
from ansible_collections.metalhub.platform.plugins.plugin_utils.images import read_context


class ActionModule(ActionBase):
    _requires_connection = True
    _supports_check_mode = True

    TRANSFERS_FILES = True

    def run(self, tmp: str | None = None, task_vars: dict[str, t.Any] | None = None) -> dict[str, t.Any]:
        result = super().run(tmp, task_vars)
        arguments = dict(self._task.args)
        build, archive, extra_ca = arguments.pop("build", ""), arguments.pop("archive", ""), arguments.pop("extra_ca", "")
        if len([kind for kind in (build, archive, arguments.get("reference")) if kind]) != 1:
            raise AnsibleActionFail("image_publish: give one of build, archive and reference")
        if self._task.check_mode:
            return {**result, "changed": True, "digest": ""}
        if build or archive:
            if build:
                context, _ = read_context(build, extra_ca)
                with tempfile.NamedTemporaryFile(dir=C.DEFAULT_LOCAL_TMP, delete=False) as stream:
                    stream.write(context)
                source = stream.name
            else:
                source = archive
            remote = self._connection._shell.join_path(self._make_tmp_path(), "image.tar")
            try:
                self._transfer_file(source, remote)
                arguments.update(kind="build" if build else "archive", path=remote)
                return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
            finally:
                if build:
                    os.unlink(source)
                self._remove_tmp_path(self._connection._shell.tmpdir)
        arguments.update(kind="reference")
        return {**result, **self._execute_module(module_args=arguments, task_vars=task_vars)}
