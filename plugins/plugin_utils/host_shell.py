"""Run a small POSIX shell script on the managed host in one round trip.

No Python starts on the host and no file is written there: the script travels on standard input, so nothing of it
shows in the process list. This is what makes a run that changes nothing cheap.
"""

from __future__ import annotations

import contextlib
import typing as t

from ansible.errors import AnsibleActionFail, AnsibleConnectionFailure
from ansible.utils.display import Display
from ansible_collections.metalhub.platform.plugins.plugin_utils import settled

if t.TYPE_CHECKING:
    from ansible.plugins.action import ActionBase

_PROLOGUE = "LC_ALL=C; export LC_ALL\nPATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin; export PATH\n"


def run_script(action: ActionBase, script: str, *, what: str, sensitive: bool = False) -> str:
    """Run `script` with /bin/sh on the host of `action` and return its standard output.

    `what` names the purpose in the error. Raises AnsibleActionFail when the script's exit status is not 0; with
    `sensitive` the output is left out of that error.
    """
    # in_data needs pipelining, which ansible.cfg sets.
    script = _PROLOGUE + script
    with settled.asking(), _quiet(sensitive):
        result = action._low_level_execute_command("/bin/sh", in_data=script.encode())
    if result["rc"] == 0:
        output = t.cast(str, result["stdout"])
        settled.note({"host": host_key(action), "task": action._task.get_name(), "script": script, "digest": settled.digest(output)})
        return output
    if result.get("unreachable"):
        raise AnsibleConnectionFailure(result.get("msg", f"could not reach the host ({what})"))
    said = "its output is hidden" if sensitive else (result["stderr"].strip() or result["stdout"].strip())[-2000:]
    raise AnsibleActionFail(f"{what} failed on the host with status {result['rc']}: {said}")


@contextlib.contextmanager
def _quiet(sensitive: bool) -> t.Iterator[None]:
    """Keep the connection from writing a sensitive answer to the log, as it does with -vvv."""
    display = Display()
    verbosity = display.verbosity
    try:
        if sensitive:
            display.verbosity = 0
        yield
    finally:
        display.verbosity = verbosity


def host_key(action: ActionBase) -> str:
    """Name the machine that `action` speaks to, which is another than the task's host where it is delegated."""
    return f"{action._connection.transport} {action._play_context.remote_addr} {action._play_context.port or ''}".rstrip()


def quote_all(words: t.Iterable[str]) -> str:
    """Quote `words` for the shell, joined by blanks."""
    import shlex

    return " ".join(shlex.quote(word) for word in words)
