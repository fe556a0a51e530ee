"""What `nvidia-smi` prints about GPUs and their MIG instances, read.

No single command tells all: `-q -x` has the modes, the processes and which MIG device is which instance, `mig -lgi` the placements and
`-L` the UUIDs of the devices. The listings have orders of their own (`-lgi` by profile, `-L` by instance id), so they are joined by the
ids that `-q -x` gives for each device, never by position.
"""

from __future__ import annotations

import dataclasses
import re
import typing as t
import xml.etree.ElementTree as xml

from .docker_config import DISPATCHER
from .mig_geometry import Model, Profile, device_id
from .mig_geometry import model as known_model

# Runs a command and returns its exit status and its output, both streams in one.
Runner = t.Callable[[t.Sequence[str]], tuple[int, str]]

SMI = "nvidia-smi"
# The first drivers with a start in `-cgi` and with UUIDs of MIG devices.
LEAST_DRIVER = 470

_ROW = re.compile(r"\|\s*(\d+)\s+MIG (\S+)\s+(\d+)\s+(\d+)\s+(\d+):(\d+)\s*\|")
_PROFILE_ROW = re.compile(r"\|\s*(\d+)\s+MIG (\S+)\s+(\d+)\s+(\d+)/(\d+)\s")
_PLACEMENT = re.compile(r"GPU\s+(\d+)\s+Profile ID\s+(\d+)\s+Placements?\s*:\s*\{([\d,]+)\}:(\d+)")
_GPU = re.compile(r"GPU (\d+): .*\(UUID: (GPU-[^)]+)\)")
_DEVICE = re.compile(r"\s+MIG (\S+)\s+Device\s+(\d+):\s+\(UUID: (MIG-[^)]+)\)")
# The name of a process is printed as it is, with what XML does not allow (common-workflow-language/cwltool#1910), and some drivers
# print the clocks with tags that do not match (lollipopkit/flutter_server_box#286).
_NO_XML = re.compile(r"<process_name>.*?</process_name>(?=\s*<used_memory>)|<supported_clocks>.*?</supported_clocks>", re.DOTALL)
_PARTIAL = re.compile(r"\d+c\.")
_CDI = "nvidia.com/gpu="
_RESOURCE = re.compile(r"DOCKER_RESOURCE_[A-Z0-9_]+|NVIDIA_VISIBLE_DEVICES")


class SmiError(Exception):
    """`nvidia-smi` failed, or printed what cannot be read. The message has the command and what it said."""


