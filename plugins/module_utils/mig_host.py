"""What a host keeps of its MIG layout: the files that say it, what Swarm is told, and the CDI specification.

The module and the boot unit share it. It runs on the host and, other than the rest of the core, touches files and starts commands.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
import re
import subprocess
import tempfile
import typing as t

from .docker_config import replace_fragment
from .engine_api import Engine, EngineError
from .mig_apply import Layout
from .mig_geometry import Placement, table_name
from .mig_resources import resource
from .mig_smi import Gpu, held_devices

_CDI_UNIT = "nvidia-cdi-refresh.service"
_UNIT_DIRECTORIES = ("/etc/systemd/system", "/run/systemd/system", "/usr/lib/systemd/system", "/lib/systemd/system")
_RESOURCES = "node-generic-resources"
_OURS = re.compile(r"(?:GPU=|MIG_[A-Z0-9_]+=)(?P<uuid>(?:GPU|MIG)-[0-9A-Fa-f-]+)")
# A reset or the first call after boot takes seconds on a machine with eight GPUs; a driver that hangs must not hang the boot.
_TIMEOUT = 300


@dataclasses.dataclass(frozen=True)
class Places:
    """Where the files are; an empty path is a file that is not kept.

    ``layout`` is the desired layout, ``docker`` the fragment of daemon.json, ``cdi`` the CDI specification and ``stamp`` what it was
    made for, which has to be gone after a boot, as the specification is.
    """

    layout: str = "/etc/metalhub/mig/layout.json"
    docker: str = "/etc/metalhub/docker.d/mig.json"
    cdi: str = "/var/run/cdi/nvidia.yaml"
    stamp: str = "/run/metalhub-mig/cdi"


def run(argv: t.Sequence[str]) -> tuple[int, str]:
    """Run a command: its exit status and both its streams. One that is missing or hangs has a status too, 127 or 124."""
    try:
        done = subprocess.run(
            list(argv), check=False, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, timeout=_TIMEOUT
        )
    except FileNotFoundError:
        return 127, f"{argv[0]}: not found"
    except subprocess.TimeoutExpired:
        return 124, f"{argv[0]} did not answer within {_TIMEOUT} s"
    # Names of processes are whatever their users like.
    return done.returncode, done.stdout.decode(errors="replace")


def containers(engine: Engine) -> tuple[dict[str, frozenset[str]], list[str]]:
    """By name what each running container was given, and the names of those that are sessions. Without an engine there are none.

    Raises EngineError for an engine that does not answer: that is no proof that nobody uses a GPU.
    """
    try:
        listed = engine.request("GET", "/containers/json")
    except EngineError as error:
        if isinstance(error.__cause__, (FileNotFoundError, ConnectionRefusedError)):
            return {}, []
        raise
    held, sessions = {}, []
    for each in listed:
        try:
            inspection = engine.request("GET", f"/containers/{each['Id']}/json")
        except EngineError as error:
            if error.status == 404:
                continue
            raise
        name = str(inspection["Name"]).lstrip("/")
        held[name] = held_devices(inspection)
        if "metalhub.session" in (inspection["Config"].get("Labels") or {}):
            sessions.append(name)
    return held, sorted(sessions)


# The desired layout as a file


def layout_document(layout: Layout, asked: t.Any) -> dict[str, t.Any]:
    """The desired layout as it is kept: by GPU its instances (null for MIG off), and what it was made from."""
    gpus = {
        uuid: None if places is None else [{"profile": each.profile, "start": each.start} for each in sorted(places)]
        for uuid, places in sorted(layout.items())
    }
    return {"version": 1, "gpus": gpus, "asked": asked}


def read_layout(path: str) -> tuple[dict[str, tuple[Placement, ...] | None], t.Any] | None:
    """Read a kept layout, None where there is no file. Raises ValueError for what is none of ours."""
    try:
        with open(path, encoding="utf-8") as stream:
            document = json.load(stream)
        gpus = {
            str(uuid): None if places is None else tuple(sorted(Placement(int(each["start"]), str(each["profile"])) for each in places))
            for uuid, places in document["gpus"].items()
        }
        asked = document["asked"]
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise ValueError(f"{path} is not a layout: {error!r}") from error
    if document.get("version") != 1:
        raise ValueError(f"{path} is a layout of version {document.get('version')!r}; known is 1")
    return gpus, asked


# What Swarm is told


def resources(gpus: t.Iterable[Gpu], whole: bool = True) -> list[str]:
    """Swarm's generic resources: a MIG device as its profile's kind, and with ``whole`` a GPU without MIG as GPU.

    The kind is that of the table's name, so that drivers which round it otherwise offer the same. A GPU whose mode is about to change,
    or an instance that is not one device, is nothing that a session could be given.
    """
    offered = []
    for gpu in gpus:
        if gpu.mode:
            offered += [resource(table_name([gpu.device_id], each.profile), each.uuid) for each in gpu.instances if each.whole]
        elif whole and not gpu.pending:
            offered.append(resource(None, gpu.uuid))
    return offered


def docker_fragment(slices: t.Sequence[str]) -> dict[str, list[str]]:
    """The fragment of daemon.json."""
    return {_RESOURCES: list(slices)} if slices else {}


def text(document: t.Any) -> str:
    """A document as the platform writes it: the same bytes, whoever writes it."""
    return json.dumps(document, indent=2, sort_keys=True) + "\n"


def read_json(path: str) -> t.Any:
    """Read a document, None where there is none that can be read."""
    try:
        with open(path, encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError):
        return None


def write(path: str, content: str, check_mode: bool = False) -> bool:
    """Write a file in one step, and its directory; whether it was different. Nothing is written for an empty path."""
    if not path:
        return False
    try:
        with open(path, encoding="utf-8") as stream:
            if stream.read() == content:
                return False
    except FileNotFoundError:
        pass
    if check_mode:
        return True
    directory = os.path.dirname(path)
    os.makedirs(directory, mode=0o755, exist_ok=True)
    handle, name = tempfile.mkstemp(prefix=f".{os.path.basename(path)}.", dir=directory)
    try:
        with os.fdopen(handle, "w", encoding="utf-8") as stream:
            stream.write(content)
            stream.flush()
            os.fsync(stream.fileno())
            os.fchmod(stream.fileno(), 0o644)
        os.replace(name, path)
    except BaseException:
        os.unlink(name)
        raise
    return True


def publish(gpus: t.Sequence[Gpu], places: Places, whole: bool, check_mode: bool = False) -> bool:
    """Write the fragment for what is there now; whether it was different."""
    return write(places.docker, text(docker_fragment(resources(gpus, whole))), check_mode)


def renew_daemon(daemon: t.Mapping[str, t.Any], before: t.Any, gpus: t.Sequence[Gpu], whole: bool) -> dict[str, t.Any]:
    """daemon.json with the resources that are there now in the place of those of the last fragment, as the next run would merge it.

    ``before`` is that fragment. Also gone are UUIDs of devices that this host no longer has: a run that was killed between the two files
    leaves such. Raises TypeError for a document that has another form.
    """
    slices = resources(gpus, whole)
    there = {gpu.uuid for gpu in gpus} | {uuid for gpu in gpus for each in gpu.instances for uuid in each.uuids}
    known = daemon.get(_RESOURCES, [])
    old = list((before or {}).get(_RESOURCES, []))
    if isinstance(known, list):
        old += [item for item in known if (match := _OURS.fullmatch(str(item))) and (item in slices or match["uuid"] not in there)]
    return replace_fragment(daemon, {_RESOURCES: old}, docker_fragment(slices))


# CDI


def _fingerprint(gpus: t.Iterable[Gpu]) -> str:
    seen = [(gpu.uuid, gpu.mode, [(each.id, each.profile, each.start, each.uuids) for each in gpu.instances]) for gpu in gpus]
    return hashlib.sha256(repr(seen).encode()).hexdigest() + "\n"


def cdi_stale(gpus: t.Iterable[Gpu], places: Places) -> bool:
    """Whether the CDI specification was made for other devices than those that are there now."""
    try:
        with open(places.stamp, encoding="utf-8") as stream:
            return stream.read() != _fingerprint(gpus) or not os.path.exists(places.cdi)
    except FileNotFoundError:
        return True


def refresh_cdi(
    gpus: t.Sequence[Gpu], places: Places, runner: t.Callable[[t.Sequence[str]], tuple[int, str]] = run, by_unit: bool = True
) -> str:
    """Make the CDI specification anew, by the toolkit's own unit where it has one; what went wrong, empty where nothing did.

    The toolkit does not notice a change of instances by itself. Without the toolkit there is nothing to refresh.
    """
    if by_unit and any(os.path.exists(os.path.join(directory, _CDI_UNIT)) for directory in _UNIT_DIRECTORIES):
        status, said = runner(["systemctl", "restart", _CDI_UNIT])
    else:
        status, said = runner(["nvidia-ctk", "cdi", "generate", f"--output={places.cdi}"])
        if status == 127:
            return ""
    if status:
        return f"the CDI specification could not be made: {' '.join(said.split())}"
    write(places.stamp, _fingerprint(gpus))
    return ""
