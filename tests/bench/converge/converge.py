#!/usr/bin/env python3
"""How long does a run take that changes nothing? Ours, stock modules, and stock modules under Mitogen, side by side.

Ours is shown twice: as it is (every host is asked once all that the last run asked, playbooks/site.yml), and task by task.

    converge.py                      the site on test hosts of its own, at 1, 2 and 4 hosts
    converge.py -i INVENTORY PLAYBOOK --limits h1 h1,h2      any playbook on hosts that are already there

At each size the site is converged until it changes nothing; that run is recorded, and the opponents' playbook is written from the
record and the hosts (opponent.py). Then all of them run in turn, A B C A B C, each from a cold start (no open SSH connection),
and each must report changed=0. Medians and their ratios are printed; a table, the raw numbers and a plot go to the output directory.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import math
import os
import re
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import typing as t
from pathlib import Path

import opponent
import yaml

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path.insert(0, str(ROOT / "testbed"))
import testbed  # noqa: E402

BIN = Path(sys.executable).parent
MITOGEN = "0.3.54"
NET = "bench"
HOSTS = ["control", "compute1", "compute2", "compute3"]
NAMES = {
    "ours": "Metalhub",
    "tasks": "Metalhub, task by task",
    "stock": "stock modules, pipelined",
    "mitogen": f"stock modules, Mitogen {MITOGEN}",
}
COLORS = {"ours": "#0b7285", "tasks": "#2b8a3e", "stock": "#c92a2a", "mitogen": "#e67700"}

Run = dict[str, float]


def environment(**more: str) -> dict[str, str]:
    """Settings of a run: the repository's ansible.cfg and no colours."""
    return {**os.environ, "ANSIBLE_CONFIG": str(ROOT / "ansible.cfg"), "ANSIBLE_NOCOLOR": "1", "ANSIBLE_FORCE_COLOR": "0", **more}


@contextlib.contextmanager
def cold_ssh() -> t.Iterator[dict[str, str]]:
    """Give a run a directory of its own for SSH's control sockets, and close what it opened."""
    # A socket's path has at most 107 bytes. The same name each time: the environment is part of what may not differ.
    directory = Path(tempfile.gettempdir()) / f"mhb-{os.getpid()}"
    directory.mkdir(mode=0o700)
    try:
        yield {"ANSIBLE_SSH_CONTROL_PATH_DIR": str(directory)}
    finally:
        for socket in directory.iterdir():
            subprocess.run(["ssh", "-o", f"ControlPath={socket}", "-O", "exit", "x"], check=False, capture_output=True, timeout=20)
        shutil.rmtree(directory, ignore_errors=True)


def play(playbook: Path, arguments: list[str], env: dict[str, str], log: Path, timeout: float) -> tuple[Run, str]:
    """Run ansible-playbook; returns wall and CPU seconds, and its output. Raises SystemExit when it fails."""
    argv = [str(BIN / "ansible-playbook"), *arguments, str(playbook)]
    with cold_ssh() as ssh, log.open("w+", encoding="utf-8") as stream:
        begun = time.monotonic()
        process = subprocess.Popen(
            argv, cwd=ROOT, env=environment(**ssh, **env), stdin=subprocess.DEVNULL, stdout=stream, stderr=subprocess.STDOUT
        )
        # wait4 and not wait: it counts the CPU time of this run alone, its SSH clients included.
        while True:
            pid, status, usage = os.wait4(process.pid, os.WNOHANG)
            wall = time.monotonic() - begun
            if pid:
                process.returncode = os.waitstatus_to_exitcode(status)
                break
            if wall > timeout:
                process.kill()
                raise SystemExit(f"{playbook.name} took more than {timeout:.0f} s, see {log}")
            time.sleep(0.005)
    output = log.read_text(encoding="utf-8")
    if process.returncode != 0:
        raise SystemExit(f"{' '.join(argv)}\nended with {process.returncode}:\n{output[-3000:]}")
    return {"wall": wall, "cpu": usage.ru_utime + usage.ru_stime}, output


def changes(output: str) -> int:
    """Count the changes that a run reports over all hosts."""
    return sum(int(number) for number in re.findall(r"\bchanged=(\d+)", output))


def install_mitogen(directory: Path) -> dict[str, str]:
    """Put Mitogen into a directory of its own, beside our packages, and return the settings that select it."""
    target = directory / f"mitogen-{MITOGEN}"
    if not (target / "ansible_mitogen").is_dir():
        subprocess.run([sys.executable, "-m", "venv", "--clear", str(target / "venv")], check=True, timeout=120)
        pip = [str(target / "venv/bin/pip"), "install", "--quiet", "--disable-pip-version-check", "--no-deps", "--target", str(target)]
        subprocess.run([*pip, f"mitogen=={MITOGEN}"], check=True, timeout=300)
    return {
        "PYTHONPATH": str(target),
        "ANSIBLE_STRATEGY_PLUGINS": str(target / "ansible_mitogen/plugins/strategy"),
        "ANSIBLE_STRATEGY": "mitogen_linear",
        "ANSIBLE_DEPRECATION_WARNINGS": "false",
    }


