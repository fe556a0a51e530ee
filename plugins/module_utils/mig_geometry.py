"""What fits on a GPU: MIG profiles, where they may start, and which layouts are legal.

The tables restate NVIDIA's MIG user guide (R580), the counts in NVIDIA/mig-parted's default configuration and the placements in
NVIDIA/open-gpu-kernel-modules. What a driver prints itself wins over them: build the model with ``Model.from_driver``.
"""

from __future__ import annotations

import dataclasses
import difflib
import functools
import re
import typing as t

NVIDIA_VENDOR = 0x10DE

_NAME = re.compile(r"(?P<compute>\d+)g\.(?P<memory>\d+)gb(?P<attributes>(?:[+-][a-z]+(?:\.[a-z]+)*)*)", re.ASCII)
_DEVICE = re.compile(r"(?:0x)?([0-9a-f]{4}|[0-9a-f]{8})", re.ASCII | re.IGNORECASE)


@dataclasses.dataclass(frozen=True)
class Profile:
    """A kind of GPU instance on one model.

    ``slots`` are memory slots, ``compute`` compute slices, ``max_count`` the most of it on one GPU, ``starts`` the memory slots at
    which one may begin. ``driver_id`` is the driver's number, which differs between models: for reading its output, never a key.
    ``aliases`` are other names that drivers gave the same profile, by rounding its memory.
    """

    name: str
    slots: int
    compute: int
    max_count: int
    starts: tuple[int, ...]
    driver_id: int | None = None
    aliases: tuple[str, ...] = ()

    @property
    def attributes(self) -> tuple[str, ...]:
        """What the name adds to the size, signs included: ``("+me",)`` of 1g.10gb+me, none of 1g.10gb."""
        match = _NAME.fullmatch(self.name)
        return tuple(re.findall(r"[+-][a-z.]+", match["attributes"])) if match else ()

    @classmethod
    def from_driver(cls, name: str, driver_id: int, max_count: int, starts: t.Iterable[int], slots: int) -> Profile:
        """A profile as ``nvidia-smi mig -lgip`` (name, id, total) and ``-lgipp`` (starts, size) list it.

        The compute slices are in the name. Raises ValueError for a name or numbers that no driver prints.
        """
        text = name.removeprefix("MIG ").strip()
        match = _NAME.fullmatch(text)
        if match is None:
            raise ValueError(f"{name!r} is not a MIG profile: write it as nvidia-smi does, such as 1g.10gb or 1g.10gb+me")
        begin = tuple(sorted(set(starts)))
        if max_count < 1 or slots < 1 or not begin or begin[0] < 0:
            raise ValueError(f"profile {text}: at most {max_count}, of {slots} memory slots, at {list(begin)}, is not a driver's line")
        return cls(text, slots, int(match["compute"]), max_count, begin, driver_id)


@dataclasses.dataclass(frozen=True, order=True)
class Placement:
    """An instance in a layout: the memory slot it starts at and its profile's name."""

    start: int
    profile: str

    def __str__(self) -> str:
        return f"{self.profile}@{self.start}"


