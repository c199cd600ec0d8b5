"""README's tables of costs, made from the committed results, goals beside what was measured."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

from benchmarks.common import verdict
from benchmarks.cost import EXACT_PARTS, GOAL_EXACT
from benchmarks.peers import OURS, TOLERANCE, beside_jax, with_verdicts, worst_difference
from benchmarks.scale import GOAL_BYTES

RESULTS = Path(__file__).parent / "results"


def load(name: str) -> dict[str, Any]:
    """Return a benchmark's committed results."""
    return json.loads((RESULTS / f"{name}.json").read_text())


def markdown(head: list[str], rows: list[list[str]]) -> str:
    """Return a table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def machine(name: str) -> str:
    """Return where and when a benchmark was run."""
    facts = load(name)["machine"]
    software = ", ".join(
        f"{k} {v}" for k, v in facts["versions"].items() if k in ("python", "numpy", "autograd", "numba")
    )
    return f"{facts['cpu']}, {facts['cpu_count']} CPUs; {software}; {facts['date']}"


def machines(*names: str) -> str:
    """Return where and when benchmarks were run, those of one place together."""
    places: dict[str, list[str]] = {}
    for name in names:
        places.setdefault(machine(name), []).append(f"`{name}`")
    return "; ".join(f"{', '.join(there)} on {place}" for place, there in places.items())


def cost() -> str:
    """Return the cost of a hypergradient in gradients, its parts, and the goals."""
    cases = load("cost")["cases"]

    def median(case: dict[str, Any], name: str) -> float:
        return case[name]["median"]

    def row(title: str, form: str, *names: str) -> list[str]:
        return [title, *(form.format(sum(median(case, name) for name in names)) for case in cases)]

    parts = [
        row("forward pass", "{:.2f}", "forward"),
        row("backward pass", "{:.2f}", "backward"),
        [
            "**whole hypergradient**",
            *(
                f"**{median(c, 'hypergradient'):.2f}** (goal {c['goal']}: "
                f"{verdict(median(c, 'hypergradient'), c['goal'])})"
                for c in cases
            ),
        ],
        row("of it, gradients and their products", "{:.2f}", "forward gradients", "backward gradients"),
        row(
            "of it, exact arithmetic",
            "{:.2f}",
            *(f"{way} {part}" for way in ("forward", "backward") for part in EXACT_PARTS),
        ),
        row("of it, bookkeeping", "{:.2f}", "forward bookkeeping", "backward bookkeeping"),
        [
            "exact arithmetic, ns per weight and step",
            *(
                f"{median(c, 'exact nanoseconds'):.1f} (goal {GOAL_EXACT:.0f}: "
                f"{verdict(median(c, 'exact nanoseconds'), GOAL_EXACT)})"
                for c in cases
            ),
        ],
        ["one gradient, ms", *(f"{1e3 * median(c, 'gradient'):.2f}" for c in cases)],
    ]
    head = ["in gradients per step", *(f"{c['name']}, {c['num_weights']:,} weights" for c in cases)]
    return markdown(head, parts)


def peers() -> str:
    """Return time per step and memory of ours and of others, side by side."""
    results, tables = load("peers"), []
    steps = results["num_steps"]
    for i, network in enumerate(results["networks"]):
        head = [f"{network}, {results['num_weights'][i]:,} weights"]
        head += [f"T = {T:,}: ms per step" + ", MB" for T in steps]
        rows = [
            [
                name,
                *(
                    found["failure"]
                    if "failure" in found
                    else f"{1e3 * found['seconds'] / T:.1f}, {found['bytes'] / 1e6:,.0f}"
                    for T, found in zip(steps, measured[i], strict=True)
                ),
            ]
            for name, measured in results["measured"].items()
        ]
        tables.append(markdown(head, rows))
    return "\n\n".join(tables)


def peers_goals() -> str:
    """Return ours beside JAX with checkpointed steps, and whether all agree."""
    results, lines = load("peers"), []
    for i, network in enumerate(results["networks"]):
        for T, times, memory in beside_jax(results, i):
            less = f"{1.0 / memory:,.0f} times less memory, reversed"
            lines.append(f"{network}, T = {T:,}: {with_verdicts(times)}; {less}")
    worst = max(worst_difference(results, i) for i in range(len(results["networks"])))
    return (
        "Beside JAX with checkpointed steps, of its time (goal: no more than 1):\n\n- "
        + "\n- ".join(lines)
        + f"\n\nAll that finished agree within {worst:.0e} (goal {TOLERANCE:.0e}: {verdict(worst, TOLERANCE)})."
    )


def faster_peers() -> str:
    """Return who is faster than ours, and where."""
    results = load("peers")
    measured, faster = results["measured"], []
    for name in [name for name in measured if name not in OURS]:
        for i, network in enumerate(results["networks"]):
            for j, T in enumerate(results["num_steps"]):
                seconds = {each: rows[i][j].get("seconds", math.inf) for each, rows in measured.items()}
                if seconds[name] < seconds["hypergrad"]:
                    shares = ", ".join(
                        f"{seconds[name] / seconds[ours]:.2f} of our time {title}"
                        for ours, title in OURS.items()
                        if seconds[ours] < math.inf
                    )
                    faster.append(f"{name} on {network} at T = {T:,} ({shares})")
    return f"Faster than ours, reversed: {'; '.join(faster) or 'none'}."


def scale() -> str:
    """Return how far it goes."""
    rows = [
        [
            case["name"],
            f"{case['num_weights']:,}",
            f"{case['num_steps']:,}",
            f"{case['seconds']:,.0f}",
            f"{1e3 * case['seconds'] / case['num_steps']:.1f}",
            f"{case['peak_bytes'] / 1e9:.2f} ({verdict(case['peak_bytes'], GOAL_BYTES)})",
            f"{case['buffer_bytes'] / 1e6:,.1f}",
            f"{case['stored_bytes'] / 1e9:,.2f}",
        ]
        for case in load("scale")["cases"]
    ]
    head = ["run", "weights", "steps", "seconds", "ms per step", "peak GB (goal 2)", "buffers, MB"]
    return markdown([*head, "float32 copies of all steps, GB"], rows)


def seeds() -> str:
    """Return what a second process gains."""
    results = load("seeds")
    one, *others = (seconds["median"] for seconds in results["seconds"])
    gains = ", ".join(
        f"{one / other:.2f} times as fast on {jobs} processes with {threads} BLAS thread{'s' * (threads > 1)} each"
        for other, jobs, threads in zip(
            others, results["jobs"][1:], results["threads_per_process"][1:], strict=True
        )
    )
    return (
        f"{results['num_seeds']} seeds by `omap`: {gains}, as on one process with "
        f"{results['threads_per_process'][0]}; the same numbers within {max(results['difference']):.0e}."
    )


def costs() -> str:
    """Return README's section."""
    return f"""*One hypergradient* (`python -m benchmarks cost`; a step size and a decay for each step and array,
100 steps; the unit is one gradient of the same loss, in the same run; one BLAS thread; medians):

{cost()}

Exact arithmetic is compiled, a pass for what needs no gradient in between; [what it takes, and what the rest
of its time is](docs/exact-arithmetic.md#the-cost).

*Side by side* (`python -m benchmarks peers`; the library's own networks, double precision, a process each, in
turns, medians, one call right after another, 8 GB at most; "out of memory": it asked for more than there is, at
once; "stored": `recovery=Stored(pullbacks=True)`):

{peers()}

{peers_goals()}

{faster_peers()} A compiled scan has no Python between
operations, ours from half a millisecond to one of it a step, as the machine is; and what keeps the whole trajectory
need not take the gradients of training a second time.

![peers](benchmarks/results/peers.png)

*Scale* (`python -m benchmarks scale`):

{scale()}

*Seeds* (`python -m benchmarks seeds`): {seeds()}

Measured: {machines("cost", "peers", "scale", "seeds")}."""
