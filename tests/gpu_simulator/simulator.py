"""The MIG state of a driver without GPUs, in a JSON file, and the `nvidia-smi` commands on it.

Needs Python's standard library alone: it also runs on test hosts, as /usr/bin/nvidia-smi. The state lies where $GPU_SIMULATOR says, else
in /var/lib/gpu-simulator/state.json; beside it `.log` has a line for each call, with whether it was one that writes.

Wording and tables are those of public captures:
- `-L`, `mig -lgip`, `-lgi`, `-lci`, `--query-gpu`, `--query-compute-apps` (which names the parent GPU of a MIG process), "No MIG-enabled
  devices found.": the captures of an H100 and an H200, driver 580.173.02, in starkdrift/prickle-exporter, internal/collector/gpu/testdata;
- `-lgipp`: NVIDIA MIG user guide; "Placement :" for a single one, "Placements:" for several;
- creating and destroying, "Insufficient Resources", "In use by another client" for an instance that still has a compute instance:
  MIG user guide, "Creating GPU Instances", "Destroying GPU Instances"; a compute instance with a process on it: NVIDIA/DCGM#95;
- modes: MIG user guide, "Enable MIG Mode" (pending, in use, reset not supported in a virtual machine); reset: NVIDIA/gpu-operator#118,
  ComputeCanada/puppet-magic_castle#387; the mode on Hopper is gone with the driver: NVIDIA/gpu-admin-tools#2;
- `-cgi 9:4`, an explicit start: the help of `nvidia-smi mig`; what it prints with one was not found and is taken to be the same;
- exit statuses: nvidia-smi(1), 6 for what is not found, and 255 for what has no status of its own (seen for a refused reset).
UUIDs: on driver 580 a MIG UUID depends on the GPU and the ids of the instances alone, so it comes back with another profile in the same
place (the captures show 1g.10gb and then 1g.10gb+me with one UUID); `uuids: fresh` gives a new one with each creation instead.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import signal
import sys

try:
    from . import geometry
except ImportError:  # as a program
    import geometry

DEFAULT_STATE = "/var/lib/gpu-simulator/state.json"
IN_USE = "In use by another client"
NOT_SUPPORTED = "Not Supported"


class Refused(Exception):
    """The driver's answer to what it does not do: the text and the exit status."""

    def __init__(self, text, status):
        super().__init__(text)
        self.text, self.status = text, status


def make(path, models, **settings):
    """Write the state of a freshly booted machine with one GPU for each name in ``models``.

    ``settings``: `driver` (version), `uuids` (`stable` or `fresh`), and by GPU: `auto_reset` (Ampere: whether `-mig` activates the mode
    of an idle GPU by itself, default true), `reset` (whether a reset is supported, default true), `swapped`.
    """
    gpus = []
    for index, name in enumerate(models):
        bus = f"00000000:{0x17 + 0x13 * index:02X}:00.0"
        gpus.append(
            {
                "model": name,
                "uuid": "GPU-" + _uuid("gpu", name, index),
                "bus_id": bus,
                "current": False,
                "pending": False,
                "instances": [],
                "processes": [],
                **{key: settings[key] for key in ("auto_reset", "reset", "swapped") if key in settings},
            }
        )
    state = {
        "driver": settings.get("driver", "580.95.05"),
        "loaded": True,
        "uuids": settings.get("uuids", "stable"),
        "gpus": gpus,
        "created": 0,
        "writes": 0,
        "faults": [],
    }
    os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    _save(path, state)
    with open(path + ".log", "w", encoding="utf-8"):
        pass


@contextlib.contextmanager
def change(path):
    """Change the state by hand, as what happens outside of `nvidia-smi` does."""
    with _locked(path):
        state = load(path)
        yield state
        _save(path, state)


def load(path):
    """Read the state."""
    with open(path, encoding="utf-8") as stream:
        return json.load(stream)


def calls(path, writes_only=False):
    """Read the log: the argument lists of the calls so far."""
    with open(path + ".log", encoding="utf-8") as stream:
        lines = [json.loads(line) for line in stream]
    return [line["argv"] for line in lines if line["write"] or not writes_only]


