"""Profiles: their fields, what can be wrong with one, and how an administrator's changes at runtime lie over the inventory's.

A change at runtime is one field of one profile. It holds until the next converge, which drops the changes of fields that the inventory sets
itself; those of fields that it leaves open stay. A profile that was made at runtime is there until it is deleted at runtime.
"""

from __future__ import annotations

import json
import re
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace

from .durations import parse_duration
from .names import VARIABLE
from .sandboxes import SANDBOXES, gpu_refusal
from .specs import Fault, Spec, check_options, listed, nearest

_TEXT: Spec = {"type": "str"}
_NEEDED_TEXT: Spec = {"type": "str", "required": True}
PROFILE: Mapping[str, Spec] = {
    "title": _TEXT,
    "description": _TEXT,
    "image": _NEEDED_TEXT,
    "flavor": _NEEDED_TEXT,
    "pool": _NEEDED_TEXT,
    "egress": _NEEDED_TEXT,
    "idle_stop": {"type": "duration"},
    "max_session": {"type": "duration"},
    "hibernate_after": {"type": "duration"},
    "extension": {"type": "duration"},
    "background_limit": {"type": "duration"},
    "warm": {"type": "int"},
    "environment": {"type": "dict"},
    "startup": {"type": "raw"},
    "groups": {"type": "list", "elements": "str"},
    "approval": {"type": "bool"},
    "default": {"type": "bool"},
}

NAME = re.compile(r"[a-z0-9](?:[a-z0-9.-]{0,38}[a-z0-9])?", re.ASCII)
NAME_LEGAL = "1 to 40 of a-z, 0-9, - and ., a letter or digit first and last"

# Of the start-up script, in bytes. It travels in the environment of each of the profile's sessions.
STARTUP_LIMIT = 16 * 1024
# Each reserves what a session does; more than this is a slip of the pen.
MOST_WARM = 100
STARTUP_LEGAL = f"a text or a list of lines, at most {STARTUP_LIMIT // 1024} KiB"
# Of all that is changed of one profile at runtime, in bytes.
CHANGE_LIMIT = 64 * 1024


@dataclass(frozen=True)
class World:
    """What a profile may name. ``flavors`` have their GPU's MIG profile, "" for a whole one, None for none; ``pools`` their sandbox."""

    images: Collection[str]
    flavors: Mapping[str, str | None]
    pools: Mapping[str, str]
    egress: Collection[str]


def startup_script(value: object) -> str:
    """The text of a start-up script, which may be written as a list of lines. Raises ValueError for what is none."""
    if value is None:
        return ""
    lines = [value] if isinstance(value, str) else list(value) if isinstance(value, Sequence) and not isinstance(value, bytes) else None
    if lines is None or not all(isinstance(line, str) for line in lines):
        raise ValueError("A start-up script is text.")
    text = "\n".join(map(str, lines))
    if "\0" in text:
        raise ValueError("A start-up script is text, and this has a null character.")
    size = len(text.encode("utf-8", "surrogatepass"))
    if size > STARTUP_LIMIT:
        raise ValueError(f"A start-up script of {size} bytes is too long; put it into the image, or on the shared folder.")
    return text


def profile_faults(path: str, profile: Mapping[str, object], world: World) -> Iterator[Fault]:
    """All that is wrong with one profile, for itself and with what it names."""
    yield from check_options(path, profile, PROFILE)
    for key, spec in PROFILE.items():
        # The spec takes "yes" for true as Ansible does for arguments; the hub's document has nothing but YAML's own.
        if spec["type"] == "bool" and isinstance(profile.get(key), (str, int)) and not isinstance(profile[key], bool):
            yield Fault(f"{path}.{key}", profile[key], "This is neither true nor false.", "true, false")
    known: Mapping[str, tuple[Collection[str], str]] = {
        "image": (world.images, "image"),
        "flavor": (world.flavors, "flavor"),
        "pool": (world.pools, "pool"),
        "egress": (world.egress, "egress class"),
    }
    for key, (names, what) in known.items():
        value = profile.get(key)
        if isinstance(value, str) and value not in names:
            yield Fault(f"{path}.{key}", value, f"There is no such {what}. {nearest(value, names)}".strip(), listed(names))
    flavor, pool = str(profile.get("flavor")), str(profile.get("pool"))
    gpu, sandbox = world.flavors.get(flavor), world.pools.get(pool, "")
    if gpu is not None and sandbox in SANDBOXES and (refusal := gpu_refusal(sandbox, gpu)):
        message = f"The flavor has a GPU, and pool {pool} cannot give it: {refusal}."
        yield Fault(f"{path}.flavor", profile["flavor"], message, "a pool with sandbox: nvidia, or a flavor without gpu")
    warm = profile.get("warm", 0)
    # The spec takes "3" for a number, too; other types it has refused by itself.
    if isinstance(warm, str) and warm.strip().lstrip("-").isdecimal() or (type(warm) is int and not 0 <= warm <= MOST_WARM):
        yield Fault(f"{path}.warm", warm, "This is no number of sessions to keep ready.", f"a whole number from 0 to {MOST_WARM}")
    environment = profile.get("environment")
    for key, value in environment.items() if isinstance(environment, Mapping) else ():
        if not isinstance(key, str) or not VARIABLE.fullmatch(key):
            yield Fault(f"{path}.environment", key, "This names no variable.", "letters, digits and _, no digit first")
        elif not isinstance(value, str) or "\0" in value:
            yield Fault(f"{path}.environment.{key}", value, "A variable's value is text.", "text in quotes")
    try:
        startup_script(profile.get("startup"))
    except ValueError as error:
        yield Fault(f"{path}.startup", profile["startup"], str(error), STARTUP_LEGAL)


