"""Causes that the other tests do not bring about anyway, produced for real, and named by the command line."""

from __future__ import annotations

import json
from collections.abc import Callable

from cluster import Cluster, Hub, wait

Guest = Callable[[str], Hub]
USER = "t-why"


def test_a_session_that_is_well(cluster: Cluster, guest: Guest) -> None:
    hub = guest(USER)
    hub.start(USER, None)
    found = cluster.diagnosis(USER)
    assert found["cause"] == "healthy" and found["facts"]["machine"] == cluster.node_of(USER), found
    # Its user sees the same, and nobody else does.
    assert hub.request("GET", f"/hub/metalhub/api/users/{USER}/session/diagnosis").json()["cause"] == "healthy"
    assert guest("t-other").request("GET", f"/hub/metalhub/api/users/{USER}/session/diagnosis").status == 404


def test_a_full_home(cluster: Cluster, guest: Guest) -> None:
    hub = guest(USER)
    hub.start(USER, None)
    fill = "import errno\nwith open('/home/user/fill', 'wb', 0) as file:\n    try:\n        while True: file.write(b'x' * (1 << 20))\n"
    fill += "    except OSError as error: print(errno.errorcode[error.errno])"
    try:
        with hub.kernel(USER) as kernel:
            assert kernel.run(fill).strip() in ("EDQUOT", "ENOSPC")

        def full() -> bool:
            cluster.ssh(cluster.storage, f"sync -f {cluster.home(USER)}")
            return bool(cluster.diagnosis(USER)["cause"] == "home full")

        wait("the storage's word that the home is full", full, 40, 1)
        assert cluster.diagnosis(USER)["facts"]["home now"].endswith("of 1 GiB")
        hub.stop(USER)
        # Whether a session starts in it or not: it is named.
        assert cluster.diagnosis(USER)["cause"] in ("home full", "stopped")
    finally:
        cluster.ssh(cluster.storage, f"rm -f {cluster.home(USER)}/fill")


def test_a_node_is_drained_and_comes_back(cluster: Cluster, guest: Guest) -> None:
    node, other = cluster.compute[:2]
    hub = guest(USER)
    cluster.only(node)
    hub.start(USER, None)
    cluster.only(node, other)
    try:
        done = cluster.ssh(cluster.control, f"metalhub node drain {node} --grace 15s --reason 'a test'")
        assert "takes no new sessions; its 1 sessions are told" in done
        view = hub.request("GET", f"/hub/metalhub/api/users/{USER}/sessions").json()["sessions"][0]
        assert any("is taken out of service" in text for text in view["troubles"]), view
        row = json.loads(cluster.ssh(cluster.control, f"metalhub node drain {node} --grace 0s --reason 'a test' --wait --json", timeout=120))
        assert (row["availability"], row["sessions"]) == ("drain", 0)
        found = cluster.diagnosis(USER)
        assert found["cause"] == "drain" and "a test" in found["sentence"], found
        hub.start(USER, None)
        assert cluster.node_of(USER) == other
    finally:
        cluster.ssh(cluster.control, f"metalhub node undrain {node}")
    assert cluster.nodes()[node]["Availability"] == "Active"