def reboot(path):
    """Restart the machine: instances and processes are gone, and the mode stays on Ampere, where it was pending too."""
    with change(path) as state:
        state["loaded"] = True
        for gpu in state["gpus"]:
            if geometry.MODELS[gpu["model"]].architecture == "Ampere":
                gpu["current"] = gpu["pending"]
            else:
                gpu["current"] = gpu["pending"] = False
            gpu["instances"], gpu["processes"] = [], []


def hold(path, gpu, instance, pid, name="/usr/bin/python3"):
    """Let a process run on a GPU (``instance`` None) or on a GPU instance of the given id."""
    with change(path) as state:
        state["gpus"][gpu]["processes"].append({"pid": pid, "instance": instance, "name": name})


def release(path, pid):
    """End a process."""
    with change(path) as state:
        for gpu in state["gpus"]:
            gpu["processes"] = [process for process in gpu["processes"] if process["pid"] != pid]


def fail(path, nth, how="fail", text="Unknown Error", status=255):
    """Let the ``nth`` writing call from now on go wrong (1 is the next one).

    ``fail``: nothing is done, ``text`` is the answer. ``half``: like fail, but `-cgi -C` has made the GPU instance and not the compute
    instance. ``kill-before`` and ``kill-after``: the caller is killed before or after the call did its work.
    """
    with change(path) as state:
        state["faults"].append({"at": state["writes"] + nth, "how": how, "text": text, "status": status})


def _uuid(*words):
    digest = bytearray(hashlib.sha1("/".join(str(word) for word in words).encode()).digest()[:16])
    digest[6] = digest[6] & 0x0F | 0x50
    digest[8] = digest[8] & 0x3F | 0x80
    text = digest.hex()
    return "-".join((text[:8], text[8:12], text[12:16], text[16:20], text[20:]))


@contextlib.contextmanager
def _locked(path):
    with open(path + ".lock", "w", encoding="utf-8") as stream:
        fcntl.flock(stream, fcntl.LOCK_EX)
        yield


def _save(path, state):
    with open(path + ".new", "w", encoding="utf-8") as stream:
        json.dump(state, stream, indent=1)
    os.replace(path + ".new", path)


def run(path, argv, kill=None):
    """Answer one `nvidia-smi` command: (exit status, output). ``kill`` is what a fault does to the caller."""
    kill = kill or (lambda: os.kill(os.getppid(), signal.SIGKILL))
    writing = _writes(argv)
    with _locked(path):
        state = load(path)
        fault = None
        if writing:
            state["writes"] += 1
            fault = next((fault for fault in state["faults"] if fault["at"] == state["writes"]), None)
            state["faults"] = [other for other in state["faults"] if other is not fault]
            _save(path, state)
        how = fault["how"] if fault else ""
        if how == "kill-before":
            kill()
        lines = []
        try:
            if how == "fail":
                raise Refused(fault["text"], fault["status"])
            _dispatch(state, argv, lines, how == "half")
            if how == "half":
                raise Refused(fault["text"], fault["status"])
            status = 0
        except Refused as refused:
            lines.append(refused.text)
            status = refused.status
        if writing:
            _save(path, state)
        with open(path + ".log", "a", encoding="utf-8") as stream:
            stream.write(json.dumps({"argv": argv, "write": writing, "status": status}) + "\n")
        if how == "kill-after":
            kill()
    return status, "".join(line + "\n" for line in lines)


WRITING = {"-mig", "--multi-instance-gpu", "-r", "--gpu-reset", "-cgi", "-cci", "-dgi", "-dci"}


def _writes(argv):
    return bool(WRITING & {word.split("=")[0] for word in argv})


