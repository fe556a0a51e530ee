"""A session's Swarm service, as the engine's JSON. Pure."""

from __future__ import annotations

import os
from collections.abc import Collection, Mapping
from typing import Any
from urllib.parse import urlparse

from .config import Document, Profile
from .core import names, sandboxes, warm_pool

PORT = 8888
# Docker's embedded resolver listens in each session of runc, whatever its resolv.conf says, and would forward from the host's own
# namespace where the host's resolver is a loopback address. This address of TEST-NET-1 (RFC 5737) is asked from the session's
# namespace instead, where the packet filter drops it.
NO_RESOLVER = "192.0.2.1"

STARTUP = "METALHUB_STARTUP"
STARTUP_SECONDS = 30
STARTUP_LOG = "/tmp/metalhub-startup.log"
# What runs a profile's start-up script before the session's own command, which comes whatever became of the script. Its output goes to a
# file, because a program that it left behind would hold a pipe open.
_RUN_STARTUP = f"""
run=$(command -v bash || command -v sh)
limit=$(command -v timeout) && run="$limit -k 2 {STARTUP_SECONDS} $run"
$run -c "${STARTUP}" < /dev/null > {STARTUP_LOG} 2>&1
code=$?
head -c 65536 {STARTUP_LOG} >&2
[ $code = 0 ] || echo "metalhub: the profile's start-up script failed with exit code $code" \
  "(124: it took longer than {STARTUP_SECONDS} seconds). The session starts all the same." | tee -a {STARTUP_LOG} >&2
unset {STARTUP} run limit code
exec "$@"
""".strip()


def _outranking(document: Document, profile: Profile) -> dict[str, str]:
    """The variables that decide over sandbox and GPUs. Those of a service outrank its image's, whatever that one sets."""
    variables = {
        sandboxes.WISH: profile.sandbox,
        # The NVIDIA toolkit gives all GPUs to whoever asks for them in its environment. What Swarm reserved for a task comes
        # before this variable; where the toolkit does not know that resource, the session sees none instead of all.
        "NVIDIA_VISIBLE_DEVICES": "void",
    }
    if profile.startup:
        variables[STARTUP] = profile.startup
    gpu = profile.flavor.gpu
    if gpu:
        # The toolkit adds up all resources that it knows, so an image must not bring one that Swarm did not give.
        kinds = {flavor.gpu.resource for flavor in document.flavors.values() if flavor.gpu} - {gpu.resource}
        variables.update(dict.fromkeys(map(names.resource_variable, kinds), ""))
    return variables


def _proxies(document: Document, profile: Profile) -> dict[str, str]:
    """The variables by which programs find the class's proxy. Those that ignore them are intercepted on the node."""
    egress = document.egress[profile.egress]
    if not egress.proxy:
        return {}
    hub = urlparse(document.connect_url).hostname or ""
    direct = ",".join(["localhost", "127.0.0.1", hub, *egress.direct])
    variables = {"HTTP_PROXY": egress.proxy, "HTTPS_PROXY": egress.proxy, "NO_PROXY": direct}
    # Half of the world reads one spelling, and curl takes HTTP_PROXY only in small letters.
    return variables | {name.lower(): value for name, value in variables.items()}


def spec(
    document: Document,
    profile: Profile,
    *,
    name: str,
    user: str,
    server: str,
    home: str,
    image: str,
    environment: Mapping[str, str],
    command: list[str],
    avoid: Collection[str] = (),
) -> dict[str, Any]:
    """The body of ``POST /services/create`` for one session. ``image`` is pinned by digest, ``avoid`` are ids of nodes.

    The environment holds the session's API token: Swarm keeps it in its encrypted log and shows it to those who may
    ask a manager, who own the platform anyway. A Swarm secret would be a file the same user can read, and one more
    object to make and remove at each start.
    """
    session = document.session
    labels = {"metalhub.user": user, "metalhub.server": server, **_labels(profile, name)}
    wanted = {**session.environment, **profile.environment, **environment}
    mount = {"Type": "bind", "Source": f"{session.homes_root}/{home}", "Target": session.home}
    where = [f"node.id!={node}" for node in avoid]
    return _spec(document, profile, name=name, labels=labels, image=image, environment=wanted, command=command, home=mount, where=where)


