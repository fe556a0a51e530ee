"""One daemon.json out of the fragments that several roles hand in."""

from __future__ import annotations

import typing as t

Fragment = t.Mapping[str, t.Any]


class FragmentConflict(ValueError):
    """Two owners want different values for one setting of the engine."""


def merge_fragments(fragments: t.Mapping[str, Fragment]) -> dict[str, t.Any]:
    """Merge settings of the Docker engine by owner's name into one document.

    Mappings are merged, lists joined in the order of the owners' names without repeats, and any other setting may have one
    value only. The result does not depend on the order of ``fragments``. Raises FragmentConflict naming the setting, both
    owners and both values, and TypeError for a fragment that is not a mapping.
    """
    merged: dict[str, t.Any] = {}
    owners: dict[tuple[str, ...], str] = {}
    for owner in sorted(fragments):
        if not isinstance(fragments[owner], t.Mapping):
            raise TypeError(f"the Docker settings of {owner!r} are not a mapping: {fragments[owner]!r}")
        _merge(merged, fragments[owner], owner, owners, ())
    return merged


def _merge(into: dict[str, t.Any], fragment: Fragment, owner: str, owners: dict[tuple[str, ...], str], path: tuple[str, ...]) -> None:
    for key, value in fragment.items():
        here = (*path, key)
        known = into.get(key)
        if isinstance(value, t.Mapping) and (key not in into or isinstance(known, dict)):
            _merge(into.setdefault(key, {}), value, owner, owners, here)
        elif isinstance(value, list) and isinstance(known, list):
            into[key] = known + [item for item in value if item not in known]
        elif key not in into:
            into[key] = list(value) if isinstance(value, list) else value
        elif known != value or isinstance(known, bool) != isinstance(value, bool):
            raise FragmentConflict(
                f"Docker setting {'.'.join(here)}: {owners[here]!r} wants {known!r} and {owner!r} wants {value!r}; "
                "one of them has to give it up"
            )
        owners.setdefault(here, owner)