def _dispatch(state, argv, lines, half):
    if not state["loaded"]:
        raise Refused(
            "NVIDIA-SMI has failed because it couldn't communicate with the NVIDIA driver. "
            "Make sure that the latest NVIDIA driver is installed and running.\n",
            9,
        )
    mig = argv[:1] == ["mig"]
    options = _options(argv[1:] if mig else argv)
    gpus = _select(state, options.pop("-i", None))
    if mig:
        _mig(state, gpus, options, lines, half)
    elif "-L" in options:
        _list(state, gpus, lines)
    elif "-q" in options and "-x" in options:
        _xml(state, gpus, lines)
    elif "--query-gpu" in options:
        _query(state, gpus, options, lines, _gpu_fields)
    elif "--query-compute-apps" in options:
        _query(state, gpus, options, lines, None)
    elif "-mig" in options:
        _mode(gpus, options["-mig"], lines)
    elif "--gpu-reset" in options:
        _reset(gpus, lines)
    else:
        raise Refused(f'Invalid combination of input arguments. Please run "nvidia-smi -h" for help.\n\n{argv}', 2)


LONG = {
    "--id": "-i", "--list-gpus": "-L", "--query": "-q", "--xml-format": "-x", "--multi-instance-gpu": "-mig", "-r": "--gpu-reset",
    "--gpu-instance-id": "-gi", "--compute-instance-id": "-ci", "--default-compute-instance": "-C",
    "--list-gpu-instance-profiles": "-lgip", "--list-gpu-instance-possible-placements": "-lgipp", "--list-gpu-instances": "-lgi",
    "--list-compute-instances": "-lci", "--create-gpu-instance": "-cgi", "--create-compute-instance": "-cci",
    "--destroy-gpu-instance": "-dgi", "--destroy-compute-instance": "-dci",
}  # fmt: skip
VALUED = {"-i", "-gi", "-ci", "-cgi", "-mig", "--query-gpu", "--query-compute-apps", "--format"}


def _options(argv):
    found, words = {}, list(argv)
    while words:
        word, _, value = words.pop(0).partition("=")
        word = LONG.get(word, word)
        if word in VALUED and not value:
            if not words:
                raise Refused(f"Option {word} is missing its value.", 2)
            value = words.pop(0)
        elif word == "-cci" and words and not words[0].startswith("-"):
            value = words.pop(0)
        found[word] = value
    return found


def _select(state, wanted):
    for index, gpu in enumerate(state["gpus"]):
        gpu["index"] = index
    if wanted is None:
        return state["gpus"]
    found = []
    for word in wanted.split(","):
        matches = [gpu for gpu in state["gpus"] if word in (str(gpu["index"]), gpu["uuid"], gpu["bus_id"])]
        if not matches:
            raise Refused("No devices were found", 6)
        found += matches
    return found


def _model(gpu):
    return geometry.MODELS[gpu["model"]]


def _row(gpu, instance):
    return next(row for row in _model(gpu).rows if row.id == instance["profile"])


def _on(gpu, instance):
    return [process for process in gpu["processes"] if process["instance"] == instance["id"]]


# What can be made on a GPU


def _room(gpu, row):
    """The starts at which one more of a profile fits now."""
    model = _model(gpu)
    rows = [(_row(gpu, instance), instance["start"]) for instance in gpu["instances"]]
    taken = {slot for other, start in rows for slot in range(start, start + other.size)}
    if sum(other.id == row.id for other, _ in rows) >= row.most:
        return []
    if sum(geometry.slices(other) for other, _ in rows) + geometry.slices(row) > model.slices:
        return []
    # The engines behind +me are there once.
    names = [other.name for other, _ in rows]
    if "+me" in row.name and any("+me" in name for name in names):
        return []
    if any(".all" in name for name in (row.name, *names)) and any("-me" not in name for name in names):
        return []
    return [start for start in row.starts if not taken & set(range(start, start + row.size))]


def _free(gpu, row):
    """How many more of a profile fit, as `-lgip` counts them: placements that are free at the same time."""
    count, scratch = 0, {**gpu, "instances": list(gpu["instances"])}
    while room := _room(scratch, row):
        scratch["instances"].append({"profile": row.id, "start": room[0], "id": -1})
        count += 1
    return count


