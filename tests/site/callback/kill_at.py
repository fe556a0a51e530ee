"""A callback that kills ansible-playbook with SIGKILL when it is about to begin the Nth task (METALHUB_KILL_AT)."""

from __future__ import annotations

import os
import signal

from ansible.plugins.callback import CallbackBase

DOCUMENTATION = """
name: kill_at
type: aggregate
short_description: Kill the run at a task
description: Kills the process and its workers METALHUB_KILL_AFTER seconds after the task numbered by METALHUB_KILL_AT begins.
"""


class CallbackModule(CallbackBase):
    CALLBACK_VERSION = 2.0
    CALLBACK_TYPE = "aggregate"
    CALLBACK_NAME = "kill_at"
    CALLBACK_NEEDS_ENABLED = True

    def __init__(self) -> None:
        super().__init__()
        self.left = int(os.environ["METALHUB_KILL_AT"])
        self.after = float(os.environ.get("METALHUB_KILL_AFTER", "0"))

    def v2_playbook_on_task_start(self, task: object, is_conditional: bool) -> None:
        self.left -= 1
        if self.left == 0:
            if self.after:
                words = f"killed {self.after:g} s after the start of: {task}"
                signal.signal(signal.SIGALRM, lambda *_: self.kill(words))
                signal.setitimer(signal.ITIMER_REAL, self.after)
            else:
                self.kill(f"killed before: {task}")

    def kill(self, words: str) -> None:
        print(words, flush=True)
        # The runner starts us as a session of our own, so this ends the workers too and nothing else.
        os.killpg(os.getpgid(0), signal.SIGKILL)