def profile_doubts(path: str, profile: Mapping[str, object]) -> Iterator[Fault]:
    """Times of a profile that never come, because another one comes first. One of 0 is without limit."""

    def seconds(key: str) -> int:
        try:
            return parse_duration(profile.get(key))
        except ValueError:
            return 0  # missing, or reported with its type

    idle, longest, asleep = seconds("idle_stop"), seconds("max_session"), seconds("hibernate_after")
    if 0 < longest < idle:
        message = f"The session ends after max_session ({profile['max_session']}), before it can be idle that long."
        yield Fault(f"{path}.idle_stop", profile["idle_stop"], message)
    if 0 < idle <= asleep:
        message = f"The session is stopped after idle_stop ({profile['idle_stop']}), before it could be hibernated."
        yield Fault(f"{path}.hibernate_after", profile["hibernate_after"], message)


def title_faults(path: str, profile: Mapping[str, object], others: Mapping[str, Mapping[str, object]]) -> Iterator[Fault]:
    """A title that another profile has, too."""
    title = profile.get("title")
    for name, other in others.items() if isinstance(title, str) else ():
        if isinstance(other.get("title"), str) and str(other["title"]).strip().casefold() == str(title).strip().casefold():
            message = f"A duplicate profile: {name} has the same title, and users could not tell them apart."
            yield Fault(f"{path}.title", title, message, "a title of its own")
            return


# Changes at runtime

Inventory = Mapping[str, Mapping[str, object]]


@dataclass(frozen=True)
class Change:
    """One field's value at runtime, who gave it and when, in seconds since the epoch."""

    value: object
    by: str
    at: int


@dataclass(frozen=True)
class Entry:
    """What was changed of one profile at runtime. ``created``: the inventory did not have it."""

    created: bool = False
    fields: Mapping[str, Change] = field(default_factory=dict)


Runtime = Mapping[str, Entry]


class ProfileRefused(Exception):
    """A change that will not be, in one message. ``why`` is ``bad``, ``missing`` or ``there``."""

    def __init__(self, why: str, message: str) -> None:
        super().__init__(message)
        self.why = why


def _own(inventory: Inventory, name: str) -> Mapping[str, object]:
    """The fields that the inventory sets itself: one without a value is left open."""
    return {key: value for key, value in inventory.get(name, {}).items() if value is not None}


def merged(inventory: Inventory, runtime: Runtime) -> dict[str, dict[str, object]]:
    """All profiles as they hold now: the inventory's in its order with the changes on top, then those made at runtime."""
    found = {name: dict(_own(inventory, name)) for name in inventory}
    for name in sorted(runtime):
        if name in inventory or runtime[name].created:
            found.setdefault(name, {}).update({key: change.value for key, change in runtime[name].fields.items()})
    defaults = [name for name, profile in found.items() if profile.get("default") is True]
    if len(defaults) > 1:
        # Only a later inventory can bring this about, and it wins.
        first = next((name for name in defaults if inventory.get(name, {}).get("default") is True), defaults[0])
        for name in defaults:
            found[name]["default"] = name == first
    return found


def words(fault: Fault) -> str:
    """A fault in one line: the field, its value, what is wrong, and what is legal."""
    value = "" if fault.value is None else f" is {fault.value!r:.200}"
    return f"{fault.path}{value}: {fault.message}" + (f" Legal: {fault.legal}" if fault.legal else "")


