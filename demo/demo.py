#!/usr/bin/env python3
"""The demo: a platform of three hosts on this machine, from nothing to notebook cells run in it.

    demo.py up      make or mend it, and prove it      (make demo)
    demo.py down    remove all that it made            (make demo-down)
    demo.py venv    only the virtual environment       (make venv)

It starts with the machine's own Python and no other package. What takes long runs side by side: the virtual
environment, the host image and hosts, the notebook image.
"""

from __future__ import annotations

import argparse
import hashlib
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from plugins.module_utils.image_plan import ContextFile, pack  # noqa: E402 - pure Python, as all of module_utils
from testbed import testbed  # noqa: E402 - nothing is installed yet
from testbed.testbed import TestbedError, say  # noqa: E402

VENV = ROOT / ".venv"
CACHE = ROOT / ".cache" / "demo"
NET = "demo"
SUBNET = "10.249.0.0/24"
HOSTS = ("control", "compute1", "compute2")
CONTROL = "10.249.0.11"
DOMAIN = "metalhub.test"
WARM_IMAGE = f"{CONTROL}:5001/warm"
PASSWORD_FILE = "/etc/metalhub/secrets/admin-password"

timings: dict[str, float] = {}


def timed(name: str, work: Callable[[], None]) -> None:
    """Run a stage and note its seconds."""
    begin = time.monotonic()
    say(f"{name} …")
    work()
    timings[name] = time.monotonic() - begin
    say(f"{name}: {timings[name]:.1f} s")