@dataclasses.dataclass(frozen=True)
class Model:
    """A GPU model: its memory slots, compute slices and profiles.

    ``device_ids`` are PCI device ids. ``needs_reset`` says that switching the MIG mode takes a reset of the GPU (Ampere). ``inferred``
    says that the placements were concluded from equal counts on a sister model, so the driver's list should be preferred.
    """

    name: str
    device_ids: tuple[int, ...]
    slots: int
    compute: int
    profiles: tuple[Profile, ...]
    needs_reset: bool = False
    inferred: bool = False

    def __hash__(self) -> int:
        # Models are keys of caches; hashing every profile would cost more than what is cached.
        return hash((self.name, self.slots, self.compute, len(self.profiles)))

    def profile(self, name: str) -> Profile:
        """The profile of a name, or of a name that a driver rounded otherwise (by table). Raises ValueError with what there is."""
        for profile in self.profiles:
            if name == profile.name or name in profile.aliases:
                return profile
        names = [profile.name for profile in self.profiles]
        raise ValueError(f"{name!r} is not a profile of {self.name}{_nearest(name, names)}: it has {', '.join(names)}")

    @classmethod
    def from_driver(cls, name: str, profiles: t.Iterable[Profile], device_ids: t.Iterable[int] = (), needs_reset: bool = False) -> Model:
        """A model as its own driver lists it.

        The GPU is as large as the furthest placement and the largest profile. The table's names for a profile of its device are aliases
        of the driver's, which rounds some sizes otherwise. Raises ValueError where the list is empty or names a profile twice.
        """
        listed, devices = tuple(profiles), tuple(device_ids)
        if not listed:
            raise ValueError(f"the driver lists no MIG profile for {name}: its MIG mode or the GPU does not support instances")
        names = [profile.name for profile in listed]
        for twice in names:
            if names.count(twice) > 1:
                raise ValueError(f"the driver's list for {name} names {twice} twice")
        slots = max(profile.starts[-1] + profile.slots for profile in listed)
        table = [each for device in devices if device in _BY_DEVICE for each in _BY_DEVICE[device].profiles]
        aliased = tuple(dataclasses.replace(profile, aliases=_aliases(profile, table, names)) for profile in listed)
        return cls(name, devices, slots, max(profile.compute for profile in listed), aliased, needs_reset)


def _aliases(profile: Profile, table: t.Iterable[Profile], taken: t.Sequence[str]) -> tuple[str, ...]:
    shape = profile.compute, profile.slots, profile.attributes
    same = (each for each in table if (each.compute, each.slots, each.attributes) == shape)
    return tuple(sorted({name for each in same for name in (each.name, *each.aliases)}.difference(taken)))


def _nearest(name: str, names: t.Sequence[str]) -> str:
    """`` (nearest: x)`` for a message, empty where nothing is close."""
    close = difflib.get_close_matches(name, names, 1, 0.6)
    return f" (nearest: {close[0]})" if close else ""


def _seven(small: int, double: int, half: int, full: int, aliases: t.Mapping[str, tuple[str, ...]]) -> tuple[Profile, ...]:
    """The profiles of the family with 8 memory slots and 7 compute slices; the arguments are the gigabytes in the names."""
    rows = (
        (f"1g.{small}gb", 1, 1, 7, range(7), 19),
        (f"1g.{small}gb+me", 1, 1, 1, range(7), 20),
        (f"1g.{double}gb", 2, 1, 4, (0, 2, 4, 6), 15),
        (f"2g.{double}gb", 2, 2, 3, (0, 2, 4), 14),
        (f"3g.{half}gb", 4, 3, 2, (0, 4), 9),
        (f"4g.{half}gb", 4, 4, 1, (0,), 5),
        (f"7g.{full}gb", 8, 7, 1, (0,), 0),
    )
    return tuple(
        Profile(name, slots, compute, most, tuple(starts), driver_id, aliases.get(name, ()))
        for name, slots, compute, most, starts, driver_id in rows
    )


def _seven_model(
    name: str,
    device_ids: tuple[int, ...],
    memory: tuple[int, int, int, int],
    *,
    needs_reset: bool = False,
    inferred: bool = False,
    aliases: t.Mapping[str, tuple[str, ...]] | None = None,
) -> Model:
    return Model(name, device_ids, 8, 7, _seven(*memory, aliases or {}), needs_reset, inferred)


_80 = (10, 20, 40, 80)
# Some drivers round 39.5 and 79.25 GiB down.
_80_ALIASES = {"3g.40gb": ("3g.39gb",), "7g.80gb": ("7g.79gb",)}
_THREES = (0, 3, 6, 9)

