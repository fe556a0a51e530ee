"""What a session is: its limits, its walls, and the three places in it."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable, Iterator

import pytest
from cluster import Cluster, Hub, wait

from demo.client import Kernel

Guest = Callable[[str], Hub]
Note = Callable[[str, object], None]
MEMORY = 1 << 30  # of the demo's default flavor


@pytest.fixture(scope="module")
def limited(cluster: Cluster) -> Iterator[tuple[Hub, Kernel]]:
    """One session of the default profile, and a kernel in it."""
    user = "t-limits"
    cluster.admin.request("POST", f"/hub/api/users/{user}")
    cluster.stop_all(user)
    hub = cluster.admin.as_user(user)
    hub.start(user, None)
    with hub.kernel(user) as kernel:
        yield hub, kernel
    cluster.stop_all(user)


def ask(kernel: Kernel, code: str) -> object:
    """Run a cell whose last print is JSON, and return that."""
    return json.loads(kernel.run(textwrap.dedent(code)).splitlines()[-1])


def test_a_session_has_no_privileges(cluster: Cluster, limited: tuple[Hub, Kernel]) -> None:
    _, kernel = limited
    found = ask(
        kernel,
        """
        import ctypes, json, os
        status = dict(line.split(":\\t", 1) for line in open("/proc/self/status").read().splitlines() if ":\\t" in line)
        libc = ctypes.CDLL(None, use_errno=True)
        print(json.dumps({
            "effective": status["CapEff"], "bounding": status["CapBnd"], "no new privileges": libc.prctl(39, 0, 0, 0, 0),
            "ids": os.getresuid() + os.getresgid(), "setuid": libc.setuid(0),
        }))
        """,
    )
    none = "0" * 16
    assert found == {"effective": none, "bounding": none, "no new privileges": 1, "ids": [1000] * 6, "setuid": -1}
    # gVisor says "no new privileges" in any case: what the engine was told is looked at too.
    node = cluster.node_of("t-limits")
    (container,) = cluster.containers(node, "t-limits")
    config = json.loads(cluster.ssh(node, f"docker inspect -f '{{{{json .HostConfig}}}}' {container}"))
    assert "no-new-privileges" in json.dumps(config["SecurityOpt"]), config["SecurityOpt"]
    assert config["CapDrop"] == ["ALL"] and not config["Privileged"]


def test_the_hub_answers_a_session_nothing_but_its_own(limited: tuple[Hub, Kernel]) -> None:
    """The one port of the control host that a session reaches, without a token and with the session's own."""
    _, kernel = limited
    asked = [["GET", "users"], ["GET", "services"], ["GET", "proxy"], ["POST", "users/admin/server"], ["POST", "users/admin/tokens"], ["DELETE", "users/admin"]]
    found = ask(
        kernel,
        f"""
        import json, os, urllib.error, urllib.request
        def status(method, path, **headers):
            request = urllib.request.Request(os.environ["JUPYTERHUB_API_URL"] + "/" + path, method=method, headers=headers)
            try:
                return urllib.request.urlopen(request, timeout=5).status
            except urllib.error.HTTPError as error:
                return error.code
        own = {{"Authorization": "token " + os.environ["JUPYTERHUB_API_TOKEN"]}}
        print(json.dumps({{
            "alive": status("GET", ""), "own": status("GET", "user", **own),
            "without": [status(*each) for each in {asked}], "with": [status(*each, **own) for each in {asked}],
        }}))
        """,
    )
    assert isinstance(found, dict)
    assert (found["alive"], found["own"]) == (200, 200), "it does answer"
    assert set(found["without"]) == {403}, found
    assert set(found["with"]) <= {403, 404}, found


def test_the_system_is_read_only_and_the_three_places_are_not(limited: tuple[Hub, Kernel]) -> None:
    _, kernel = limited
    found = ask(
        kernel,
        """
        import errno, json, os
        def write(directory):
            path = os.path.join(directory, "metalhub-was-here")
            try:
                with open(path, "w") as file:
                    file.write("x")
                os.unlink(path)
                return "written"
            except OSError as error:
                return errno.errorcode[error.errno]
        print(json.dumps({path: write(path) for path in
            ("/", "/etc", "/usr", "/usr/local", "/opt", "/proc/sys/kernel", "/sys", "/home/user", "/mnt/shared", "/data", "/tmp", "/dev/shm")}))
        """,
    )
    assert isinstance(found, dict)
    written = {path for path, what in found.items() if what == "written"}
    assert written == {"/home/user", "/mnt/shared", "/data", "/tmp", "/dev/shm"}, found