def _create(state, gpu, word, computes, lines, half):
    profile, _, start = word.partition(":")
    short = profile.removeprefix("MIG ").strip()
    row = next((row for row in _model(gpu).rows if short in (str(row.id), row.name)), None)

    def refuse(reason, status=255):
        raise Refused(
            f"Unable to create a GPU instance on GPU {gpu['index']:2} using profile {profile}: {reason}\n"
            f"Failed to create GPU instances: {reason}",
            status,
        )

    if row is None or (start and (not start.isdigit() or int(start) not in row.starts)):
        refuse("Invalid Argument", 2)
    if any(process["instance"] is None for process in gpu["processes"]):
        refuse(IN_USE)
    room = _room(gpu, row)
    places = [int(start)] if start else list(geometry.placement_order(_model(gpu), row))
    place = next((place for place in places if place in room), None)
    if place is None:
        refuse("Insufficient Resources")
    number = geometry.instance_id(_model(gpu), row, place, gpu.get("swapped", False))
    instance = {"id": number, "profile": row.id, "start": place, "compute": []}
    gpu["instances"].append(instance)
    lines.append(
        f"Successfully created GPU instance ID {number:2} on GPU {gpu['index']:2} using profile MIG {row.name} (ID {row.id:2})"
    )
    if computes and not half:
        _create_compute(state, gpu, instance, lines)


def _create_compute(state, gpu, instance, lines):
    row = _row(gpu, instance)
    state["created"] += 1
    salt = [state["created"]] if state["uuids"] == "fresh" else []
    instance["compute"].append({"id": 0, "uuid": "MIG-" + _uuid(gpu["uuid"], instance["id"], 0, *salt)})
    number = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[geometry.slices(row)]
    lines.append(
        f"Successfully created compute instance ID  0 on GPU {gpu['index']:2} GPU instance ID {instance['id']:2} "
        f"using profile MIG {_compute_name(row)} (ID {number:2})"
    )


def _compute_name(row):
    # `-L` and `-lci` name the compute instance, which knows nothing of +me.
    return row.name.removesuffix("+me")


def _mig(state, gpus, options, lines, half):
    if "-lgip" in options:
        _list_profiles(gpus, lines)
        return
    if "-lgipp" in options:
        for gpu in gpus:
            for row in _model(gpu).rows:
                word = "Placements:" if len(row.starts) > 1 else "Placement :"
                starts = ",".join(str(start) for start in row.starts)
                lines.append(f"GPU {gpu['index']:2} Profile ID {row.id:2} {word} {{{starts}}}:{row.size}")
        return
    gpus = [gpu for gpu in gpus if gpu["current"]]
    if not gpus:
        raise Refused("No MIG-enabled devices found.", 6)
    wanted = {int(word) for word in options["-gi"].split(",")} if "-gi" in options else None
    pairs = [
        (gpu, instance)
        for gpu in gpus
        for instance in sorted(gpu["instances"], key=lambda each: (geometry.listing_order(_row(gpu, each)), each["id"]))
        if wanted is None or instance["id"] in wanted
    ]
    if "-cgi" in options:
        for gpu in gpus:
            for word in options["-cgi"].split(","):
                _create(state, gpu, word, "-C" in options, lines, half)
        return
    if not pairs:
        raise Refused("No GPU instances found: Not Found", 6)
    if "-lgi" in options:
        _list_instances(pairs, lines)
    elif "-lci" in options:
        _list_computes(pairs, lines)
    elif "-cci" in options:
        for gpu, instance in pairs:
            if instance["compute"]:
                raise Refused(
                    f"Unable to create a compute instance on GPU {gpu['index']:2} GPU instance ID {instance['id']:2} using profile "
                    f"{_compute_name(_row(gpu, instance))}: Insufficient Resources\n"
                    "Failed to create compute instances: Insufficient Resources",
                    255,
                )
            _create_compute(state, gpu, instance, lines)
    elif "-dci" in options:
        _destroy_computes(pairs, lines)
    elif "-dgi" in options:
        for gpu, instance in pairs:
            if instance["compute"]:
                raise Refused(
                    f"Unable to destroy GPU instance ID {instance['id']:2} from GPU {gpu['index']:2}: {IN_USE}\n"
                    f"Failed to destroy GPU instances: {IN_USE}",
                    255,
                )
            gpu["instances"].remove(instance)
            lines.append(f"Successfully destroyed GPU instance ID {instance['id']:2} from GPU {gpu['index']:2}")
    else:
        raise Refused('Invalid combination of input arguments. Please run "nvidia-smi mig -h" for help.', 2)