# A model's number is the gigabytes in the name of its largest profile.
MODELS: tuple[Model, ...] = (
    Model(
        "A30-24GB",
        (0x20B7,),
        4,
        4,
        (
            Profile("1g.6gb", 1, 1, 4, (0, 1, 2, 3), 14),
            Profile("1g.6gb+me", 1, 1, 1, (0, 1, 2, 3), 21),
            Profile("2g.12gb", 2, 2, 2, (0, 2), 5),
            Profile("2g.12gb+me", 2, 2, 1, (0, 2), 6),
            Profile("4g.24gb", 4, 4, 1, (0,), 0),
        ),
        needs_reset=True,
    ),
    _seven_model("A100-40GB", (0x20B0, 0x20B1, 0x20F1), (5, 10, 20, 40), needs_reset=True),
    _seven_model("A800-40GB", (0x20F6,), (5, 10, 20, 40), needs_reset=True),
    _seven_model("A100-80GB", (0x20B2, 0x20B5), _80, needs_reset=True, aliases=_80_ALIASES),
    _seven_model("A800-80GB", (0x20F3, 0x20F5), _80, needs_reset=True, aliases=_80_ALIASES),
    _seven_model("H100-80GB", (0x2330, 0x2331), _80, aliases=_80_ALIASES),
    _seven_model("H800-80GB", (0x2322, 0x2324), _80, aliases=_80_ALIASES),
    _seven_model("H100-94GB", (0x2321,), (12, 24, 47, 94)),
    _seven_model("H800-94GB", (0x233A,), (12, 24, 47, 94)),
    _seven_model("H100-96GB", (0x233D,), (12, 24, 48, 96)),
    _seven_model("GH200-96GB", (0x2342,), (12, 24, 48, 96)),
    _seven_model("H20-96GB", (0x2329,), (12, 24, 48, 96)),
    _seven_model("H200-141GB", (0x2335, 0x233B), (18, 35, 71, 141), inferred=True),
    _seven_model("GH200-144GB", (0x2348,), (18, 36, 72, 144), inferred=True),
    _seven_model("B200-180GB", (0x2901,), (23, 45, 90, 180), inferred=True),
    _seven_model(
        "GB200-186GB",
        (0x2941,),
        (23, 47, 93, 186),
        inferred=True,
        aliases={"1g.23gb": ("1g.24gb",), "1g.23gb+me": ("1g.24gb+me",)},
    ),
    _seven_model("B300-269GB", (0x3182,), (34, 67, 135, 269), inferred=True),
    _seven_model("GB300-278GB", (0x31C2,), (35, 70, 139, 278), inferred=True),
    Model(
        "RTX-PRO-6000-96GB",
        (0x2BB5, 0x2BB1, 0x2BB4),
        12,
        4,
        (
            Profile("1g.24gb", 3, 1, 4, _THREES, 14),
            Profile("1g.24gb+me", 3, 1, 1, _THREES, 21),
            Profile("1g.24gb+gfx", 3, 1, 4, _THREES, 47),
            Profile("2g.48gb", 6, 2, 2, (0, 6), 5),
            Profile("2g.48gb+gfx", 6, 2, 2, (0, 6), 35),
            Profile("4g.96gb", 12, 4, 1, (0,), 0),
            Profile("4g.96gb+gfx", 12, 4, 1, (0,), 32),
        ),
    ),
)

_BY_NAME = {each.name: each for each in MODELS}
_BY_DEVICE = {device: each for each in MODELS for device in each.device_ids}


def device_id(value: int | str) -> int | None:
    """A PCI device id from ``0x2330``, ``2330``, the number, or with NVIDIA's vendor id behind it (``0x233010DE``); else None."""
    if isinstance(value, bool):
        return None
    if isinstance(value, str):
        match = _DEVICE.fullmatch(value.strip())
        if match is None:
            return None
        value = int(match[1], 16)
    if value > 0xFFFF:
        value, vendor = divmod(value, 0x10000)
        if vendor != NVIDIA_VENDOR:
            return None
    return value if 0 <= value <= 0xFFFF else None


def model(device_id_or_name: int | str) -> Model:
    """The model of a PCI device id (any form of ``device_id``) or of a name such as H100-80GB.

    Raises ValueError with the nearest and all legal names for anything else.
    """
    if isinstance(device_id_or_name, str) and device_id_or_name in _BY_NAME:
        return _BY_NAME[device_id_or_name]
    device = device_id(device_id_or_name)
    if device is not None:
        if device in _BY_DEVICE:
            return _BY_DEVICE[device]
        raise ValueError(
            f"device id 0x{device:04X} is not a GPU with MIG that is known here: name its model ({', '.join(_BY_NAME)}) "
            "or give the profiles that its driver lists"
        )
    near = _nearest(str(device_id_or_name), list(_BY_NAME))
    legal_names = f"one of {', '.join(_BY_NAME)}, or a device id such as 0x2330"
    raise ValueError(f"{device_id_or_name!r} is not a GPU model with MIG{near}: write {legal_names}")