def warm_spec(document: Document, profile: Profile, *, name: str, image: str, node: str, secret: str) -> dict[str, Any]:
    """The same for a session that is nobody's yet, on the node with this id, which gave it a directory for its home to be.

    ``secret`` is what its claim must come with. What is mounted below the directory later is seen in the session, too (``rslave``).
    """
    session = document.session
    labels = {**_labels(profile, name), "metalhub.warm": "yes"}
    wanted = {**session.environment, **profile.environment, "METALHUB_WARM": secret}
    mount = {
        "Type": "bind",
        "Source": f"{warm_pool.ROOT}/{name}",
        "Target": os.path.dirname(session.home),
        "BindOptions": {"Propagation": "rslave"},
    }
    where = [f"node.id=={node}"]
    command = list(session.command)
    return _spec(document, profile, name=name, labels=labels, image=image, environment=wanted, command=command, home=mount, where=where)


def _labels(profile: Profile, name: str) -> dict[str, str]:
    return {"metalhub.profile": profile.name, "metalhub.egress": profile.egress, "metalhub.session": name}


def _spec(
    document: Document,
    profile: Profile,
    *,
    name: str,
    labels: Mapping[str, str],
    image: str,
    environment: Mapping[str, str],
    command: list[str],
    home: Mapping[str, Any],
    where: list[str],
) -> dict[str, Any]:
    session, flavor = document.session, profile.flavor
    defaults = {"NVIDIA_DRIVER_CAPABILITIES": "compute,utility"} if flavor.gpu else {}
    variables = {**defaults, **_proxies(document, profile), **environment, **_outranking(document, profile)}
    ulimits = [
        {"Name": "nofile", "Soft": session.files, "Hard": session.files},
        {"Name": "core", "Soft": 0, "Hard": 0},
    ]
    pids = session.pids
    if profile.sandbox == "gvisor":
        # gVisor does not see the control group's limit: it needs two tasks of the node for each process, and dies with
        # all that is in it when it gets none (google/gvisor#2490). Its own count refuses a fork as a kernel does. With
        # the other runtimes that limit would count all sessions of a node, because they have the same user id there.
        ulimits.append({"Name": "nproc", "Soft": session.pids, "Hard": session.pids})
        pids = session.pids * 3 + 256
    if profile.startup:
        command = ["/bin/sh", "-c", _RUN_STARTUP, "metalhub-startup", *command]
    amount = {"NanoCPUs": int(flavor.cpus * 1e9), "MemoryBytes": flavor.memory}
    reserved: dict[str, Any] = dict(amount)
    if flavor.gpu:
        reserved["GenericResources"] = [
            {"DiscreteResourceSpec": {"Kind": flavor.gpu.resource, "Value": flavor.gpu.count}}
        ]
    return {
        "Name": name,
        "Labels": dict(labels),
        "TaskTemplate": {
            "ContainerSpec": {
                "Image": image,
                "Labels": dict(labels),
                "Args": command,
                "Env": [f"{key}={value}" for key, value in sorted(variables.items())],
                "User": "1000:1000",
                "Dir": session.home,
                "Hostname": "session",
                "DNSConfig": {"Nameservers": [NO_RESOLVER]},
                "ReadOnly": True,
                "CapabilityDrop": ["ALL"],
                "Privileges": {"NoNewPrivileges": True},
                "Ulimits": ulimits,
                "Healthcheck": {"Test": ["NONE"]},  # one in the image would keep the task in "starting" for seconds
                "StopGracePeriod": 10_000_000_000,
                "Mounts": [
                    dict(home),
                    {"Type": "bind", "Source": session.shared_root, "Target": session.shared},
                    # Docker's embedded resolver answers for internal networks too, and not at all in gVisor.
                    {
                        "Type": "bind",
                        "Source": session.resolv_conf.replace("{egress}", profile.egress),
                        "Target": "/etc/resolv.conf",
                        "ReadOnly": True,
                    },
                    # Anonymous volumes: disk, not memory, and removed with the container.
                    {"Type": "volume", "Target": session.scratch},
                    {"Type": "volume", "Target": "/tmp"},
                    {"Type": "volume", "Target": "/var/tmp"},
                    {
                        "Type": "tmpfs",
                        "Target": "/dev/shm",
                        "TmpfsOptions": {"SizeBytes": min(session.shm, flavor.memory), "Mode": 0o1777},
                    },
                ],
            },
            "Resources": {"Limits": {**amount, "Pids": pids}, "Reservations": reserved},
            # A failed session must not come back by itself, empty, and hold its GPU.
            "RestartPolicy": {"Condition": "none", "MaxAttempts": 0},
            "Placement": {
                "Constraints": [
                    f"node.labels.metalhub.pool=={profile.pool}",
                    "node.labels.metalhub.network==ready",
                    *where,
                ]
            },
            "Networks": [{"Target": names.network_name(profile.egress)}],
        },
        "Mode": {"Replicated": {"Replicas": 1}},
        "EndpointSpec": {
            "Mode": "dnsrr",
            "Ports": [{"Protocol": "tcp", "TargetPort": PORT, "PublishMode": "host"}],
        },
    }