def _destroy_computes(pairs, lines):
    pairs = [(gpu, instance) for gpu, instance in pairs if instance["compute"]]
    if not pairs:
        raise Refused("No compute instances found: Not Found", 6)
    for gpu, instance in pairs:
        if _on(gpu, instance):
            raise Refused(
                f"Unable to destroy compute instance ID  0 from GPU {gpu['index']:2} GPU instance ID {instance['id']:2}: {IN_USE}\n"
                f"Failed to destroy compute instances: {IN_USE}",
                255,
            )
        instance["compute"] = []
        lines.append(f"Successfully destroyed compute instance ID  0 from GPU {gpu['index']:2} GPU instance ID {instance['id']:2}")


# Tables


def _list_profiles(gpus, lines):
    rule = "+" + "-" * 79 + "+"
    lines += [
        rule,
        "| GPU instance profiles:                                                        |",
        "| GPU   Name               ID    Instances   Memory     P2P    SM    DEC   ENC  |",
        "|                                Free/Total   GiB              CE    JPEG  OFA  |",
        "|" + "=" * 79 + "|",
    ]
    for gpu in gpus:
        for row in _model(gpu).rows:
            memory, sm, dec, enc, ce, jpeg, ofa = geometry.columns(_model(gpu), row)
            lines += [
                f"| {gpu['index']:3}  MIG {row.name:<15} {row.id:2}{_free(gpu, row):6}/{row.most:<9}{memory:<11}No     {sm:<7}{dec:<6}{enc:<4}|",
                f"|{ce:64} {jpeg:5} {ofa:5}   |",
                rule,
            ]


def _list_instances(pairs, lines):
    rule = "+" + "-" * 57 + "+"
    lines += [
        rule,
        "| GPU instances:                                          |",
        "| GPU   Name               Profile  Instance   Placement  |",
        "|                            ID       ID       Start:Size |",
        "|" + "=" * 57 + "|",
    ]
    for gpu, instance in pairs:
        row = _row(gpu, instance)
        lines += [
            f"| {gpu['index']:3}  MIG {row.name:<15} {row.id:4} {instance['id']:8} {instance['start']:10}:{row.size:<6}|",
            rule,
        ]


def _list_computes(pairs, lines):
    pairs = [(gpu, instance) for gpu, instance in pairs if instance["compute"]]
    if not pairs:
        raise Refused("No compute instances found: Not Found", 6)
    rule = "+" + "-" * 68 + "+"
    lines += [
        rule,
        "| Compute instances:                                                 |",
        "| GPU     GPU       Name             Profile   Instance   Placement  |",
        "|       Instance                       ID        ID       Start:Size |",
        "|         ID                                                         |",
        "|" + "=" * 68 + "|",
    ]
    for gpu, instance in pairs:
        row = _row(gpu, instance)
        number = {1: 0, 2: 1, 3: 2, 4: 3, 7: 4}[geometry.slices(row)]
        name = "MIG " + _compute_name(row)
        lines += [f"| {gpu['index']:3} {instance['id']:6}       {name:<16} {number:5} {0:9} {0:10}:{geometry.slices(row):<6}|", rule]


def _devices(gpu):
    """The MIG devices in the order of `-L`: by the instances' ids, which is not the order of `-lgi`."""
    return [
        (instance, compute) for instance in sorted(gpu["instances"], key=lambda each: each["id"]) for compute in instance["compute"]
    ]


def _list(state, gpus, lines):
    for gpu in gpus:
        lines.append(f"GPU {gpu['index']}: {_model(gpu).product} (UUID: {gpu['uuid']})")
        for number, (instance, compute) in enumerate(_devices(gpu)):
            name = compute.get("name") or _compute_name(_row(gpu, instance))
            lines.append(f"  MIG {name:<12}Device {number:2}: (UUID: {compute['uuid']})")


