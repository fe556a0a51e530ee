"""One daemon.json out of the fragments that several roles hand in."""

from __future__ import annotations

import dataclasses
import re
import typing as t

Fragment = t.Mapping[str, t.Any]

# The runtime that hands each container to another one, by what its session asks for.
DISPATCHER = "metalhub"
DISPATCHER_PATH = "/usr/local/lib/metalhub/oci-dispatch"

_CHOICE = re.compile(r"[a-z0-9]{1,16}", re.ASCII)
_WORD = re.compile(r"\S+")


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


class DispatchProblem(ValueError):
    """The dispatcher cannot choose among these runtimes; the message names the variable, the value and what is legal."""


@dataclasses.dataclass(frozen=True)
class Choice:
    """What a session may ask for, and the runtime of ``daemon.json`` that it means; ``runc`` is the engine's own."""

    choice: str
    runtime: str


def merge_with_dispatcher(fragments: t.Mapping[str, Fragment], choices: t.Sequence[Choice]) -> tuple[dict[str, t.Any], str]:
    """Merge the fragments, with the dispatcher as the default runtime, and give its configuration too.

    The first choice is the strictest, and until its runtime is known there is no dispatcher. Further ones are left out while
    theirs is unknown, so that a wish for them gets the first. An owner who wants the strictest as the default gets the
    dispatcher, which falls back to it. Raises as merge_fragments, and DispatchProblem for choices that are not plain words or
    named twice, and for runtimes that are not a program with plain arguments.
    """
    merged = merge_fragments(fragments)
    runtimes = {"runc": {"path": "runc"}, **merged.get("runtimes", {})}
    for place, item in enumerate(choices):
        if not _CHOICE.fullmatch(item.choice):
            raise DispatchProblem(f"docker_dispatch: {item.choice!r} is not a choice; legal are 1 to 16 of a-z and 0-9")
        if item.choice in [other.choice for other in choices[:place]]:
            raise DispatchProblem(f"docker_dispatch: {item.choice!r} is named twice; legal is once each, the strictest first")
        if item.runtime == DISPATCHER:
            raise DispatchProblem(f"docker_dispatch: {item.choice!r} is the dispatcher itself; legal are other runtimes")
    if not choices or choices[0].runtime not in runtimes:
        return merged, ""
    lines = [_dispatch_line(item, runtimes[item.runtime]) for item in choices if item.runtime in runtimes]
    strictest = ("default-runtime", choices[0].runtime)
    others = {owner: {key: value for key, value in own.items() if (key, value) != strictest} for owner, own in fragments.items()}
    own = {"default-runtime": DISPATCHER, "runtimes": {DISPATCHER: {"path": DISPATCHER_PATH}}}
    return merge_fragments({**others, "docker_dispatch": own}), "".join(lines)


def _dispatch_line(item: Choice, runtime: Fragment) -> str:
    words = [runtime.get("path"), *runtime.get("runtimeArgs", [])]
    # The dispatcher splits a line at its blanks.
    if not all(isinstance(word, str) and _WORD.fullmatch(word) for word in words):
        raise DispatchProblem(
            f"docker_dispatch: {item.choice!r} is the runtime {item.runtime!r} with {dict(runtime)!r}; "
            "legal is a path, and runtimeArgs without blanks"
        )
    return " ".join([item.choice, *words]) + "\n"


def replace_fragment(merged: Fragment, old: Fragment, new: Fragment) -> dict[str, t.Any]:
    """Swap one owner's lists in a merged document, as merging all fragments again would.

    ``old`` and ``new`` are that owner's fragment: lists of items that nobody else wants. ``merge_fragments`` keeps an owner's items
    together, so ``new`` takes the place of ``old``, or the end where nothing of it is there. A list that ends up empty is left out.
    Raises TypeError for a value that is not a list.
    """
    document = dict(merged)
    for key in {**old, **new}:
        before, after = old.get(key, []), new.get(key, [])
        known = document.get(key, [])
        if not (isinstance(before, list) and isinstance(after, list) and isinstance(known, list)):
            raise TypeError(f"Docker setting {key} is not a list in every place: {known!r}, {before!r}, {after!r}")
        place = next((index for index, item in enumerate(known) if item in before), len(known))
        rest = [item for item in known if item not in before]
        document[key] = [*rest[:place], *after, *rest[place:]]
        if not document[key]:
            del document[key]
    return document