@dataclasses.dataclass(frozen=True)
class Instance:
    """A GPU instance: its profile as the driver names it, its place in memory slots, and what is in it.

    ``uuids`` and ``numbers`` are those of its MIG devices, one for each compute instance, and ``whole`` says that there is exactly one,
    of the whole instance, as a session needs it. ``pids`` are processes on it, ``containers`` the names of those that were given it.
    """

    id: int
    profile: str
    start: int
    size: int
    uuids: tuple[str, ...] = ()
    numbers: tuple[int, ...] = ()
    whole: bool = False
    pids: tuple[int, ...] = ()
    containers: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether somebody has it."""
        return bool(self.pids or self.containers)

    @property
    def uuid(self) -> str:
        """The UUID of its device, empty where it has none."""
        return self.uuids[0] if self.uuids else ""

    def __str__(self) -> str:
        return f"{self.profile}@{self.start}"


@dataclasses.dataclass(frozen=True)
class Gpu:
    """A GPU. ``mode`` and ``pending`` are whether MIG is on now and after the next reset, None where the GPU has no MIG.

    ``pids`` and ``containers`` are of those on the GPU itself, not on an instance of it.
    """

    index: int
    uuid: str
    name: str
    architecture: str
    bus_id: str
    device_id: int
    driver: str
    mode: bool | None
    pending: bool | None
    instances: tuple[Instance, ...] = ()
    pids: tuple[int, ...] = ()
    containers: tuple[str, ...] = ()

    @property
    def busy(self) -> bool:
        """Whether somebody has the GPU or an instance of it."""
        return bool(self.pids or self.containers or any(instance.busy for instance in self.instances))

    @property
    def needs_reset(self) -> bool:
        """Whether switching the MIG mode takes a reset (Ampere)."""
        return self.architecture == "Ampere"


def read(run: Runner) -> tuple[Gpu, ...]:
    """Read all GPUs and their instances. Raises SmiError, also for a driver that is too old for explicit starts."""
    gpus, devices = parse_xml(_ask(run, "-q", "-x"))
    for gpu in gpus:
        if gpu.mode is not None and int(gpu.driver.partition(".")[0]) < LEAST_DRIVER:
            raise SmiError(f"the NVIDIA driver is {gpu.driver}; MIG instances at a chosen place need {LEAST_DRIVER} or newer")
    found: dict[int, list[Instance]] = {}
    if any(gpu.mode for gpu in gpus):
        status, text = run([SMI, "mig", "-lgi"])
        if status == 0:
            found = parse_instances(text)
        elif "No GPU instances found" not in text and "No MIG-enabled devices found" not in text:
            raise SmiError(f"{SMI} mig -lgi failed: {text.strip()}")
    # Half a view is none: what is not seen would be taken for free.
    for gpu in gpus:
        known = {instance.id for instance in found.get(gpu.index, ())}
        if missing := {owner for owner, _ in devices[gpu.uuid].values()} - known:
            raise SmiError(f"{SMI} -q -x has GPU instances {sorted(missing)} on GPU {gpu.index}, and mig -lgi does not list them")
    uuids = parse_list(_ask(run, "-L")) if found else {}
    return tuple(dataclasses.replace(gpu, instances=_join(gpu, found, devices, uuids)) for gpu in gpus)


def _join(
    gpu: Gpu,
    found: t.Mapping[int, t.Sequence[Instance]],
    devices: t.Mapping[str, t.Mapping[int, tuple[int, int]]],
    uuids: t.Mapping[str, t.Mapping[int, tuple[str, str]]],
) -> tuple[Instance, ...]:
    """Give each instance of a GPU its devices and processes, sorted by place."""
    processes = {instance.id: instance.pids for instance in gpu.instances}
    joined = []
    for instance in found.get(gpu.index, ()):
        mine = [number for number, (owner, _) in sorted(devices.get(gpu.uuid, {}).items()) if owner == instance.id]
        named = [uuids.get(gpu.uuid, {}).get(number, ("", "")) for number in mine]
        joined.append(
            dataclasses.replace(
                instance,
                uuids=tuple(uuid for uuid, _ in named if uuid),
                numbers=tuple(mine),
                whole=len(named) == 1 and bool(named[0][0]) and not _PARTIAL.match(named[0][1]),
                pids=processes.get(instance.id, ()),
            )
        )
    return tuple(sorted(joined, key=lambda instance: instance.start))


def _ask(run: Runner, *words: str) -> str:
    status, text = run([SMI, *words])
    if status:
        raise SmiError(f"{' '.join([SMI, *words])} failed: {text.strip()}")
    return text


def parse_xml(text: str) -> tuple[tuple[Gpu, ...], dict[str, dict[int, tuple[int, int]]]]:
    """Read `nvidia-smi -q -x`: the GPUs, and by GPU and number of a MIG device the ids of its GPU and compute instance.

    The GPUs' instances have only their ids and processes here. Raises SmiError.
    """
    try:
        root = xml.fromstring(_NO_XML.sub("", text))
    except xml.ParseError as error:
        raise SmiError(f"{SMI} -q -x printed no XML ({error}): {text[:200]!r}") from error
    driver = (root.findtext("driver_version") or "").strip()
    gpus, devices = [], {}
    for index, node in enumerate(root.findall("gpu")):
        uuid = _text(node, "uuid")
        number = device_id(_text(node, "pci/pci_device_id"))
        if not uuid or number is None or not driver[:1].isdigit():
            raise SmiError(f"{SMI} -q -x has no UUID, PCI device id or driver version for GPU {index}")
        processes: dict[int | None, list[int]] = {}
        for process in node.iterfind("processes/process_info"):
            owner, pid = _text(process, "gpu_instance_id"), _text(process, "pid")
            if pid.isdigit():
                processes.setdefault(int(owner) if owner.isdigit() else None, []).append(int(pid))
        gpus.append(
            Gpu(
                index,
                uuid,
                _text(node, "product_name"),
                _text(node, "product_architecture"),
                _text(node, "pci/pci_bus_id"),
                number,
                driver,
                _mode(node, "current_mig"),
                _mode(node, "pending_mig"),
                tuple(Instance(owner, "", 0, 0, pids=tuple(sorted(pids))) for owner, pids in processes.items() if owner is not None),
                tuple(sorted(processes.get(None, ()))),
            )
        )
        devices[uuid] = {
            _number(device, "index"): (_number(device, "gpu_instance_id"), _number(device, "compute_instance_id"))
            for device in node.iterfind("mig_devices/mig_device")
        }
    return tuple(gpus), devices


def _text(node: xml.Element, path: str) -> str:
    return (node.findtext(path) or "").strip()


def _number(node: xml.Element, path: str) -> int:
    text = _text(node, path)
    if not text.isdigit():
        raise SmiError(f"{SMI} -q -x has a MIG device whose {path} is {text!r}")
    return int(text)


def _mode(node: xml.Element, name: str) -> bool | None:
    return {"Enabled": True, "Disabled": False}.get(_text(node, f"mig_mode/{name}"))


def parse_instances(text: str) -> dict[int, list[Instance]]:
    """Read `nvidia-smi mig -lgi`: by the GPU's index its instances. Raises SmiError for a table without any."""
    found: dict[int, list[Instance]] = {}
    for line in text.splitlines():
        if match := _ROW.match(line):
            gpu, profile, _, number, start, size = match.groups()
            found.setdefault(int(gpu), []).append(Instance(int(number), profile, int(start), int(size)))
    if not found:
        raise SmiError(f"{SMI} mig -lgi printed no table of instances: {text[:200]!r}")
    return found


