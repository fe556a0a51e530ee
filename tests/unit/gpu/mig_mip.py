"""The planner's question as a mixed integer program for HiGHS, solved level by level: a second opinion for fleets of any size.

One integer variable a kind of GPU and end: how many GPUs of this kind end so. Ends and their costs come from ``mig_brute``, not
from the planner. It holds where no more of a profile exists than is wanted, or nothing of it is wanted.
"""

from __future__ import annotations

from collections.abc import Sequence

import highspy
import mig_brute
import numpy as np
from ansible_collections.metalhub.platform.plugins.module_utils.mig_fleet import Gpu, Request

LEVELS = 6  # mode changes, destroyed, partitioned, wasted compute, wasted memory, fragmentation


def ends_of(gpu: Gpu, wanted: set[str], pinned: frozenset[str]) -> dict[tuple[tuple[str, ...], tuple[int, ...]], int]:
    """The ends of a GPU: the wanted instances it has then, and the cost. Ends that agree in both are one."""
    now = frozenset((each.start, each.profile) for each in gpu.instances)
    stay = frozenset((each.start, each.profile) for each in gpu.instances if each.busy or each.uuid in pinned)
    fixed = gpu.uuid in pinned or (gpu.busy and not gpu.mig_enabled)
    found: dict[tuple[tuple[str, ...], tuple[int, ...]], int] = {}
    for end in [now] if fixed else mig_brute.layouts(gpu.model):
        if stay <= end and all(name in wanted for _, name in end - now):
            cost = (int(bool(end) and not gpu.mig_enabled), len(now - end), int(bool(end)), *mig_brute.left(gpu.model, end))
            found[tuple(sorted(name for _, name in end if name in wanted)), cost] = 1
    return found


def build(gpus: Sequence[Gpu], requests: Sequence[Request], pinned: frozenset[str] = frozenset()) -> tuple[list, list, list]:
    """Columns as (kind of GPU or None, what counts for which row, cost of all levels), the kinds' sizes, and the rows' totals."""
    kinds: dict[object, list[Gpu]] = {}
    for gpu in gpus:
        state = tuple((each.profile, each.start, each.busy or each.uuid in pinned) for each in gpu.instances)
        kinds.setdefault((gpu.model, gpu.mig_enabled, gpu.busy, gpu.uuid in pinned, state), []).append(gpu)
    profiles = sorted({request.profile for request in requests if request.count})
    pins = sorted({(request.profile, request.model) for request in requests if request.model and request.count})
    totals = [sum(request.count for request in requests if request.profile == name) for name in profiles]
    totals += [sum(request.count for request in requests if (request.profile, request.model) == pin) for pin in pins]
    columns = []
    for at, members in enumerate(kinds.values()):
        model = members[0].model.name
        for names, cost in ends_of(members[0], set(profiles), pinned):
            rows = {row: names.count(name) for row, name in enumerate(profiles)}
            rows |= {len(profiles) + row: names.count(name) for row, (name, which) in enumerate(pins) if which == model}
            columns.append((at, rows, (0,) * (1 + len(requests)) + cost))
    for number, request in enumerate(requests):
        rows = {row: 1 for row, name in enumerate(profiles) if name == request.profile}
        rows |= {len(profiles) + row: 1 for row, pin in enumerate(pins) if pin == (request.profile, request.model)}
        cost = tuple(int(level in (0, 1 + number)) for level in range(1 + len(requests)))
        columns.append((None, rows, cost + (0,) * LEVELS))
    limits = [(total, total) for total in totals[: len(profiles)]] + [(total, highspy.kHighsInf) for total in totals[len(profiles) :]]
    return columns, [len(members) for members in kinds.values()], limits


def solve(columns: list, sizes: list[int], limits: list) -> tuple[int, ...]:
    """The least of each level, given the least of those before. The first levels are what is missing, in all and by request."""
    starts, index, value = [0], [], []
    for kind, rows, _ in columns:
        entries = {row: count for row, count in rows.items() if count}
        if kind is not None:
            entries[len(limits) + kind] = 1
        index += entries.keys()
        value += entries.values()
        starts.append(len(index))
    low = [float(a) for a, _ in limits] + [float(size) for size in sizes]
    high = [float(b) for _, b in limits] + [float(size) for size in sizes]
    program = highspy.HighsLp()
    program.num_col_, program.num_row_ = len(columns), len(low)
    program.col_cost_ = np.zeros(len(columns))
    program.col_lower_, program.col_upper_ = np.zeros(len(columns)), np.full(len(columns), highspy.kHighsInf)
    program.row_lower_, program.row_upper_ = np.array(low), np.array(high)
    program.a_matrix_.format_ = highspy.MatrixFormat.kColwise
    program.a_matrix_.start_, program.a_matrix_.index_ = np.array(starts, dtype=np.int32), np.array(index, dtype=np.int32)
    program.a_matrix_.value_ = np.array(value, dtype=float)
    program.integrality_ = [highspy.HighsVarType.kInteger] * len(columns)
    solver = highspy.Highs()
    for option, setting in (("output_flag", False), ("mip_rel_gap", 0.0), ("mip_abs_gap", 0.5), ("threads", 1)):
        solver.setOptionValue(option, setting)
    solver.passModel(program)
    costs = np.array([cost for _, _, cost in columns], dtype=float)
    every = np.arange(len(columns), dtype=np.int32)
    best = []
    for level in range(costs.shape[1]):
        cost = costs[:, level]
        if not cost.any():
            best.append(0)
            continue
        solver.changeColsCost(len(columns), every, cost)
        solver.run()
        if solver.getModelStatus() != highspy.HighsModelStatus.kOptimal:
            raise ValueError(f"HiGHS: {solver.modelStatusToString(solver.getModelStatus())}")
        best.append(round(solver.getObjectiveValue()))
        used = np.flatnonzero(cost).astype(np.int32)
        solver.addRow(-highspy.kHighsInf, float(best[-1]), len(used), used, cost[used])
    return tuple(best)


def best(gpus: Sequence[Gpu], requests: Sequence[Request], pinned: frozenset[str] = frozenset()) -> tuple[tuple[int, ...], tuple[int, ...]]:
    """The objective without the instances created, and what each request lacks."""
    found = solve(*build(gpus, requests, pinned))
    return (found[0], *found[1 + len(requests) :]), found[1 : 1 + len(requests)]
