#!/usr/bin/env python3
"""Test hosts: real systemd systems, each a container of this machine's Docker engine.

    testbed.py up --name NET HOST...     make or mend a network of hosts; prints the inventory's path
    testbed.py down NET                  remove its hosts, their volumes, network, keys and mounts
    testbed.py kill|start NET HOST       as if the power was cut, and came back
    testbed.py exec NET HOST -- CMD...   run a command in a host without SSH
    testbed.py engine | build            only get an engine; only build the host image

State lives under .cache/testbed/NET: the key, known_hosts, inventory.yml, and `shared`, a directory that every host
of the network sees at /mnt/testbed. Everything that is made carries the label metalhub.testbed=NET.
"""

from __future__ import annotations

import argparse
import contextlib
import fcntl
import hashlib
import ipaddress
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
CACHE = ROOT / ".cache" / "testbed"
HOST_FILES = Path(__file__).resolve().parent / "host"
EXTRA_CA_DIRECTORY = Path("/usr/local/share/ca-certificates")
LABEL = "metalhub.testbed"
LOCK = Path("/tmp/metalhub-testbed.lock")
TEST_RANGE = ipaddress.IPv4Network("10.250.0.0/16")
FIRST_ADDRESS = 11

# What a test host needs beyond Docker's default set, by number (capability.h). `--privileged` asks for all that the
# kernel knows and fails on a machine that holds some back, so each is named and only those this machine has are asked for.
CAPABILITIES = {
    "DAC_READ_SEARCH": 2, "LINUX_IMMUTABLE": 9, "NET_BROADCAST": 11, "NET_ADMIN": 12, "IPC_LOCK": 14, "IPC_OWNER": 15,
    "SYS_MODULE": 16, "SYS_RAWIO": 17, "SYS_PTRACE": 19, "SYS_PACCT": 20, "SYS_ADMIN": 21, "SYS_BOOT": 22,
    "SYS_NICE": 23, "SYS_RESOURCE": 24, "SYS_TIME": 25, "SYS_TTY_CONFIG": 26, "LEASE": 28, "AUDIT_CONTROL": 30,
    "MAC_OVERRIDE": 32, "MAC_ADMIN": 33, "SYSLOG": 34, "WAKE_ALARM": 35, "BLOCK_SUSPEND": 36, "AUDIT_READ": 37,
}  # fmt: skip

_started = time.monotonic()


class TestbedError(Exception):
    """Something a person has to know; the message says what and what to do."""


def say(text: str) -> None:
    """Print one line of progress with the seconds since the start."""
    print(f"[{time.monotonic() - _started:6.1f}s] {text}", flush=True)


def run(
    *argv: str | Path, check: bool = True, timeout: float = 120, stdin: str | None = None, quiet: bool = True
) -> subprocess.CompletedProcess[str]:
    """Run a command and return what it did; `quiet=False` lets its output through. Raises TestbedError with its last words."""
    env = dict(os.environ)
    if argv[:2] == ("docker", "build") and not _has_buildx():
        env["DOCKER_BUILDKIT"] = "0"
    pipe = subprocess.PIPE if quiet else None
    try:
        done = subprocess.run(
            [str(a) for a in argv], check=False, timeout=timeout, env=env, text=True,
            input=stdin, stdin=None if stdin is not None else subprocess.DEVNULL, stdout=pipe, stderr=pipe,
        )  # fmt: skip
    except subprocess.TimeoutExpired as error:
        raise TestbedError(f"{' '.join(map(str, argv[:4]))} … took more than {timeout:.0f} s") from error
    except FileNotFoundError as error:
        raise TestbedError(f"{argv[0]} is not installed") from error
    if check and done.returncode != 0:
        tail = "\n".join(((done.stdout or "") + (done.stderr or "")).strip().splitlines()[-15:])
        raise TestbedError(f"{' '.join(map(str, argv))}\nended with {done.returncode}:\n{tail}")
    return done