def _word(gpu, key):
    if not _model(gpu).rows:
        return "N/A"
    return "Enabled" if gpu[key] else "Disabled"


def _gpu_fields(state, gpu):
    model = _model(gpu)
    optional = {name: _word(gpu, key) for name, key in (("mig.mode.current", "current"), ("mig.mode.pending", "pending"))}
    return {
        "index": str(gpu["index"]),
        "uuid": gpu["uuid"],
        "name": model.product,
        "pci.bus_id": gpu["bus_id"],
        "pci.device_id": f"0x{model.devices[0]}10DE",
        "driver_version": state["driver"],
        **{name: "[N/A]" if word == "N/A" else word for name, word in optional.items()},
    }


def _query(state, gpus, options, lines, fields):
    names = options["--query-gpu" if fields else "--query-compute-apps"].split(",")
    form = options.get("--format", "").split(",")
    if "csv" not in form:
        raise Refused('"--format=" can only be csv.', 2)
    if fields:
        rows = [fields(state, gpu) for gpu in gpus]
    else:
        # A process on an instance is listed with its GPU, not with its instance.
        rows = [
            {"gpu_uuid": gpu["uuid"], "pid": str(process["pid"]), "process_name": process["name"], "used_gpu_memory": "4188"}
            for gpu in gpus
            for process in gpu["processes"]
        ]
    known = _gpu_fields(state, gpus[0]) if fields else {"gpu_uuid", "pid", "process_name", "used_gpu_memory"}
    for name in names:
        if name not in known:
            raise Refused(f'Field "{name}" is not a valid field to query.\n', 2)
    if "noheader" not in form:
        lines.append(", ".join(names))
    lines += [", ".join(row[name] for name in names) for row in rows]


def _xml(state, gpus, lines):
    lines += [
        '<?xml version="1.0" ?>',
        '<!DOCTYPE nvidia_smi_log SYSTEM "nvsmi_device_v13.dtd">',
        "<nvidia_smi_log>",
        f"\t<driver_version>{state['driver']}</driver_version>",
        f"\t<attached_gpus>{len(gpus)}</attached_gpus>",
    ]
    for gpu in gpus:
        model = _model(gpu)
        lines += [
            f'\t<gpu id="{gpu["bus_id"]}">',
            f"\t\t<product_name>{model.product}</product_name>",
            f"\t\t<product_architecture>{model.architecture}</product_architecture>",
            "\t\t<mig_mode>",
            f"\t\t\t<current_mig>{_word(gpu, 'current')}</current_mig>",
            f"\t\t\t<pending_mig>{_word(gpu, 'pending')}</pending_mig>",
            "\t\t</mig_mode>",
            "\t\t<mig_devices>",
        ]
        devices = _devices(gpu)
        for number, (instance, compute) in enumerate(devices):
            lines += [
                "\t\t\t<mig_device>",
                f"\t\t\t\t<index>{number}</index>",
                f"\t\t\t\t<gpu_instance_id>{instance['id']}</gpu_instance_id>",
                f"\t\t\t\t<compute_instance_id>{compute['id']}</compute_instance_id>",
                "\t\t\t</mig_device>",
            ]
        lines += [] if devices else ["\t\t\tNone"]
        lines += [
            "\t\t</mig_devices>",
            f"\t\t<uuid>{gpu['uuid']}</uuid>",
            "\t\t<pci>",
            f"\t\t\t<pci_device_id>{model.devices[0]}10DE</pci_device_id>",
            f"\t\t\t<pci_bus_id>{gpu['bus_id']}</pci_bus_id>",
            "\t\t</pci>",
            "\t\t<processes>",
        ]
        for process in gpu["processes"]:
            inside = process["instance"] is not None
            lines += [
                "\t\t\t<process_info>",
                f"\t\t\t\t<gpu_instance_id>{process['instance'] if inside else 'N/A'}</gpu_instance_id>",
                f"\t\t\t\t<compute_instance_id>{0 if inside else 'N/A'}</compute_instance_id>",
                f"\t\t\t\t<pid>{process['pid']}</pid>",
                "\t\t\t\t<type>C</type>",
                f"\t\t\t\t<process_name>{process['name']}</process_name>",
                "\t\t\t\t<used_memory>4188 MiB</used_memory>",
                "\t\t\t</process_info>",
            ]
        lines += ["\t\t</processes>", "\t</gpu>"]
    lines.append("</nvidia_smi_log>")