def table_name(devices: t.Iterable[int], profile: str) -> str:
    """What the table calls a profile of one of these PCI device ids that a driver may round otherwise; itself where no table has it."""
    for device in devices:
        for each in _BY_DEVICE[device].profiles if device in _BY_DEVICE else ():
            if profile in (each.name, *each.aliases):
                return each.name
    return profile


def why_illegal(which: Model, placements: t.Iterable[Placement]) -> str | None:
    """What forbids a layout, in words; None where it is legal.

    Checked in this order: the profile exists, its start is one of its own, no memory slot is used twice, no more of a profile than
    its most, one instance with media extensions a GPU, and the compute slices.
    """
    owner: dict[int, Placement] = {}
    counts: dict[str, int] = {}
    compute = 0
    layout = sorted(placements)
    profiles = []
    for placement in layout:
        try:
            profile = which.profile(placement.profile)
        except ValueError as error:
            return str(error)
        if placement.start not in profile.starts:
            return f"{profile.name} cannot start at {placement.start} on {which.name}: it starts at {_list(profile.starts)}"
        for slot in range(placement.start, placement.start + profile.slots):
            if slot in owner:
                return f"{placement} and {owner[slot]} overlap in memory slot {slot} of {which.name}"
            owner[slot] = placement
        profiles.append(profile)
        compute += profile.compute
        counts[profile.name] = counts.get(profile.name, 0) + 1
    for profile in profiles:
        if counts[profile.name] > profile.max_count:
            return f"{counts[profile.name]} of {profile.name} are more than the {profile.max_count} that {which.name} can have"
    media = [profile.name for profile in profiles if "+me" in profile.attributes or "+me.all" in profile.attributes]
    if len(media) > 1:
        return f"{' and '.join(media)} both need the media extensions, and {which.name} gives them to one instance"
    if any("+me.all" in profile.attributes for profile in profiles):
        rest = [profile.name for profile in profiles if not {"+me.all", "-me"} & set(profile.attributes)]
        if rest:
            return f"{media[0]} takes all media engines of {which.name}, and {rest[0]} needs some"
    if compute > which.compute:
        return f"the layout needs {compute} compute slices and {which.name} has {which.compute}"
    return None


def legal(which: Model, placements: t.Iterable[Placement]) -> bool:
    """Whether a layout can be on a GPU; ``why_illegal`` says why not."""
    return why_illegal(which, placements) is None


def _list(numbers: t.Sequence[int]) -> str:
    """``0``, ``0 or 4``, ``0, 2 or 4``."""
    words = [str(number) for number in numbers]
    return " or ".join([", ".join(words[:-1]), words[-1]]) if len(words) > 1 else words[0]


@functools.lru_cache(maxsize=64)
def all_layouts(which: Model) -> tuple[tuple[Placement, ...], ...]:
    """Every legal layout, the empty one first. Each is sorted by its starts; a few thousand at most."""
    found: list[tuple[Placement, ...]] = [()]
    options = sorted(Placement(start, profile.name) for profile in which.profiles for start in profile.starts)
    level: list[tuple[int, tuple[Placement, ...]]] = [(0, ())]
    while level:
        following = []
        for first, layout in level:
            for index in range(first, len(options)):
                larger = (*layout, options[index])
                if legal(which, larger):
                    following.append((index + 1, larger))
        found.extend(layout for _, layout in following)
        level = following
    return tuple(found)


@functools.lru_cache(maxsize=64)
def maximal_layouts(which: Model) -> tuple[tuple[Placement, ...], ...]:
    """The legal layouts to which no instance can be added, sorted: larger instances first, then by place."""
    layouts = all_layouts(which)
    contained = {smaller for layout in layouts for smaller in (layout[:i] + layout[i + 1 :] for i in range(len(layout)))}
    size = {profile.name: (profile.compute, profile.slots) for profile in which.profiles}
    return tuple(
        sorted((layout for layout in layouts if layout not in contained), key=lambda layout: ([(-size[p.profile][0], p) for p in layout]))
    )