def make_venv(requirements: Path) -> None:
    """Install the locked requirements into .venv unless a lock with this content, or one that holds it, is there."""
    stamp = VENV / f".{requirements.stem}-{hashlib.sha256(requirements.read_bytes()).hexdigest()[:16]}"
    test_lock = ROOT / "requirements" / "test.txt"
    whole = VENV / f".test-{hashlib.sha256(test_lock.read_bytes()).hexdigest()[:16]}"
    if stamp.exists() or whole.exists():
        return
    probe = subprocess.run([sys.executable, "-c", "import ensurepip, venv"], check=False, capture_output=True)
    if probe.returncode != 0:
        testbed.install("python3-venv")
    say(f"virtual environment {VENV.name} from {requirements.relative_to(ROOT)}")
    if not (VENV / "bin" / "python").exists():
        testbed.run(sys.executable, "-m", "venv", VENV)
    pip: list[str | Path] = [VENV / "bin" / "python", "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "--no-compile"]
    testbed.run(*pip, "--require-hashes", "-r", requirements, timeout=900)
    # Without bytecode each ansible-playbook compiles 400 modules anew (half a second) where the environment forbids to write it on
    # the way. The community's collections stay as they are: there are ten thousand files, of which hardly any is ever loaded.
    # What is written for another Python does not compile, which is no error.
    (packages,) = (VENV / "lib").glob("python3*/site-packages")
    compiler: list[str | Path] = [VENV / "bin" / "python", "-m", "compileall", "-q", "-j", "0"]
    testbed.run(*compiler, "-x", "ansible_collections", packages, timeout=300, check=False)
    stamp.touch()


def warm_image(name: str, base: str) -> str:
    """Build an image of files/images while other things are waited for; the role `images` then finds every layer in the engine's cache.
    Returns its name."""
    directory = ROOT / "files" / "images" / name
    files = {
        str(path.relative_to(directory)): ContextFile(path.read_bytes(), os.access(path, os.X_OK))
        for path in directory.rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    bundle = testbed.write_extra_ca_bundle()
    if bundle:
        files["extra-ca.crt"] = ContextFile(bundle.read_bytes())
    with tempfile.TemporaryDirectory() as place:
        context = Path(place) / "context.tar"
        context.write_bytes(pack(files))
        # The role builds by the engine's own builder: another one has another cache.
        build = ["env", "DOCKER_BUILDKIT=0", "docker", "build", "-q", "--build-arg", f"BASE_IMAGE={base}", "-t", f"{WARM_IMAGE}:{name}"]
        testbed.run("sh", "-c", 'tar=$1; shift; exec "$@" - < "$tar"', "sh", context, *build, timeout=900)
    return f"{WARM_IMAGE}:{name}"


def warm_notebook_image() -> None:
    """Build the notebook image ahead."""
    warm_image("lab", testbed.base_image())


def playbook(path: str, log: str, *arguments: str) -> None:
    """Run a playbook on the demo's inventory; its output is shown as it comes and kept in .cache/demo/LOG."""
    argv = [str(VENV / "bin" / "ansible-playbook"), path, "-i", "inventories/demo", *arguments]
    env = dict(os.environ, PATH=f"{VENV / 'bin'}:{os.environ['PATH']}", PYTHONUNBUFFERED="1", ANSIBLE_FORCE_COLOR="0")
    CACHE.mkdir(parents=True, exist_ok=True)
    with (
        (CACHE / log).open("w", encoding="utf-8") as kept,
        subprocess.Popen(argv, cwd=ROOT, env=env, text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT) as process,
    ):
        assert process.stdout is not None
        for line in process.stdout:
            kept.write(line)
            print(f"    {line}", end="", flush=True)
    if process.returncode != 0:
        raise TestbedError(f"{path} ended with {process.returncode}; its output is in {CACHE / log}. Run `make demo` again to go on.")


def ssh_argv(script: str) -> list[str]:
    """Give the command that runs a shell script on the control host."""
    directory = testbed.CACHE / NET
    options = ["-o", f"UserKnownHostsFile={directory}/known_hosts", "-o", "StrictHostKeyChecking=yes", "-o", "BatchMode=yes"]
    return ["ssh", "-i", str(directory / "id_ed25519"), *options, f"root@{CONTROL}", script]


def ssh(script: str) -> str:
    """Run a shell script on the control host and return what it printed."""
    return testbed.run(*ssh_argv(script)).stdout


def prepare() -> None:
    """Get the engine, and write what the demo's inventory reads of this machine."""
    testbed.engine()
    testbed.write_extra_ca_bundle()
    testbed.base_image()


def hosts() -> None:
    """Make the demo's hosts, or start those that stopped."""
    testbed.up(NET, HOSTS, subnet=SUBNET)


def up() -> None:
    """Make or mend the demo and prove it. Raises TestbedError with what failed and what to do."""
    if os.geteuid() != 0:
        raise TestbedError("the demo makes hosts and networks: run it as root")
    CACHE.mkdir(parents=True, exist_ok=True)
    if shutil.which("ssh") is None:
        testbed.install("openssh-client")
    timed("base image", prepare)

    environment = ROOT / "requirements" / "controller.txt"
    with ThreadPoolExecutor(3) as pool:
        stages: list[Future[None]] = [
            pool.submit(timed, "host image and hosts", hosts),
            pool.submit(timed, "virtual environment", lambda: make_venv(environment)),
            pool.submit(timed, "notebook image", warm_notebook_image),
        ]
        for stage in stages:
            stage.result()
    timed("converge", lambda: playbook("playbooks/site.yml", "converge-1.log"))
    timed("second converge", lambda: playbook("playbooks/site.yml", "converge-2.log"))
    recap = (CACHE / "converge-2.log").read_text(encoding="utf-8").rpartition("PLAY RECAP")[2]
    if "changed=0" not in recap or any(f"changed={n}" in recap for n in range(1, 10)):
        say("NOTE: the second converge changed something:" + recap)
    prove()


def prove() -> None:
    """Log in, run cells on both nodes, and print the table."""
    ca = CACHE / "ca.crt"
    ca.write_text(ssh("cat /etc/metalhub/pki/ca.crt"), encoding="ascii")
    password = CACHE / "admin-password"
    password.touch(mode=0o600)
    password.write_text(ssh(f"cat {PASSWORD_FILE}"), encoding="utf-8")
    try:
        sys.stdout.flush()
        argv = [str(VENV / "bin" / "python"), str(ROOT / "demo" / "prove.py"), "--address", CONTROL, "--domain", DOMAIN]
        argv += ["--ca", str(ca), "--password-file", str(password), "--nodes", "compute1", "compute2"]
        # Swarm's own word on where the session runs, by the label that the hub gives its services.
        service = "$(docker service ls -q --filter label=metalhub.user={user})"
        services = f"docker service ps --filter desired-state=running --format '{{{{.Node}}}}' {service}"
        argv += ["--locate", shlex.join(ssh_argv(services))]
        argv += ["--timings", *(f"{name}={seconds:.1f}" for name, seconds in timings.items())]
        if subprocess.run(argv, check=False).returncode != 0:
            raise TestbedError("the proof failed: the lines above say where")
    finally:
        password.unlink()
    print(f"""
Open https://{DOMAIN}/ in a browser on this machine, after
    echo '{CONTROL} {DOMAIN}' >> /etc/hosts       and trusting {ca.relative_to(ROOT)}
The first user is `admin`; the password is on the control host:
    testbed/testbed.py exec {NET} control -- cat {PASSWORD_FILE}
`make demo-down` removes everything.""")


def down() -> None:
    """Remove the hosts, the images that the demo built, and its files; the virtual environment and base image stay cached."""
    testbed.down(NET)
    if testbed.engine_answers():
        # By the names under which they were pushed to the demo's registry: another site's images are not ours.
        listed = testbed.run("docker", "images", "--format", "{{.Repository}}:{{.Tag}}").stdout.split()
        built = [name for name in listed if name.startswith(f"{CONTROL}:")]
        if built:
            testbed.run("docker", "rmi", *built, check=False)
    for trust in Path("/etc/docker/certs.d").glob(f"{CONTROL}:*"):
        shutil.rmtree(trust)
    shutil.rmtree(CACHE, ignore_errors=True)


def main() -> int:
    """Read the command line, do it; errors are one message and exit status 1."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(dest="command", required=True)
    commands.add_parser("up")
    commands.add_parser("down")
    commands.add_parser("prove")
    command = commands.add_parser("venv")
    command.add_argument("--requirements", type=Path, default=Path("requirements/controller.txt"))
    options = parser.parse_args()
    try:
        if options.command == "venv":
            make_venv(ROOT / options.requirements)
        else:
            {"up": up, "down": down, "prove": prove}[options.command]()
    except TestbedError as error:
        print(f"demo: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