def _has_buildx() -> bool:
    return subprocess.run(["docker", "buildx", "version"], check=False, capture_output=True).returncode == 0


@contextlib.contextmanager
def machine_lock() -> Iterator[None]:
    """Hold the machine-wide lock: several checkouts may build the same image or choose a subnet at the same time."""
    with LOCK.open("w") as handle:
        fcntl.flock(handle, fcntl.LOCK_EX)
        yield


# -- the engine ------------------------------------------------------------------------------------------------------


def engine_answers() -> bool:
    """Say whether a Docker engine answers on this machine."""
    if shutil.which("docker") is None:
        return False
    with contextlib.suppress(TestbedError):
        return run("docker", "version", "--format", "{{.Server.Version}}", check=False, timeout=20).returncode == 0
    return False


def uplink_mtu() -> int:
    """MTU of the interface with the default route in bytes, 1500 where there is none."""
    for line in Path("/proc/net/route").read_text(encoding="ascii").splitlines()[1:]:
        interface, destination = line.split()[:2]
        if destination == "00000000":
            return int(Path(f"/sys/class/net/{interface}/mtu").read_text(encoding="ascii"))
    return 1500


def install(*packages: str) -> None:
    """Install Debian packages on this machine."""
    env = ["env", "DEBIAN_FRONTEND=noninteractive"]
    run(*env, "apt-get", "update", "-q", timeout=180)
    run(*env, "apt-get", "install", "-qy", "--no-install-recommends", *packages, timeout=400)


