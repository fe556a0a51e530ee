"""Public suffixes, below which anybody can have a name, from the list that comes with publicsuffixlist."""

from __future__ import annotations

import functools
from pathlib import Path

from ansible.errors import AnsibleError


@functools.cache
def _rules() -> tuple[frozenset[str], frozenset[str], frozenset[str]]:
    """Suffixes with all names above them, the names right below which all are suffixes, and those that are none even so."""
    try:
        from publicsuffixlist import PSLFILE
    except ImportError as error:
        raise AnsibleError("a wildcard needs publicsuffixlist on the controller: install requirements/controller.txt") from error
    suffixes: set[str] = set()
    wild: set[str] = set()
    exceptions: set[str] = set()
    for line in Path(PSLFILE).read_text(encoding="utf-8").splitlines():
        rule = line.partition(" ")[0].strip().lower()
        if not rule or rule.startswith("//"):
            continue
        rule = rule if rule.isascii() else rule.encode("idna").decode("ascii")
        if rule.startswith("!"):
            exceptions.add(rule[1:])
            continue
        if rule.startswith("*."):
            rule = rule[2:]
            wild.add(rule)
        while rule and rule not in suffixes:
            suffixes.add(rule)
            rule = rule.partition(".")[2]
    return frozenset(suffixes), frozenset(wild), frozenset(exceptions)


def is_public_suffix(name: str) -> bool:
    """Whether a name, in lower case and A-labels, is a public suffix or has one below it.

    A top level that the list does not have is somebody's own. Raises AnsibleError where the list is not installed.
    """
    suffixes, wild, exceptions = _rules()
    return name in suffixes or (name.partition(".")[2] in wild and name not in exceptions)
