"""Write down what each task was asked to do, and how long it took: one JSON object a line."""

from __future__ import annotations

import json
import os
import time
import typing as t

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = r"""
name: record
type: notification
short_description: Record the arguments and the duration of every task
description: Used by the benchmark of converges only. Writes to the file named in the environment variable METALHUB_BENCH_RECORD.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "notification"
    CALLBACK_NAME = "record"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self._stream = open(os.environ["METALHUB_BENCH_RECORD"], "w", encoding="utf-8")  # noqa: SIM115 - open until the run ends
        self._begun = 0.0

    def v2_playbook_on_task_start(self, task: t.Any, is_conditional: bool) -> None:
        self._begun = time.monotonic()

    def _write(self, result: t.Any, state: str) -> None:
        task, fields = result.task, result.task_fields
        role = task._role
        line = {
            "state": state,
            "changed": bool(result.result.get("changed")),
            "host": result.host.get_name(),
            "task": task._uuid,
            "name": task.get_name(),
            "action": task.resolved_action or task.action,
            "args": {} if fields.get("no_log") else fields.get("args", {}),
            "hidden": bool(fields.get("no_log")),
            "looped": "results" in result.result,
            "delegate_to": fields.get("delegate_to"),
            "role": role.get_name(include_role_fqcn=False) if role else None,
            "role_path": role._role_path if role else None,
            "seconds": time.monotonic() - self._begun,
        }
        self._stream.write(json.dumps(line, default=str) + "\n")
        self._stream.flush()

    def v2_runner_on_ok(self, result: t.Any) -> None:
        self._write(result, "ok")

    def v2_runner_on_skipped(self, result: t.Any) -> None:
        self._write(result, "skipped")

    def v2_runner_on_failed(self, result: t.Any, ignore_errors: bool = False) -> None:
        self._write(result, "failed")