def hosts_of(arguments: list[str]) -> dict[str, dict[str, t.Any]]:
    """Ask ansible-inventory for the hosts' variables."""
    inventory = [word for option, value in itertools.pairwise(arguments) if option == "-i" for word in (option, value)]
    done = subprocess.run(
        [str(BIN / "ansible-inventory"), *inventory, "--list"],
        cwd=ROOT,
        env=environment(),
        check=True,
        capture_output=True,
        text=True,
        timeout=60,
    )
    found: dict[str, dict[str, t.Any]] = json.loads(done.stdout)["_meta"]["hostvars"]
    return found


def remote(variables: dict[str, dict[str, t.Any]]) -> opponent.Remote:
    """Return a function that runs a shell command on a host of the inventory."""

    def run(host: str, command: str) -> bytes:
        facts = variables[host]
        argv = ["ssh", "-o", "BatchMode=yes", "-i", facts["ansible_ssh_private_key_file"], *shlex.split(facts["ansible_ssh_common_args"])]
        argv += ["-l", facts["ansible_user"], facts["ansible_host"], command]
        return subprocess.run(argv, check=True, capture_output=True, timeout=60).stdout

    return run


def site_inventory(access: Path, count: int, directory: Path) -> list[str]:
    """Write the inventory of a site with `count` hosts: all of them compute nodes, the first also all the rest."""
    hosts = HOSTS[:count]
    demo = ROOT / "inventories/demo"
    target = directory / f"site-{count}"
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    (target / "group_vars").symlink_to(demo / "group_vars")
    addresses = yaml.safe_load(access.read_text(encoding="utf-8"))["all"]
    first = {"hosts": {hosts[0]: None}}
    groups = {f"metalhub_{name}": first for name in ("control", "managers", "storage", "registry")}
    groups["metalhub_compute"] = {"hosts": dict.fromkeys(hosts), "vars": {"metalhub_pool": "cpu"}}
    addresses["hosts"] = {host: facts for host, facts in addresses["hosts"].items() if host in hosts}
    addresses["hosts"]["localhost"] = {"ansible_connection": "local", "ansible_python_interpreter": "{{ ansible_playbook_python }}"}
    groups["metalhub_builders"] = {"hosts": {"localhost": None}}
    addresses["children"] = groups
    (target / "hosts.yml").write_text(yaml.safe_dump({"all": addresses}), encoding="utf-8")
    # What the demo's inventory reads from files beside it.
    bundle = testbed.write_extra_ca_bundle()
    given = {"metalhub_extra_ca_bundle": str(bundle or ""), "images_base_image": testbed.base_image()}
    return ["-i", str(target), "-e", json.dumps(given)]


def settle(playbook: Path, arguments: list[str], out: Path, tag: str) -> float:
    """Converge until a run changes nothing, at most three times; returns the seconds of the first run."""
    first = None
    for attempt in range(3):
        run, output = play(playbook, arguments, {}, out / f"{tag}-converge{attempt}.log", 1800)
        first = first if first is not None else run["wall"]
        say(f"  converge {attempt + 1}: {run['wall']:.1f} s, {changes(output)} changes")
        if changes(output) == 0:
            return first
    raise SystemExit(f"the third run still changes something: {out}/{tag}-converge2.log")


def say(text: str) -> None:
    print(text, flush=True)


def print_profile(records: list[opponent.Record], top: int) -> None:
    """Print the tasks that took longest, each with the hosts it ran on."""
    tasks: dict[str, list[opponent.Record]] = {}
    for record in records:
        tasks.setdefault(record["task"], []).append(record)
    rows = sorted(((max(r["seconds"] for r in group), group) for group in tasks.values()), key=lambda row: -row[0])
    say(f"  {len(tasks)} tasks, {len(records)} results; the slowest (seconds from the task's start to its last result):")
    for seconds, group in rows[:top]:
        say(f"    {seconds:6.3f}  {len(group)} hosts  {group[0]['action'].removeprefix('ansible.builtin.'):32} {group[0]['name']}")
    by_action: dict[str, list[float]] = {}
    for seconds, group in rows:
        by_action.setdefault(group[0]["action"] if group[0]["state"] != "skipped" else "(skipped)", []).append(seconds)
    for action, times in sorted(by_action.items(), key=lambda row: -sum(row[1])):
        say(f"    {sum(times):6.2f} s in {len(times):3} tasks, median {statistics.median(times):.3f}  {action}")


