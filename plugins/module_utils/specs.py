"""Values held against argument specs, all faults at once, in words an operator understands.

Ansible checks a role's arguments when the role begins, on each host, and stops at the first host. This does the same
for all hosts before anything is changed. It is stricter in two points where Ansible guesses: a number is not text
(``version: 1.10`` is 1.1), and a single text is not a list.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from .durations import LEGAL as DURATION_LEGAL
from .durations import parse_duration
from .sizes import LEGAL as SIZE_LEGAL
from .sizes import parse_size

Spec = Mapping[str, object]

_BOOLEAN_WORDS = frozenset(["yes", "no", "true", "false", "on", "off", "1", "0", "y", "n", "t", "f"])
_NAMES = {
    "str": "text",
    "int": "a whole number",
    "float": "a number",
    "bool": "true or false",
    "list": "a list",
    "dict": "a mapping",
    "path": "a path",
    "size": SIZE_LEGAL,
    "duration": DURATION_LEGAL,
}


@dataclass(frozen=True)
class Fault:
    """One wrong place inside a value: ``path`` is the variable and the keys below it, joined by dots."""

    path: str
    value: object
    message: str
    legal: str = ""


def nearest(word: str, known: Iterable[str]) -> str:
    """``Did you mean …?`` or nothing."""
    close = difflib.get_close_matches(word, list(known), n=1, cutoff=0.7)
    return f"Did you mean {close[0]}?" if close else ""


def listed(words: Iterable[object]) -> str:
    """Words for a message, sorted, joined by commas."""
    return ", ".join(sorted(str(word) for word in words)) or "none is defined"


def _is_type(value: object, kind: str) -> bool:
    if kind in ("str", "path", "size", "duration"):
        return isinstance(value, str)
    if kind == "bool":
        # 0 and 1 are integers here on purpose: Ansible takes them too.
        return isinstance(value, bool) or str(value).lower() in _BOOLEAN_WORDS
    if kind == "int":
        digits = value.strip().lstrip("-") if isinstance(value, str) else ""
        return (isinstance(value, int) and not isinstance(value, bool)) or digits.isdecimal()
    if kind == "float":
        return isinstance(value, (int, float)) and not isinstance(value, bool)
    if kind == "list":
        return isinstance(value, Sequence) and not isinstance(value, (str, bytes))
    if kind == "dict":
        return isinstance(value, Mapping)
    return True


def _found(value: object) -> str:
    for kinds, name in ((bool, "true or false"), ((int, float), "a number"), (str, "text"), (Mapping, "a mapping"), (Sequence, "a list")):
        if isinstance(value, kinds):
            return name
    return "nothing" if value is None else type(value).__name__


def check_value(path: str, value: object, spec: Spec) -> Iterator[Fault]:
    """The faults of a value under an argument spec (type, elements, choices, options, required), none if it is right.

    Beside Ansible's types there are ``size`` and ``duration``, whose text must parse.
    """
    if value is None:
        if spec.get("required"):
            yield Fault(path, value, "A value is needed here.", _NAMES.get(str(spec.get("type", "str")), ""))
        return
    kind = str(spec.get("type", "str"))
    if not _is_type(value, kind):
        yield Fault(path, value, f"Wrong type: found {_found(value)}, wanted {_NAMES.get(kind, kind)}.", _quote_hint(value, kind))
        return
    if kind in ("size", "duration"):
        try:
            (parse_size if kind == "size" else parse_duration)(value)
        except ValueError:
            yield Fault(path, value, f"This is not a {kind}.", _NAMES[kind])
            return
    choices = spec.get("choices")
    if isinstance(choices, Sequence):
        for item in value if kind == "list" and isinstance(value, Sequence) else [value]:
            if item not in choices and str(item) not in map(str, choices):
                hint = nearest(str(item), map(str, choices))
                yield Fault(path, item, f"This is not one of the choices. {hint}".strip(), listed(choices))
    options = spec.get("options")
    if kind == "list" and isinstance(value, Sequence) and ("elements" in spec or options):
        element = {"type": spec.get("elements", "str"), **({"options": options} if options else {})}
        for index, item in enumerate(value):
            yield from check_value(f"{path}[{index}]", item, element)
    elif isinstance(options, Mapping) and isinstance(value, Mapping):
        yield from check_options(path, value, options)


def _quote_hint(value: object, kind: str) -> str:
    if kind == "str" and isinstance(value, (int, float)):
        return "text in quotes"
    return ""


def check_options(path: str, value: Mapping[str, object], options: Mapping[str, Spec]) -> Iterator[Fault]:
    """The faults of a mapping whose keys are declared: unknown and missing keys, and what is wrong below."""
    for key in value:
        if key not in options:
            hint = nearest(str(key), options)
            yield Fault(f"{path}.{key}", value[key], f"There is no such key. {hint}".strip(), listed(options))
    for key, spec in options.items():
        if key in value:
            yield from check_value(f"{path}.{key}", value[key], spec)
        elif spec.get("required"):
            yield Fault(f"{path}.{key}", None, "A value is needed here.", _NAMES.get(str(spec.get("type", "str")), ""))