def parse_list(text: str) -> dict[str, dict[int, tuple[str, str]]]:
    """Read `nvidia-smi -L`: by the GPU's UUID and the device's number its UUID and the name of its compute instance."""
    found: dict[str, dict[int, tuple[str, str]]] = {}
    devices: dict[int, tuple[str, str]] = {}
    for line in text.splitlines():
        if match := _GPU.match(line):
            devices = found.setdefault(match[2], {})
        elif match := _DEVICE.match(line):
            devices[int(match[2])] = (match[3], match[1])
    return found


def parse_profiles(profiles: str, placements: str) -> dict[int, list[Profile]]:
    """Read `nvidia-smi mig -lgip` and `-lgipp`: by the GPU's index its profiles. One without a placement is left out."""
    places = {
        (int(match[1]), int(match[2])): ([int(start) for start in match[3].split(",")], int(match[4]))
        for match in map(_PLACEMENT.match, placements.splitlines())
        if match
    }
    found: dict[int, list[Profile]] = {}
    for line in profiles.splitlines():
        if match := _PROFILE_ROW.match(line):
            gpu, number = int(match[1]), int(match[3])
            if (gpu, number) in places:
                starts, size = places[gpu, number]
                found.setdefault(gpu, []).append(Profile.from_driver(match[2], number, int(match[5]), starts, size))
    return found