def plot(sizes: list[int], medians: dict[str, dict[int, float]]) -> str:
    """Draw seconds over hosts as SVG, the seconds on a logarithmic scale."""
    width, height, left, right, top, bottom = 640, 360, 56, 200, 36, 40
    values = [v for series in medians.values() for v in series.values()]
    low, high = math.floor(math.log10(min(values))), math.ceil(math.log10(max(values)))
    high = max(high, low + 1)

    def x(size: float) -> float:
        return left + (width - left - right) * (size - sizes[0]) / max(1, sizes[-1] - sizes[0])

    def y(seconds: float) -> float:
        return height - bottom - (height - top - bottom) * (math.log10(seconds) - low) / (high - low)

    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" font-family="sans-serif" font-size="12">',
        f'<rect width="{width}" height="{height}" fill="#fff"/>',
        f'<text x="{left}" y="20" font-size="14">A run that changes nothing: seconds (log) over hosts</text>',
    ]
    for decade in range(low, high + 1):
        at = y(10**decade)
        parts.append(f'<line x1="{left}" x2="{width - right}" y1="{at:.1f}" y2="{at:.1f}" stroke="#dee2e6"/>')
        parts.append(f'<text x="{left - 6}" y="{at + 4:.1f}" text-anchor="end">{10**decade:g} s</text>')
    for size in sizes:
        parts.append(f'<text x="{x(size):.1f}" y="{height - bottom + 18}" text-anchor="middle">{size}</text>')
    for name, series in medians.items():
        points = " ".join(f"{x(size):.1f},{y(series[size]):.1f}" for size in sizes)
        parts.append(f'<polyline points="{points}" fill="none" stroke="{COLORS[name]}" stroke-width="2"/>')
        for size in sizes:
            parts.append(f'<circle cx="{x(size):.1f}" cy="{y(series[size]):.1f}" r="3" fill="{COLORS[name]}"/>')
        end = series[sizes[-1]]
        parts.append(f'<text x="{x(sizes[-1]) + 8:.1f}" y="{y(end) + 4:.1f}" fill="{COLORS[name]}">{NAMES[name]}: {end:.1f} s</text>')
    return "\n".join([*parts, "</svg>", ""])


def table(sizes: list[int], runs: dict[str, dict[int, list[Run]]]) -> str:
    """Format medians, spreads, slopes and ratios as a Markdown table."""
    pairs = [(other, own) for other in runs if other not in ("ours", "tasks") for own in ("ours", "tasks")]
    heads = ["hosts", *(NAMES[name] for name in runs), *(f"{other} / {own}" for other, own in pairs)]
    lines = ["| " + " | ".join(heads) + " |", "|" + " ---: |" * len(heads)]
    for size in sizes:
        walls = {name: [run["wall"] for run in runs[name][size]] for name in runs}
        cpu = {name: statistics.median(run["cpu"] for run in runs[name][size]) for name in runs}
        cells = [f"{statistics.median(w):.2f} s ({min(w):.2f}–{max(w):.2f}), cpu {cpu[name]:.1f} s" for name, w in walls.items()]
        # Ratios are taken within each round, where all met the same load of the machine.
        ratios = [statistics.median(b / a for a, b in zip(walls[own], walls[other], strict=True)) for other, own in pairs]
        lines.append(f"| {size} | " + " | ".join([*cells, *(f"{ratio:.1f}x" for ratio in ratios)]) + " |")
    if len(sizes) > 1:
        cells = []
        for name in runs:
            first, last = (statistics.median(run["wall"] for run in runs[name][size]) for size in (sizes[0], sizes[-1]))
            slope = (last - first) / (sizes[-1] - sizes[0])
            first, last = (statistics.median(run["cpu"] for run in runs[name][size]) for size in (sizes[0], sizes[-1]))
            cells.append(f"{slope:.2f} s, cpu {(last - first) / (sizes[-1] - sizes[0]):.2f} s")
        lines.append("| each more | " + " | ".join(cells) + " |" + "  |" * len(pairs))
    return "\n".join(lines) + "\n"