def engine() -> None:
    """Get a working Docker engine: the one that runs, or Debian's, by systemd or in a session of its own."""
    if engine_answers():
        return
    with machine_lock():
        if engine_answers():
            return
        if shutil.which("dockerd") is None:
            say("installing a Docker engine (docker.io)")
            install("docker.io", "iptables")
        if shutil.which("docker") is None:
            install("docker-cli")
        if Path("/run/systemd/system").exists():
            run("systemctl", "start", "docker.service")
        else:
            say("starting dockerd (no systemd here)")
            pid_file = Path("/var/run/docker.pid")
            if pid_file.exists() and not Path(f"/proc/{pid_file.read_text(encoding='ascii').strip()}/exe").exists():
                pid_file.unlink()
            log = Path("/var/log/dockerd-testbed.log").open("ab")  # noqa: SIM115 - dockerd keeps it
            subprocess.Popen(
                ["dockerd", "--mtu", str(uplink_mtu())], stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        wait_for("the Docker engine", engine_answers, 60)


def wait_for(what: str, ready: object, seconds: float) -> None:
    """Poll `ready()` until it is true; raises TestbedError after `seconds`."""
    assert callable(ready)
    deadline = time.monotonic() + seconds
    while not ready():
        if time.monotonic() > deadline:
            raise TestbedError(f"{what} did not answer within {seconds:.0f} s")
        time.sleep(0.1)


# -- images ----------------------------------------------------------------------------------------------------------


def extra_cas() -> list[Path]:
    """List the certificates of authorities that this machine trusts beyond its distribution's."""
    return sorted(EXTRA_CA_DIRECTORY.rglob("*.crt")) if EXTRA_CA_DIRECTORY.is_dir() else []


def write_extra_ca_bundle() -> Path | None:
    """Write those certificates to .cache/testbed/extra-ca.pem, for `metalhub_extra_ca_bundle`; None where there are none."""
    bundle = CACHE / "extra-ca.pem"
    CACHE.mkdir(parents=True, exist_ok=True)
    text = "".join(path.read_text(encoding="ascii").strip() + "\n" for path in extra_cas())
    if not text:
        bundle.unlink(missing_ok=True)
        return None
    if not bundle.exists() or bundle.read_text(encoding="ascii") != text:
        # Whole at any moment: others may read it.
        new = bundle.with_name(f"{bundle.name}.{os.getpid()}-{threading.get_ident()}")
        new.write_text(text, encoding="ascii")
        new.replace(bundle)
    return bundle


def image_exists(name: str) -> bool:
    """Say whether the engine has an image."""
    return run("docker", "image", "inspect", name, check=False).returncode == 0


def base_image() -> str:
    """Give the name of a minimal Debian 13 image: pulled where images can be pulled, else made from packages."""
    made = "metalhub-testbed-base:trixie"
    if image_exists(made):
        return made
    with machine_lock():
        if not image_exists(made):
            make_base_image(made)
    return made


def make_base_image(made: str) -> None:
    """Pull it, or make it from packages."""
    pulled = "debian:trixie-slim"
    with contextlib.suppress(TestbedError):
        say(f"trying to pull {pulled}")
        if image_exists(pulled) or run("docker", "pull", "-q", pulled, check=False, timeout=60).returncode == 0:
            run("docker", "tag", pulled, made)
            return
    say("no images can be pulled here: making one from packages (mmdebstrap)")
    if shutil.which("mmdebstrap") is None:
        install("mmdebstrap")
    with tempfile.TemporaryDirectory() as directory:
        tarball = Path(directory) / "base.tar"
        run("mmdebstrap", "--quiet", "--variant=apt", "trixie", tarball, timeout=300)
        run("docker", "import", tarball, made, timeout=180)


def build(bare: bool = False) -> str:
    """Build the host image unless it is there; the tag is a digest of all that goes in. Returns its name."""
    target = "bare" if bare else "host"
    digest = hashlib.sha256()
    for path in [*sorted(HOST_FILES.iterdir()), *extra_cas()]:
        digest.update(path.name.encode() + b"\0" + path.read_bytes() + b"\0")
    name = f"metalhub-testbed-{target}:{digest.hexdigest()[:12]}"
    if image_exists(name):
        return name
    base = base_image()
    with machine_lock():
        if image_exists(name):
            return name
        say(f"building the host image {name} (packages are installed once; two minutes)")
        with tempfile.TemporaryDirectory() as directory:
            context = Path(directory)
            shutil.copytree(HOST_FILES, context, dirs_exist_ok=True)
            (context / "ca").mkdir()
            (context / "ca" / ".keep").touch()
            for path in extra_cas():
                shutil.copy(path, context / "ca" / path.name)
            log = CACHE / f"build-{target}.log"
            CACHE.mkdir(parents=True, exist_ok=True)
            done = run(
                "docker", "build", "--target", target, "--build-arg", f"BASE={base}", "-t", name,
                "--label", f"{LABEL}=image", context, check=False, timeout=900,
            )  # fmt: skip
            log.write_text(done.stdout + done.stderr, encoding="utf-8")
            if done.returncode != 0:
                raise TestbedError(f"the host image did not build; the end of {log}:\n{log.read_text()[-1500:]}")
        say("host image built")
    return name


# -- hosts -----------------------------------------------------------------------------------------------------------


def container(net: str, host: str) -> str:
    """Name of a host's container."""
    return f"metalhub-{net}-{host}"


def network_subnet(net: str) -> ipaddress.IPv4Network | None:
    """Subnet of a testbed's network; None where there is no such network."""
    done = run("docker", "network", "inspect", f"metalhub-{net}", check=False)
    if done.returncode != 0:
        return None
    return ipaddress.IPv4Network(json.loads(done.stdout)[0]["IPAM"]["Config"][0]["Subnet"])


def make_network(net: str, wanted: str | None) -> ipaddress.IPv4Network:
    """Create the network, or find it. Without a wish the first /24 of the test range that is free is taken."""
    with machine_lock():
        subnet = network_subnet(net)
        if subnet is not None:
            if wanted and ipaddress.IPv4Network(wanted) != subnet:
                raise TestbedError(f"network metalhub-{net} has subnet {subnet}, wanted {wanted}: run `testbed.py down {net}` first")
            return subnet
        candidates = [ipaddress.IPv4Network(wanted)] if wanted else list(TEST_RANGE.subnets(new_prefix=24))[1:]
        for candidate in candidates:
            done = run(
                "docker", "network", "create", "--subnet", str(candidate), "--label", f"{LABEL}={net}",
                "-o", f"com.docker.network.driver.mtu={uplink_mtu()}",
                "-o", "com.docker.network.bridge.name=mh-" + hashlib.sha256(net.encode()).hexdigest()[:8],
                f"metalhub-{net}", check=False,
            )  # fmt: skip
            if done.returncode == 0:
                return candidate
            if "overlap" not in done.stderr:
                raise TestbedError(f"network metalhub-{net} could not be made: {done.stderr.strip()}")
    raise TestbedError(f"no free subnet for {net}: {wanted or TEST_RANGE} is in use (docker network ls)")


def mounts_below(path: Path) -> list[str]:
    """List the mount points at and below a path, the deepest first (os.path.ismount does not see a bind mount)."""
    points = [line.split()[4] for line in Path("/proc/self/mountinfo").read_text(encoding="utf-8").splitlines()]
    return sorted((p for p in points if p == str(path) or p.startswith(f"{path}/")), key=len, reverse=True)


def shared_directory(net: str) -> Path:
    """Make the directory that all hosts see; a shared mount, so that what one host mounts below it appears in all."""
    path = CACHE / net / "shared"
    path.mkdir(parents=True, exist_ok=True)
    if not mounts_below(path):
        run("mount", "--bind", path, path)
        run("mount", "--make-rshared", path)
    return path


def resolver_file(net: str) -> Path | None:
    """Write a resolv.conf with this machine's resolvers, so that a host does not depend on Docker's, which lives in the
    host's own nftables. None where this machine's resolver is on its loopback: Docker's is used then."""
    for source in (Path("/etc/resolv.conf"), Path("/run/systemd/resolve/resolv.conf")):
        if not source.exists():
            continue
        words = [line.split() for line in source.read_text(encoding="utf-8").splitlines()]
        servers = [w[1] for w in words if len(w) > 1 and w[0] == "nameserver"]
        if servers and not any(ipaddress.ip_address(s.split("%")[0]).is_loopback for s in servers):
            path = CACHE / net / "resolv.conf"
            path.write_text("".join(f"nameserver {s}\n" for s in servers), encoding="ascii")
            return path
    return None


def containers(net: str) -> dict[str, dict[str, object]]:
    """Map the hosts of a testbed to what the engine says of them."""
    names = run("docker", "ps", "-aq", "--filter", f"label={LABEL}={net}").stdout.split()
    if not names:
        return {}
    return {c["Config"]["Hostname"]: c for c in json.loads(run("docker", "inspect", *names).stdout)}


def _address_of(facts: dict[str, object]) -> str:
    labels = facts["Config"]["Labels"]  # type: ignore[index]
    return str(labels[f"{LABEL}.address"])


def start_host(net: str, host: str, address: str, image: str, memory: str | None) -> None:
    """Create and start the container of one host."""
    bounding = int(next(x for x in Path("/proc/self/status").read_text().splitlines() if x.startswith("CapBnd")).split()[1], 16)
    argv = ["docker", "run", "-d", "--name", container(net, host), "--hostname", host, "--restart=no"]
    argv += ["--label", f"{LABEL}={net}", "--label", f"{LABEL}.address={address}"]
    argv += ["--network", f"metalhub-{net}", "--ip", address]
    for name, bit in CAPABILITIES.items():
        if bounding >> bit & 1:
            argv += ["--cap-add", name]
    for option in ("seccomp=unconfined", "apparmor=unconfined", "systempaths=unconfined"):
        argv += ["--security-opt", option]
    argv += ["--cgroupns=private", "--tmpfs", "/run", "--tmpfs", "/run/lock", "--tmpfs", "/tmp:exec,mode=1777"]
    argv += ["--device-cgroup-rule", "b 7:* rwm", "--device-cgroup-rule", "c 10:* rwm"]
    argv += ["-v", "/var/lib/docker", "-v", "/var/lib/containerd"]
    argv += ["-v", f"{CACHE / net / 'shared'}:/mnt/testbed:rshared"]
    resolver = resolver_file(net)
    if resolver:
        argv += ["-v", f"{resolver}:/etc/resolv.conf"]
    if memory:
        argv += ["--memory", memory]
    run(*argv, "-e", "container=docker", image)


def wait_for_host(net: str, host: str, address: str) -> None:
    """Put the key in place and wait until sshd greets. Raises TestbedError with the host's own words after 60 s."""
    key = (CACHE / net / "id_ed25519.pub").read_text(encoding="ascii")
    script = "umask 077; mkdir -p /root/.ssh; cat > /root/.ssh/authorized_keys"
    run("docker", "exec", "-i", container(net, host), "sh", "-c", script, stdin=key)

    def greets() -> bool:
        with contextlib.suppress(OSError), socket.create_connection((address, 22), timeout=2) as connection:
            return connection.recv(4) == b"SSH-"
        return False

    try:
        wait_for(f"sshd of {host} ({address})", greets, 60)
    except TestbedError as error:
        words = run("docker", "logs", "--tail", "20", container(net, host), check=False)
        raise TestbedError(f"{error}\n{words.stdout}{words.stderr}") from error


def write_access(net: str, addresses: dict[str, str]) -> Path:
    """Write known_hosts with the hosts' real keys, and the inventory. Returns the inventory's path."""
    directory = CACHE / net
    known = ""
    for host, address in addresses.items():
        key = run("docker", "exec", container(net, host), "cat", "/etc/ssh/ssh_host_ed25519_key.pub").stdout.split()
        known += f"{address},{host} {key[0]} {key[1]}\n"
    (directory / "known_hosts").write_text(known, encoding="ascii")
    lines = ["all:", "  vars:", "    ansible_user: root"]
    lines += [f"    ansible_ssh_private_key_file: {directory}/id_ed25519"]
    lines += [f'    ansible_ssh_common_args: "-o UserKnownHostsFile={directory}/known_hosts -o ServerAliveInterval=5"']
    lines += ["  hosts:"]
    for host, address in addresses.items():
        lines += [f"    {host}:", f"      ansible_host: {address}", f"      metalhub_address: {address}"]
    inventory = directory / "inventory.yml"
    inventory.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return inventory


def up(net: str, hosts: Sequence[str], bare: bool = False, subnet: str | None = None, memory: str | None = None) -> Path:
    """Make the hosts that are missing, start those that stopped, and write the inventory; returns its path."""
    for name in (net, *hosts):
        if not name.replace("-", "").isalnum() or name != name.lower():
            raise TestbedError(f"{name!r}: names are lower-case letters, digits and dashes")
    engine()
    image = build(bare)
    directory = CACHE / net
    directory.mkdir(parents=True, exist_ok=True)
    if not (directory / "id_ed25519").exists():
        run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", f"testbed {net}", "-f", directory / "id_ed25519")
    network = make_network(net, subnet)
    shared_directory(net)
    existing = containers(net)
    addresses = {host: _address_of(facts) for host, facts in existing.items()}
    free = (str(a) for a in list(network.hosts())[FIRST_ADDRESS - 1 :] if str(a) not in set(addresses.values()))
    for host in hosts:
        addresses.setdefault(host, next(free))

    def ensure(host: str) -> None:
        facts = existing.get(host)
        if facts is None:
            start_host(net, host, addresses[host], image, memory)
            wait_for_host(net, host, addresses[host])
            say(f"{host} is up at {addresses[host]}")
            return
        if facts["Config"]["Image"] != image and host in hosts:  # type: ignore[index]
            say(f"{host} keeps its older host image; `testbed.py down {net}` and `up` renew it")
        if not facts["State"]["Running"]:  # type: ignore[index]
            run("docker", "start", container(net, host))
            say(f"{host} was stopped and is started again")
        wait_for_host(net, host, addresses[host])

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(ensure, addresses))
    inventory = write_access(net, addresses)
    say(f"{len(addresses)} hosts of {net} answer; inventory: {inventory}")
    return inventory