def test_processes_and_processors_are_limited(cluster: Cluster, limited: tuple[Hub, Kernel]) -> None:
    _, kernel = limited
    # What the kernel of the node enforces, whatever runs in the sandbox.
    node = cluster.node_of("t-limits")
    (container,) = cluster.containers(node, "t-limits")
    script = f"""
        set -- $(docker inspect -f '{{{{.State.Pid}}}}' {container})
        path() {{ grep -E ":($1|[a-z,]*,$1|$1,[a-z,]*):" /proc/$2/cgroup | cut -d: -f3; }}
        if [ -e /sys/fs/cgroup/cgroup.controllers ]; then
            cd /sys/fs/cgroup$(grep ^0:: /proc/$1/cgroup | cut -d: -f3); cat pids.max cpu.max memory.max
        else
            cat /sys/fs/cgroup/pids$(path pids $1)/pids.max
            cd /sys/fs/cgroup/cpu$(path cpu $1); echo $(cat cpu.cfs_quota_us) $(cat cpu.cfs_period_us)
            cat /sys/fs/cgroup/memory$(path memory $1)/memory.limit_in_bytes
        fi"""
    pids, *others = cluster.ssh(node, script).split()
    assert others == ["100000", "100000", str(MEMORY)]
    assert 1024 <= int(pids) <= 4096, "the sandbox's own tasks come on top"
    # What somebody in it meets. (1024 forks of Python would meet the limit of memory first.)
    found = ask(
        kernel,
        """
        import errno, json, os, signal, threading
        done, children, refused = threading.Event(), [], ""
        threading.stack_size(1 << 17)
        for _ in range(850):  # threads count like processes, and are cheaper
            threading.Thread(target=done.wait).start()
        try:
            while len(children) < 250:
                children.append(os.posix_spawn("/bin/sleep", ["sleep", "60"], {}))
        except OSError as error:
            refused = errno.errorcode[error.errno]
        for child in children:
            os.kill(child, signal.SIGKILL)
        for child in children:
            os.waitpid(child, 0)
        done.set()
        print(json.dumps([len(children), refused]))
        """,
    )
    assert isinstance(found, list)
    assert 50 < found[0] <= 1024 - 850 and found[1] == "EAGAIN", found
    assert kernel.run("print('still here')").strip() == "still here"


def test_the_home_has_a_limit_that_cuts(cluster: Cluster, limited: tuple[Hub, Kernel]) -> None:
    _, kernel = limited
    home = cluster.home("t-limits")
    limit = f"btrfs qgroup show -rf --raw {home} | awk 'END {{print $4}}'"
    assert cluster.ssh(cluster.storage, limit) == str(1 << 30), "the start set the quota's workspace size"
    # 1 GiB takes too long to write here; the same cut, lower down.
    cluster.ssh(cluster.storage, f"btrfs qgroup limit 32M {home}")
    found = ask(
        kernel,
        """
        import errno, json, os
        written, refused, path = 0, "", "/home/user/too-large"
        try:
            with open(path, "wb") as file:
                while written < 64:
                    file.write(os.urandom(1 << 20))
                    file.flush()
                    os.fsync(file.fileno())
                    written += 1
        except OSError as error:
            refused = errno.errorcode[error.errno]
        os.unlink(path)
        print(json.dumps([written, refused]))
        """,
    )
    assert isinstance(found, list)
    assert found[1] in ("EDQUOT", "ENOSPC") and 16 <= found[0] <= 32, found


def test_home_and_shared_folder_follow_to_the_other_node_and_scratch_does_not(cluster: Cluster, guest: Guest) -> None:
    first, second = cluster.compute[:2]
    one, other = guest("t-walker"), guest("t-reader")
    cluster.only(first)
    one.start("t-walker", None)
    assert cluster.node_of("t-walker") == first
    with one.kernel("t-walker") as kernel:
        kernel.run("for place in ('/home/user', '/mnt/shared', '/data'): open(place + '/walk', 'w').write('from the first node')")
    one.stop("t-walker")
    cluster.only(second)
    one.start("t-walker", None)
    assert cluster.node_of("t-walker") == second
    code = """
        import json
        def read(path):
            try:
                return open(path).read()
            except FileNotFoundError:
                return None
        print(json.dumps([read(place + "/walk") for place in ("/home/user", "/mnt/shared", "/data")]))
    """
    with one.kernel("t-walker") as kernel:
        assert ask(kernel, code) == ["from the first node", "from the first node", None]
    # Somebody else sees the shared folder only.
    cluster.only(first)
    other.start("t-reader", None)
    with other.kernel("t-reader") as kernel:
        assert ask(kernel, code) == [None, "from the first node", None]
        kernel.run("import os; os.unlink('/mnt/shared/walk')")
    with one.kernel("t-walker") as kernel:
        assert ask(kernel, code) == ["from the first node", None, None]
        kernel.run("import os; os.unlink('/home/user/walk')")


def test_a_session_that_takes_too_much_memory_ends_and_says_so(cluster: Cluster, limited: tuple[Hub, Kernel], record_property: Note) -> None:
    """Last in this file: it costs the session."""
    hub, kernel = limited
    kernel.channel.settimeout(5)
    with pytest.raises(Exception):  # noqa: B017 - a closed socket or a dead kernel, whichever is first
        kernel.run(f"hog = bytearray({MEMORY * 2}); hog[::4096] = b'x' * len(hog[::4096])")
    wait("the end of the session", lambda: not cluster.server("t-limits"), 30)
    cluster.nothing_left("t-limits")
    record = json.loads(cluster.ssh(cluster.control, "grep t-limits /var/lib/metalhub/hub/audit.jsonl | grep session.stopped | tail -1"))
    assert (record["kind"], record["facts"]["cause"]) == ("session.stopped", "memory"), record
    found = cluster.diagnosis("t-limits")
    assert found["cause"] == "out of memory" and found["facts"]["machine"] and found["step"], found