def changed(
    runtime: Runtime, inventory: Inventory, world: World, name: str, values: object, *, how: str, by: str, at: int
) -> dict[str, Entry]:
    """The changes with those of one more request. Raises ProfileRefused, and then nothing is to be changed.

    ``how`` is ``create`` (the profile must not be there yet), ``change`` (it must be; fields that are not named stay as they are) or
    ``replace`` (all earlier changes are dropped). A value of None drops the change of its field.
    """
    path = f"profiles.{name}"
    if not NAME.fullmatch(name):
        raise ProfileRefused("bad", f"{name!r:.80} is not a name for a profile. Legal: {NAME_LEGAL}")
    if not isinstance(values, Mapping):
        raise ProfileRefused("bad", f"{path} is {values!r:.80}. Legal: an object with fields: {', '.join(PROFILE)}")
    try:
        size = len(json.dumps(values, ensure_ascii=False).encode())
    except (UnicodeEncodeError, TypeError, ValueError):
        raise ProfileRefused("bad", f"{path} has a text that is no Unicode. Legal: text in UTF-8") from None
    if size > CHANGE_LIMIT:
        raise ProfileRefused("bad", f"{path} has {size} bytes. Legal: at most {CHANGE_LIMIT // 1024} KiB")
    before = runtime.get(name)
    there = name in inventory or bool(before and before.created)
    if how == "create" and there:
        raise ProfileRefused("there", f"There is a profile {name} already; change it, or take another name.")
    if how == "change" and not there:
        raise ProfileRefused("missing", f"There is no profile {name}; there is {listed([*inventory, *runtime])}.")
    own, old = _own(inventory, name), dict(before.fields) if before else {}
    new = dict(old) if how == "change" else {}
    for key, value in values.items():
        if str(key) not in PROFILE:
            raise ProfileRefused("bad", words(next(check_options(path, {str(key): value}, PROFILE))))
        if value is None or (key in own and own[key] == value and type(own[key]) is type(value)):
            new.pop(str(key), None)
        else:
            same = key in old and old[key].value == value and type(old[key].value) is type(value)
            new[str(key)] = old[key] if same else Change(value, by, at)
    result = {each: entry for each, entry in runtime.items() if each != name}
    if new or name not in inventory:
        result[name] = Entry(name not in inventory, new)
    profile = {**own, **{key: change.value for key, change in new.items()}}
    others = {other: entry for other, entry in merged(inventory, runtime).items() if other != name}
    faults = [*profile_faults(path, profile, world), *title_faults(path, profile, others)]
    taken = [other for other, entry in others.items() if entry.get("default") is True]
    if profile.get("default") is True and taken:
        message = f"{taken[0]} is the default profile, and there is one."
        faults.append(Fault(f"{path}.default", True, message, f"default: true after default: false on {taken[0]}"))
    if faults:
        raise ProfileRefused("bad", " ".join(dict.fromkeys(words(fault) for fault in faults)))
    return result


def deleted(runtime: Runtime, inventory: Inventory, name: str) -> dict[str, Entry]:
    """The changes without a profile that was made at runtime. Raises ProfileRefused."""
    if name in inventory:
        message = f"{name} is in the inventory, so it cannot be deleted at runtime: change it, or take it out of metalhub_profiles."
        raise ProfileRefused("there", message)
    if name not in runtime or not runtime[name].created:
        raise ProfileRefused("missing", f"There is no profile {name}; there is {listed([*inventory, *runtime])}.")
    return {each: entry for each, entry in runtime.items() if each != name}


@dataclass(frozen=True)
class Difference:
    """A field that holds another value than the inventory gives. ``own``: the inventory sets it, to ``inventory``.

    ``stays``: the next converge leaves it.
    """

    profile: str
    field: str
    change: Change
    inventory: object
    own: bool
    stays: bool


def differences(inventory: Inventory, runtime: Runtime) -> list[Difference]:
    """What is other than in the inventory that the next converge brings, and what that does with each."""
    found = []
    for name in sorted(runtime):
        own = _own(inventory, name)
        gone = name not in inventory and not runtime[name].created
        for key, change in runtime[name].fields.items():
            found.append(Difference(name, key, change, own.get(key), key in own, not gone and key not in own))
    return found


def converged(inventory: Inventory, runtime: Runtime) -> tuple[dict[str, Entry], list[Difference]]:
    """The changes that a converge with this inventory leaves, and those that it drops."""
    dropped = [each for each in differences(inventory, runtime) if not each.stays]
    gone = {(each.profile, each.field) for each in dropped}
    left = {}
    for name, entry in runtime.items():
        fields = {key: change for key, change in entry.fields.items() if (name, key) not in gone}
        created = entry.created and name not in inventory
        if fields or created:
            left[name] = replace(entry, created=created, fields=fields)
    return left, dropped


def plain_runtime(runtime: Runtime) -> dict[str, object]:
    """The changes as JSON takes them."""
    return {
        name: {
            "created": entry.created,
            "fields": {key: {"value": change.value, "by": change.by, "at": change.at} for key, change in sorted(entry.fields.items())},
        }
        for name, entry in sorted(runtime.items())
    }


def read_runtime(data: object) -> dict[str, Entry]:
    """The changes out of what ``plain_runtime`` gave. Raises ValueError for anything else."""
    found = {}
    try:
        for name, entry in data.items():  # type: ignore[attr-defined]
            fields = {str(key): Change(each["value"], str(each["by"]), int(each["at"])) for key, each in entry["fields"].items()}
            found[str(name)] = Entry(bool(entry["created"]), fields)
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(f"these are no changes of profiles: {error!r}") from None
    return found