def end_swap_below(path: Path) -> None:
    """Put files below a path out of use as swap: it is the machine's, outlives its host, and its file cannot be removed."""
    # The kernel shows a file's place as the host that is gone saw it: only its name holds here.
    names = {Path(line.split()[0]).name for line in Path("/proc/swaps").read_text(encoding="utf-8").splitlines()[1:]}
    for file in [file for name in names for file in path.rglob(name)]:
        run("swapoff", file, check=False, timeout=300)


def down(net: str) -> None:
    """Remove all that `up` made for this testbed. Nothing else is touched."""
    end_swap_below(CACHE / net / "shared")
    if engine_answers():
        names = run("docker", "ps", "-aq", "--filter", f"label={LABEL}={net}").stdout.split()
        if names:
            run("docker", "rm", "-f", "-v", *names, timeout=180)
        if network_subnet(net) is not None:
            run("docker", "network", "rm", f"metalhub-{net}")
    directory = CACHE / net
    shared = directory / "shared"
    # Loop file systems that a host mounted below `shared` also appear here; the loop devices detach with the last mount.
    for _ in range(100):
        below = mounts_below(shared)
        if not below:
            break
        if run("umount", below[0], check=False).returncode != 0:
            run("umount", "-l", below[0])
    if directory.exists():
        shutil.rmtree(directory)
    say(f"{net} is gone")


