"""``python -m metalhub_hub check FILE``: is this document one the hub can start with?"""

from __future__ import annotations

import sys

from .config import DocumentError, load


def main(arguments: list[str]) -> int:
    """0: the document is fine. 1: the problems were printed, one a line. 2: wrong usage."""
    if len(arguments) != 2 or arguments[0] != "check":
        print("usage: python -m metalhub_hub check FILE", file=sys.stderr)
        return 2
    try:
        load(arguments[1])
    except DocumentError as error:
        for problem in error.problems:
            print(problem, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
