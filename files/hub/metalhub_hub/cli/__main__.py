"""``python -m metalhub_hub.cli``: what /usr/local/bin/metalhub runs."""

from __future__ import annotations

import os
import sys

from .api import HubAway, HubRefused
from .commands import NOUNS
from .frame import Ask, Stop, parser


def main(arguments: list[str]) -> int:
    """Run one command. Returns its exit code, see frame.EXIT_CODES."""
    options = parser(NOUNS).parse_args(arguments)
    try:
        code = options.run(Ask(options)) or 0
        sys.stdout.flush()
        return code
    except Stop as stop:
        message, code = str(stop), stop.code
    except HubRefused as refused:
        message, code = str(refused), 1
    except HubAway as away:
        message, code = str(away), 3
    except BrokenPipeError:
        # Whoever read this has enough. Python would say more when it ends.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 1
    except KeyboardInterrupt:
        return 130
    sys.stdout.flush()
    print(f"{options.prog}: {message}", file=sys.stderr)
    return code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