def measure(
    playbook: Path, arguments: list[str], tag: str, options: argparse.Namespace, mitogen: dict[str, str] | None
) -> dict[str, list[Run]]:
    """Settle, record, write the opponent and run all contenders in turn."""
    out = options.out
    if not options.settled:
        settle(playbook, arguments, out, tag)
    record = out / f"{tag}-record.jsonl"
    recording = {
        "METALHUB_BENCH_RECORD": str(record),
        "ANSIBLE_CALLBACK_PLUGINS": str(HERE / "callback"),
        "ANSIBLE_CALLBACKS_ENABLED": "record",
    }
    _, output = play(playbook, arguments, recording, out / f"{tag}-record.log", 600)
    if changes(output):
        raise SystemExit(f"the recorded run changed something: {out}/{tag}-record.log")
    records = opponent.read_records(record)
    print_profile(records, options.profile)
    by_task = [*arguments, "--tags=all,always"]  # a run by tags keeps no record and asks none, and is the same otherwise
    contenders: dict[str, tuple[Path, list[str], dict[str, str]]] = {"ours": (playbook, arguments, {}), "tasks": (playbook, by_task, {})}
    play(playbook, arguments, {}, out / f"{tag}-ours.log", 600)  # the run that is kept, and asked again from then on
    if not options.ours_only:
        directory = out / f"{tag}-opponent"
        shutil.rmtree(directory, ignore_errors=True)
        directory.mkdir(mode=0o700)
        path, counts = opponent.write_opponent(records, remote(hosts_of(arguments)), directory)
        say("  the opponents' playbook: " + ", ".join(f"{n} {name.removeprefix('ansible.builtin.')}" for name, n in sorted(counts.items())))
        contenders["stock"] = (path, by_task, {})
        if mitogen:
            contenders["mitogen"] = (path, by_task, mitogen)
    runs: dict[str, list[Run]] = {name: [] for name in contenders}
    for repeat in range(options.repeats):
        for name, (path, how, env) in contenders.items():
            run, output = play(path, how, env, out / f"{tag}-{name}.log", 1800)
            if changes(output):
                raise SystemExit(f"{name} changed something, so it does not ask for the same state: {out}/{tag}-{name}.log")
            runs[name].append(run)
        say(
            f"  round {repeat + 1}: "
            + ", ".join(f"{name} {series[-1]['wall']:.2f} s (cpu {series[-1]['cpu']:.1f})" for name, series in runs.items())
        )
    return runs


def main() -> int:
    """Read the command line, measure, and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("playbook", nargs="?", type=Path, default=ROOT / "playbooks/site.yml")
    parser.add_argument("-i", dest="inventory", action="append", default=[], help="hosts that are there; without it test hosts are started")
    parser.add_argument("-e", dest="extra", action="append", default=[], help="extra variables for all contenders")
    parser.add_argument("--limits", nargs="+", help="with -i: the sizes, each a list of hosts such as h1,h2")
    parser.add_argument("--sizes", nargs="+", type=int, default=[1, 2, 4], help="without -i: how many hosts (at most 4)")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--ours-only", action="store_true", help="no opponents")
    parser.add_argument("--settled", action="store_true", help="do not converge first")
    parser.add_argument("--keep", action="store_true", help="leave the test hosts running")
    parser.add_argument("--profile", type=int, default=12, metavar="N", help="print the N slowest tasks")
    parser.add_argument("--out", type=Path, default=ROOT / ".cache/bench/converge")
    options = parser.parse_args()
    options.out = options.out.resolve()
    options.out.mkdir(parents=True, exist_ok=True)
    mitogen = None if options.ours_only else install_mitogen(options.out)
    extra = [word for value in options.extra for word in ("-e", value)]
    runs: dict[str, dict[int, list[Run]]] = {}
    if options.inventory:
        base = [word for path in options.inventory for word in ("-i", path)] + extra
        cases = [(len(limit.split(",")), [*base, f"--limit={limit}"]) for limit in options.limits or ["all"]]
    else:
        hosts = testbed.up(NET, HOSTS[: max(options.sizes)])
        cases = [(size, site_inventory(hosts, size, options.out) + extra) for size in sorted(options.sizes)]
    try:
        for size, arguments in cases:
            say(f"{size} host{'s' if size > 1 else ''}:")
            for name, series in measure(options.playbook.resolve(), arguments, str(size), options, mitogen).items():
                runs.setdefault(name, {})[size] = series
    finally:
        if not options.inventory and not options.keep:
            testbed.down(NET)
    sizes = sorted(next(iter(runs.values())))
    medians = {name: {size: statistics.median(run["wall"] for run in series[size]) for size in sizes} for name, series in runs.items()}
    text = table(sizes, runs)
    (options.out / "converge.md").write_text(text, encoding="utf-8")
    (options.out / "converge.json").write_text(json.dumps(runs, indent=1), encoding="utf-8")
    (options.out / "converge.svg").write_text(plot(sizes, medians), encoding="utf-8")
    say(
        f"\n{text}\nmedians of {options.repeats} runs in turn, each from a cold start; cpu is the controller's, SSH included; plot and raw numbers: {options.out}"
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())