# Modes


def _mode(gpus, word, lines):
    on = word.upper() in ("1", "ENABLED")
    verb, done = ("enable", "Enabled") if on else ("disable", "Disabled")
    for gpu in gpus:
        bus = gpu["bus_id"]
        if not _model(gpu).rows:
            lines += [f"Unable to {verb} MIG Mode for GPU {bus}: {NOT_SUPPORTED}", "Treating as warning and moving on."]
            continue
        gpu["pending"] = on
        if gpu["processes"] or gpu["instances"]:
            lines += [
                f"Warning: MIG mode is in pending {verb} state for GPU {bus}:{IN_USE}",
                f"{bus} is currently being used by one or more other processes (e.g. CUDA application or a monitoring application such as "
                "another instance of nvidia-smi). Please first kill all processes using the device and retry the command or reboot the "
                "system to make MIG mode effective.",
            ]
        elif _model(gpu).architecture == "Ampere" and not (gpu.get("auto_reset", True) and gpu.get("reset", True)):
            lines += [
                f"Warning: MIG mode is in pending {verb} state for GPU {bus}:{NOT_SUPPORTED}",
                f"Reboot the system or try nvidia-smi --gpu-reset to make MIG mode effective on GPU {bus}",
            ]
        else:
            gpu["current"] = on
            lines.append(f"{done} MIG Mode for GPU {bus}")
    lines.append("All done.")


def _reset(gpus, lines):
    for gpu in gpus:
        bus = gpu["bus_id"]
        if not gpu.get("reset", True):
            raise Refused(f"Resetting GPU {bus} is not supported.", 3)
        if gpu["processes"]:
            raise Refused(
                f"The following GPUs could not be reset:\n  GPU {bus}: {IN_USE}\n\n1 device is currently being used by one or more other "
                "processes (e.g., Fabric Manager, CUDA application, graphics application such as an X server, or a monitoring "
                "application such as another instance of nvidia-smi). Please first kill all processes using this device and all compute "
                "applications running in the system.",
                255,
            )
        gpu["current"], gpu["instances"] = gpu["pending"], []
        lines.append(f"GPU {bus} was successfully reset.")
    lines.append("All done.")


def main(argv):
    """`nvidia-smi`."""
    path = os.environ.get("GPU_SIMULATOR", DEFAULT_STATE)
    status, text = run(path, argv)
    sys.stdout.write(text)
    return status


def control(argv):
    """`gpu-simulator`: make [SETTING=TEXT…] MODEL…, reboot, hold GPU INSTANCE PID, hold-all PID, release PID, fail NTH HOW, writes, unload, load."""
    path = os.environ.get("GPU_SIMULATOR", DEFAULT_STATE)
    verb, words = argv[0], argv[1:]
    if verb == "make":
        settings = dict(word.split("=") for word in words if "=" in word)
        make(path, [word for word in words if "=" not in word], **settings)
    elif verb == "reboot":
        reboot(path)
    elif verb == "hold":
        hold(path, int(words[0]), int(words[1]) if words[1] != "-" else None, int(words[2]))
    elif verb == "hold-all":
        for index, gpu in enumerate(load(path)["gpus"]):
            for instance in gpu["instances"]:
                hold(path, index, instance["id"], int(words[0]))
    elif verb == "release":
        release(path, int(words[0]))
    elif verb == "fail":
        fail(path, int(words[0]), words[1])
    elif verb == "writes":
        print(len(calls(path, writes_only=True)))
    elif verb in ("load", "unload"):
        with change(path) as state:
            state["loaded"] = verb == "load"
    else:
        print(control.__doc__, file=sys.stderr)
        return 2
    return 0
