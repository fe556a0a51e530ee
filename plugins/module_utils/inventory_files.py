"""What Ansible's own reading of inventory files loses: keys written twice, and which group said what."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import yaml

_LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


@dataclass(frozen=True)
class Duplicate:
    """A key that a mapping holds twice: its path from the document's top, and both lines (from 1)."""

    path: str
    first: int
    second: int


@dataclass(frozen=True)
class Scan:
    """What a YAML file says: duplicate keys, and its plain top-level values as text."""

    duplicates: tuple[Duplicate, ...] = ()
    scalars: tuple[tuple[str, str], ...] = ()


def scan_yaml(text: str) -> Scan:
    """Scan the text of an inventory or variables file. What is not a YAML mapping (INI, a vault) gives an empty scan.

    Nodes are composed and not constructed, so tags such as ``!vault`` need no handler.
    """
    try:
        roots = list(yaml.compose_all(text, Loader=_LOADER))
    except yaml.YAMLError:
        return Scan()  # Ansible reads the file too, and says better what is wrong
    duplicates = [duplicate for root in roots for duplicate in _walk(root, "", set())]
    scalars = [
        (str(key.value), str(value.value))
        for root in roots
        if isinstance(root, yaml.MappingNode)
        for key, value in root.value
        if isinstance(key, yaml.ScalarNode) and isinstance(value, yaml.ScalarNode)
    ]
    return Scan(tuple(duplicates), tuple(scalars))


def _walk(node: yaml.Node | None, path: str, seen: set[int]) -> Iterator[Duplicate]:
    if node is None or id(node) in seen:  # an alias is the same node again
        return
    seen.add(id(node))
    if isinstance(node, yaml.MappingNode):
        lines: dict[str, int] = {}
        for key, value in node.value:
            name = str(key.value) if isinstance(key, yaml.ScalarNode) else "?"
            place = f"{path}.{name}" if path else name
            line = key.start_mark.line + 1
            # "<<" merges, and may stand in a mapping more than once.
            if isinstance(key, yaml.ScalarNode) and name != "<<" and lines.setdefault(name, line) != line:
                yield Duplicate(place, lines[name], line)
            yield from _walk(value, place, seen)
    elif isinstance(node, yaml.SequenceNode):
        for index, item in enumerate(node.value):
            yield from _walk(item, f"{path}[{index}]", seen)