def main() -> int:
    """Read the command line, do it; errors are one message and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("engine", help="get a Docker engine")
    command = commands.add_parser("build", help="build the host image")
    command.add_argument("--bare", action="store_true", help="only systemd, SSH and Python")
    command = commands.add_parser("up", help="make or mend hosts")
    command.add_argument("--name", required=True, metavar="NET")
    command.add_argument("--bare", action="store_true", help="hosts with only systemd, SSH and Python")
    command.add_argument("--subnet", help="an IPv4 subnet; default: the first free /24 of the test range")
    command.add_argument("--memory", help="memory limit of each host, as Docker writes it (2g); default: none")
    command.add_argument("hosts", nargs="+", metavar="HOST")
    command = commands.add_parser("down", help="remove a testbed")
    command.add_argument("net", metavar="NET")
    for name in ("kill", "start", "exec"):
        command = commands.add_parser(name)
        command.add_argument("net", metavar="NET")
        command.add_argument("host", metavar="HOST")
        if name == "exec":
            command.add_argument("argv", nargs=argparse.REMAINDER, metavar="CMD")
    options = parser.parse_args()
    try:
        if options.command == "engine":
            engine()
        elif options.command == "build":
            engine()
            print(build(options.bare))
        elif options.command == "up":
            up(options.name, options.hosts, options.bare, options.subnet, options.memory)
        elif options.command == "down":
            down(options.net)
        elif options.command == "kill":
            run("docker", "kill", container(options.net, options.host))
        elif options.command == "start":
            run("docker", "start", container(options.net, options.host))
            wait_for_host(options.net, options.host, _address_of(containers(options.net)[options.host]))
        elif options.command == "exec":
            argv = options.argv[1:] if options.argv[:1] == ["--"] else options.argv
            return subprocess.run(["docker", "exec", "-i", container(options.net, options.host), *argv], check=False).returncode
    except TestbedError as error:
        print(f"testbed: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
