"""Sessions that are paused give their memory back and come back whole, in runc and in gVisor."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "tests"))

from hibernation.stage import SANDBOXES, Stage  # noqa: E402

MIB = 1 << 20


@pytest.fixture(scope="module")
def stage() -> Iterator[Stage]:
    made = Stage(f"mol-{os.environ['MOLECULE_SCENARIO_NAME']}")
    made.up()
    yield made
    made.node.run("docker ps -aq --filter label=metalhub.session | xargs -r docker rm -f", check=False)


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_memory_is_given_back_and_the_session_comes_back_whole(stage: Stage, sandbox: str) -> None:
    found = stage.call("measure", sandbox, 64, 8)
    shares = [1 - left / held for held, left in zip(found["held"], found["left"], strict=True)]
    print(f"{sandbox}: at least {min(shares):.1%} given back, wakes {sorted(round(wake * 1000) for wake in found['wakes'])} ms")
    assert found["same"] and len(shares) == 8
    assert min(found["held"]) > 64 * MIB
    assert min(shares) >= 0.7, found


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_an_agent_that_is_killed_in_the_middle_loses_nothing(stage: Stage, sandbox: str) -> None:
    found = stage.call("killed", sandbox, 128)
    assert found["check"] == {"hibernates": True, "why": ""}
    assert found["woken"] and found["same"] and found["paused"]
    assert found["left"] < 0.3 * 128 * MIB


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_session_that_is_woken_in_the_middle_is_left_alone(stage: Stage, sandbox: str) -> None:
    found = stage.call("interrupted", sandbox, 128)
    assert found["same"] and found["state"] == "running"
    assert found["memory"] > 128 * MIB and found["later"] > found["memory"] - 8 * MIB, found


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_one_that_is_too_large_keeps_its_memory(stage: Stage, sandbox: str) -> None:
    found = stage.call("refused", sandbox, 200)
    assert found["check"]["hibernates"] is False and "at most 192M can hibernate" in found["check"]["why"]
    assert (found["state"], found["same"]) == ("frozen", True)
    assert found["after"] > 0.98 * found["before"] > 200 * MIB


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_what_the_kernel_killed_for_memory_is_told(stage: Stage, sandbox: str) -> None:
    found = stage.call("out_of_memory", sandbox, 64)
    assert found["state"] == "ended" and found["oom"] >= 1
    assert found["limit"] == 128 * MIB and found["peak"] >= 0.9 * found["limit"], found


def test_without_swap_nothing_is_taken(stage: Stage) -> None:
    stage.node.run("systemctl stop metalhub-swap")
    try:
        found = stage.call("refused", "gvisor", 32)
    finally:
        stage.node.run("systemctl start metalhub-swap")
    assert found["check"]["hibernates"] is False and "no swap" in found["check"]["why"]
    assert (found["state"], found["same"]) == ("frozen", True)
    assert found["after"] > 0.98 * found["before"] > 32 * MIB


def test_only_the_hub_is_answered(stage: Stage) -> None:
    found = stage.call("strangers", "runc")
    # No answer at all: a host's certificate is none of a client.
    assert found.keys() == {"node", "none"} and all("Error" in words for words in found.values()), found


def test_the_agent_outlives_a_restart_of_the_engine(stage: Stage) -> None:
    stage.node.run("systemctl restart docker.service")
    found = stage.call("measure", "runc", 32, 1)
    assert found["same"] and found["left"][0] < 0.3 * found["held"][0]


@pytest.mark.parametrize("sandbox", SANDBOXES)
def test_a_session_that_was_nobodys_gets_a_home(stage: Stage, sandbox: str) -> None:
    found = stage.call("given", sandbox)
    assert "has no directory here" in found["unknown"]["error"] and "somebody's already" in found["again"]["error"]
    assert found["made"] == found["given"] == {} and found["claim"] == {"user": "ann", "profile": "small"}
    assert found["log"].startswith("years") and "before" not in found["log"], "what is written before there is a home would be lost"
    assert found["cleared"] and found["files"] == ["thesis", "written"] and found["written"] == "mine\n", found
    print(f"{sandbox}: the home was there after {found['seconds'] * 1000:.0f} ms")


def test_the_unit_is_exposed_no_more_than_it_must(stage: Stage) -> None:
    text = stage.node.run("systemd-analyze security metalhub-session-agent --no-pager | tail -n 1")
    assert float(text.split("service:")[1].split()[0]) <= 1.5, text
    assert stage.node.run("systemctl show metalhub-session-agent -p CapabilityBoundingSet --value").strip() == ""