def models(run: Runner, gpus: t.Iterable[Gpu]) -> dict[str, Model]:
    """The model of each GPU with MIG, by UUID: as its driver lists it, and from the table where the driver lists nothing.

    Older drivers list nothing for a GPU whose MIG is off; what they list for another one of its kind is true of it, too.
    Raises SmiError for a GPU that neither knows.
    """
    capable = [gpu for gpu in gpus if gpu.mode is not None]
    if not capable:
        return {}
    (status, profiles), (other, placements) = run([SMI, "mig", "-lgip"]), run([SMI, "mig", "-lgipp"])
    try:
        listed = {} if status or other else parse_profiles(profiles, placements)
    except ValueError as error:
        raise SmiError(f"{SMI} mig -lgip cannot be read: {error}") from error
    kinds = {gpu.device_id: listed[gpu.index] for gpu in capable if gpu.index in listed}
    found = {}
    for gpu in capable:
        try:
            if ours := listed.get(gpu.index) or kinds.get(gpu.device_id):
                found[gpu.uuid] = Model.from_driver(_model_name(gpu), ours, (gpu.device_id,), gpu.needs_reset)
            else:
                found[gpu.uuid] = known_model(gpu.device_id)
        except ValueError as error:
            raise SmiError(f"GPU {gpu.index} ({gpu.name}): {error}") from error
    return found


def _model_name(gpu: Gpu) -> str:
    """As the table calls it, since a request may name it, or else as the driver does."""
    try:
        return known_model(gpu.device_id).name
    except ValueError:
        return gpu.name


def held_devices(container: t.Mapping[str, t.Any]) -> frozenset[str]:
    """What a container, as the engine's inspection shows it, was given: UUIDs, `0`, `0:1` (GPU and MIG device), or `all`."""
    host = container.get("HostConfig") or {}
    environment = dict(line.partition("=")[::2] for line in (container.get("Config") or {}).get("Env") or [])
    found = {name for variable, value in environment.items() if _RESOURCE.fullmatch(variable) for name in value.split(",")}
    # Only NVIDIA's runtime reads the variable; a session in another one that asks for all gets none.
    runtime = str(host.get("Runtime") or "")
    if not (environment.get("METALHUB_SANDBOX", "") if runtime == DISPATCHER else runtime).startswith("nvidia"):
        found -= {"all", _CDI + "all"}
    for request in host.get("DeviceRequests") or []:
        found.update(str(name) for name in request.get("DeviceIDs") or [])
        count = request.get("Count") or 0
        # A number of GPUs is the first ones (moby/moby, daemon/nvidia_linux.go).
        found.update({"all"} if count < 0 else map(str, range(count)))
    return frozenset({name.removeprefix(_CDI) for name in found} - {"", "void", "none"})


def with_containers(gpus: t.Sequence[Gpu], containers: t.Mapping[str, frozenset[str]]) -> tuple[Gpu, ...]:
    """Mark what containers have been given: ``containers`` is by name what ``held_devices`` says of each that is not gone."""
    marked = []
    for gpu in gpus:
        instances = []
        for instance in gpu.instances:
            # Whoever was given the GPU may have any instance of it.
            names = {"all", gpu.uuid, str(gpu.index), *instance.uuids, *(f"{gpu.index}:{number}" for number in instance.numbers)}
            instances.append(dataclasses.replace(instance, containers=_having(containers, names)))
        whole = {gpu.uuid, str(gpu.index)} | (set() if gpu.mode else {"all"})
        marked.append(dataclasses.replace(gpu, instances=tuple(instances), containers=_having(containers, whole)))
    return tuple(marked)


def without_containers(gpus: t.Iterable[Gpu], names: t.Collection[str]) -> tuple[Gpu, ...]:
    """The GPUs as they would be without these containers and the processes in them.

    Which process is in which container is not asked: those on what only these containers have are taken for theirs.
    """
    return tuple(
        dataclasses.replace(_left(gpu, names), instances=tuple(_left(instance, names) for instance in gpu.instances)) for gpu in gpus
    )


_Holder = t.TypeVar("_Holder", Gpu, Instance)


def _left(holder: _Holder, names: t.Collection[str]) -> _Holder:
    rest = tuple(name for name in holder.containers if name not in names)
    return dataclasses.replace(holder, containers=rest, pids=holder.pids if rest == holder.containers or rest else ())


def _having(containers: t.Mapping[str, frozenset[str]], names: t.Iterable[str]) -> tuple[str, ...]:
    wanted = set(names)
    return tuple(sorted(name for name, held in containers.items() if held & wanted))
