"""Training as a sequence of exactly reversible operations, and its derivative.

A rule (rules.py) writes one training step as a short program over named state vectors, "w" for the weights and
others of its own, made of two operations that fixed-point arithmetic undoes bit for bit (operations.py); those that
need no gradient in between are carried out in one pass over the vectors, as a group.

`train` runs the program forward T times and, when autograd asks for a gradient, backward.  Each step back

    recalls   what the operations of the step had read: by undoing them, last to first, or as another of the
              recoveries (recoveries.py) does it, and then
    pulls     the cotangents of the states back through the operations, last to first (the adjoint).

With `Momentum` this is Algorithms 1 to 3 of Maclaurin, Duvenaud and Adams, "Gradient-based Hyperparameter
Optimization through Reversible Learning" (2015), line by line.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple, NoReturn

import numpy as np
from numpy.typing import DTypeLike, NDArray

from hypergrad import differentiation
from hypergrad.arguments import check_callable, check_provides, whole_number, whole_numbers
from hypergrad.differentiation import is_traced, shape_of, value_of
from hypergrad.errors import ADVICE, CoefficientRangeError, NonFiniteGradientError, ReversalError
from hypergrad.exact_rep import (
    Change,
    FixedPointRangeError,
    Precision,
    Then,
    as_ratios,
    first_not_finite,
    spread,
)
from hypergrad.operations import Add, Blocks, Decay, Group, Numbers, Operation, Vector, grouped, in_reverse
from hypergrad.parsers import take_block
from hypergrad.recoveries import Certificate, NoMemory, Recovery, Reversible
from hypergrad.rules import RULE_PROVIDES, Rule
from hypergrad.tracing import told
from hypergrad.trees import Layout, schedule

__all__ = ["BackwardStep", "Run", "Step", "Tape", "Trained", "run_rule", "train"]


def train(
    loss: Callable[[Any, Any, int], Any],
    weights: Any,
    rule: Rule,
    num_steps: int,
    theta: Any = None,
    recovery: Recovery = Reversible(),
    callback: Callable[[Step], None] | None = None,
    keep: Sequence[int] | None = None,
    return_state: bool = False,
    monitor: Callable[[BackwardStep], None] | None = None,
    dtype: DTypeLike = np.float64,
) -> Any:
    """Train by gradient descent; the result can be differentiated with respect to all that shaped it.

    loss(weights, theta, t): the training loss at iteration t = 0 .. num_steps - 1, one float (or an array of one),
        written with autograd.numpy.  The same arguments must give the same result: t chooses the minibatch.  All
        that is to be differentiated comes by way of weights and theta.
    weights: the initial weights, a tree (nested dict, list, tuple) of float arrays, or one array.
    rule: the update rule and its hyperparameters, like `Momentum(step_size, decay)`.
    theta: hyperparameters of the loss, a tree of float arrays; the loss gets it as it is.
    recovery: how the backward pass gets the trajectory back.
    callback: called with a `Step` before each update.
    keep: numbers of updates, 0 .. num_steps, after which to return the weights as well.
    return_state: whether to return the final velocity or moments as well.
    monitor: called with a `BackwardStep` after each step of the backward pass; a `BackwardTrace`, say.
    dtype: of the weights and of theta as the loss gets them.  With np.float32, and data of that type, the loss
        and its derivatives take half the time; states stay exact, and hypergradients are right to about 1e-6.

    Returns the trained weights, a tree like `weights`, in float64; with keep or return_state a `Trained`.
    autograd differentiates all of it, once, with respect to weights, theta, and every hyperparameter and initial
    state of the rule, in the same memory.  No argument is changed.

    Raises TypeError for weights or theta that are not floats; ValueError for trees or schedules that do not
    match, a dtype that is not one of floats, a loss that is no scalar; CoefficientRangeError for a decay that is
    not in 0 < decay <= 2**16; FixedPointRangeError where a weight leaves +-2048; NonFiniteGradientError; and, on
    the way back, ReversalError where the loss was not the same function.

    Source: Maclaurin, Duvenaud and Adams (2015), Algorithms 1 to 3.
    """
    check_callable(loss, "loss", ("weights", "theta", "t"))
    layout, theta_layout = Layout(weights, "weights"), Layout(theta, "theta")
    dtype = np.dtype(dtype)
    if dtype.kind != "f":
        raise ValueError(f"dtype must be a floating-point type, like numpy.float32, got {dtype}")

    def of_leaves(leaves: list, theta_leaves: list, t: int) -> Any:
        w, hypers = layout.rebuild(leaves), theta_layout.rebuild(theta_leaves)
        value = loss(w, hypers, t)
        layout.check_unchanged(w, leaves, t)
        theta_layout.check_unchanged(hypers, theta_leaves, t)
        return value

    gradient = differentiation.LossGradient(of_leaves, dtype, loss)
    return run_rule(
        gradient, weights, rule, num_steps, theta, recovery, callback, keep, return_state, monitor
    )


def run_rule(
    gradient: Callable[[list, list, int], Any],
    weights: Any,
    rule: Rule,
    num_steps: int,
    theta: Any = None,
    recovery: Recovery = Reversible(),
    callback: Callable[[Step], None] | None = None,
    keep: Sequence[int] | None = None,
    return_state: bool = False,
    monitor: Callable[[BackwardStep], None] | None = None,
) -> Any:
    """`train`, given the gradient of the loss instead of the loss.

    gradient(weight leaves, theta leaves, t): one flat vector, (N,), differentiable by autograd.
    """
    num_steps = whole_number(num_steps, "num_steps", 0)
    kept = whole_numbers(keep, "keep", num_steps)
    check_callable(gradient, "gradient", ("leaves", "theta_leaves", "t"))
    check_provides(rule, RULE_PROVIDES, "rule", "hypergrad.Momentum(0.1, 0.9), an update rule")
    check_provides(recovery, ("start", "represent"), "recovery", "hypergrad.Stored(), a recovery")
    for name, function in (("callback", callback), ("monitor", monitor)):
        if function is not None:
            check_callable(function, name, ("step",))
    layout, theta_layout = Layout(weights, "weights"), Layout(theta, "theta")
    arguments = {"w": layout.flatten(weights), "theta": theta_layout.flatten(theta)}
    zeros = np.broadcast_to(0.0, layout.size)  # takes no memory
    for name, value in rule.initial().items():
        title = f"initial {rule.states[name]}"
        arguments[name] = zeros if value is None else layout.flatten(value, title)

    def columns(value: Any, name: str, before: int = 0) -> Any:
        return schedule(value, name, weights, num_steps, before)

    coefficients = rule.coefficients(columns, num_steps)
    arguments |= coefficients
    monitor = told(monitor)
    sees_states = return_state or callback is not None or monitor is not None
    units = rule.units(columns, num_steps) if sees_states and num_steps > 0 else {}
    if not isinstance(gradient, differentiation.FlatGradient):
        gradient = differentiation.FlatGradient(gradient)
    run = Run(gradient, rule, layout, theta_layout, tuple(coefficients), num_steps, recovery)
    run.traced = frozenset(name for name, argument in arguments.items() if is_traced(argument))
    run.argument_names = tuple(arguments)
    run.callback, run.monitor = callback, monitor
    run.units = {name: value_of(unit) for name, unit in units.items()}
    run.outputs = [(num_steps, "w"), *((t, "w") for t in kept)]
    if return_state:
        run.outputs += [(num_steps, name) for name in rule.states]
    outputs = _run(run, *arguments.values())
    size, traced = (layout.size,), is_traced(outputs)
    rows = [take_block(outputs, i, size) if traced else outputs[i] for i in range(len(run.outputs))]
    trees = [layout.unflatten(row) for row in rows[: 1 + len(kept)]]
    if keep is None and not return_state:
        return trees[0]
    states = {
        name: layout.rebuild(_times(layout.split(row), units[name][-1] if name in units else None))
        for name, row in zip(rule.states, rows[1 + len(kept) :], strict=False)
    }
    return Trained(trees[0], tuple(trees[1:]), states)


def _times(leaves: Sequence[Any], units: Any) -> list[Any]:
    """Each leaf, times the one unit or its own; differentiable."""
    if units is None:
        return list(leaves)
    return [leaf * units[j if shape_of(units)[0] > 1 else 0] for j, leaf in enumerate(leaves)]


class Trained(NamedTuple):
    """The trained weights; those after the numbers of updates in `keep`; the other final states by name."""

    weights: Any
    kept: tuple[Any, ...]
    state: dict[str, Any]


class Step(NamedTuple):
    """What a callback sees at an iteration, before the update: copies, its own to keep."""

    iteration: int
    weights: Any
    state: dict[str, Any]
    gradient: Any


class BackwardStep(NamedTuple):
    """What a monitor sees when the backward pass has come to the state before iteration `iteration`.

    cotangents: by name of state, "w" and the rule's own, flat vectors: views, good until the next step.
    buffer_bytes: what the information buffers take at that moment.
    limit_bytes: what they would take at the entropy limit, log2(1 / decay) bits per number and step.
    outputs: the norm of the cotangents that outputs of training after this iteration brought in at it.
    certificate: at the last step, of a recovery that compares what came back: that it was right.
    backward_pass: tells passes apart, of this run or another: an object that all steps of one pass share.
    """

    iteration: int
    cotangents: dict[str, Vector]
    buffer_bytes: int
    limit_bytes: float = 0.0
    outputs: float = 0.0
    certificate: Certificate | None = None
    backward_pass: object = None


class Entry(NamedTuple):
    """An operation and the vectors it read."""

    operation: Operation
    inputs: tuple[Vector | Gradient, ...]


Tape = list[Entry]  # of one step, first operation first


class Run:
    """One training run: its states, and the loops over its steps, forward and backward."""

    argument_names: tuple[str, ...]  # of `forward`: w, theta, the rule's states, its coefficients
    traced: frozenset[str]  # those that autograd follows
    units: Mapping[str, NDArray[np.float64]]  # of states, as the rule has them
    outputs: list[tuple[int, str]]  # of `forward`: (number of updates, name of a state)
    callback: Callable[[Step], None] | None
    monitor: Callable[[BackwardStep], None] | None
    d_gradient: Vector  # of the step that `backward` is at

    def __init__(
        self,
        gradient: differentiation.FlatGradient,
        rule: Rule,
        layout: Layout,
        theta_layout: Layout,
        coefficient_names: tuple[str, ...],
        num_steps: int,
        recovery: Recovery,
    ) -> None:
        self.gradient = gradient
        self.rule = rule
        self.program = rule.program  # asked for once: a rule might make it anew each time
        self.groups = grouped(self.program)
        self.groups_in_reverse = in_reverse(self.groups)
        self.layout, self.theta_layout = layout, theta_layout
        self.coefficient_names = coefficient_names
        self.num_steps = num_steps
        self.recovery = recovery
        self.complete = False  # whether the states are those after the last step
        self.floats: dict[str, Vector | None] = {}  # the states as floats, where they are known
        self.gradient_at_hand: Gradient | None = None  # likewise, until the weights change
        self.num_gradients = 0  # of the step that is under way
        self.outcome: NDArray[np.float64] | None = None  # the outputs, once there are some

    def forward(self, *arguments: NDArray) -> NDArray[np.float64]:
        """Train: the vectors listed in `outputs`, stacked, (len(outputs), N).

        arguments: flat vectors (w, theta, initial states), then coefficients, each of shape
            (1 or num_steps, 1 or number of leaves).
        """
        self.arguments = dict(zip(self.argument_names, arguments, strict=True))
        self.theta = self.theta_layout.split(self.arguments["theta"])
        self.coefficients = {
            name: np.array(self.arguments[name], order="C") for name in self.coefficient_names
        }
        self.plans: dict[int, _Plan] = {}  # by id of the group
        for name, values in self.coefficients.items():
            index = first_not_finite(values.reshape(-1))
            if index is not None:
                self._refuse_coefficient(name, index, "must be finite")
        self.ratios = {factor: self._ratios(factor) for factor in self._factors()}
        self.precisions = self.rule.precisions(self._largest_gradient)
        results = np.empty((len(self.outputs), self.layout.size))
        self.rows: dict[int, list[tuple[int, str]]] = {}  # of the outputs noted after so many updates
        for row, (t, name) in enumerate(self.outputs):
            self.rows.setdefault(t, []).append((row, name))
        self._train(results)
        self.callback = None  # training once more, for a second backward pass, is silent
        return results

    def _train(self, results: NDArray[np.float64]) -> None:
        """The forward loop (Algorithm 1)."""
        self.set_states(self.initial_states())
        self.memory = self.recovery.start(self) if self.traced else NoMemory(self)
        for t in range(self.num_steps):
            self._note(t, results)
            self.memory.advance(self, t)
        self._note(self.num_steps, results)
        self.memory.rest(self)
        self.floats.clear()
        self.gradient_at_hand = None
        self.complete = True
        if self.outcome is None:
            self.outcome = results.copy()
        elif not np.array_equal(self.outcome, results):
            raise ReversalError(
                f"training once more, for another backward pass, came to other weights than before. {ADVICE}",
                iteration=self.num_steps,
            )

    def _note(self, t: int, results: NDArray[np.float64]) -> None:
        for row, name in self.rows.get(t, ()):
            results[row] = self._float(name)

    def backward(self, argnums: tuple[int, ...], cotangents: NDArray[np.float64]) -> tuple:
        """The backward loop (Algorithm 2): the cotangents of the arguments of `forward` numbered argnums."""
        wanted = [self.argument_names[argnum] for argnum in argnums]
        if not self.complete:  # a backward pass uses the states up
            self._train(np.empty_like(self.outcome))
        self.complete = False
        d = {name: np.zeros_like(self.arguments[name]) for name in {*self.states, *wanted}}
        self.d_gradient = np.empty(self.layout.size)
        limits, this_pass = self._limits_of_buffers() if self.monitor is not None else None, object()
        for t in reversed(range(self.num_steps)):
            added = self._add_cotangents(t + 1, cotangents, d)
            tape = self.memory.recall(self, t)
            if tape is None:  # forgotten: nothing is known of what came before
                for name in self.states:
                    d[name][:] = 0.0
                break
            self._pull_back(tape, t, d)
            if self.monitor is not None:
                states = {name: self._in_units(name, d[name], t, -1) for name in self.states}
                buffers = sum(store.nbytes for state in self.states.values() for store in state.stores)
                certificate = self.memory.certificate
                self.monitor(BackwardStep(t, states, buffers, limits[t], added, certificate, this_pass))
        self._add_cotangents(0, cotangents, d)
        self.gradient_at_hand = None
        return tuple(d[name] for name in wanted)

    def _add_cotangents(self, t: int, cotangents: NDArray[np.float64], d: dict[str, NDArray]) -> float:
        """Those of the outputs noted after t updates.  Returns their norm."""
        added = 0.0
        for row, name in self.rows.get(t, ()):
            d[name] += cotangents[row]
            added = math.hypot(added, np.linalg.norm(cotangents[row]))
        return added

    def _in_units(self, name: str, vector: Vector, t: int, power: int) -> Vector:
        """What a state stands for before step t, or, with power -1, the cotangent of that."""
        if name not in self.units or t == 0:
            return vector
        unit = self.units[name][t - 1] ** power
        return vector * (spread(unit, self.layout.ends) if unit.size > 1 else unit)

    def _limits_of_buffers(self) -> NDArray[np.float64]:
        """The bytes that t steps put into the buffers at the entropy limit, for t = 0 .. num_steps."""
        bits = np.zeros(self.num_steps)
        for factor in self._factors():
            values = self.coefficients[factor]
            sizes = self.layout.sizes if values.shape[1] > 1 else [self.layout.size]
            bits -= np.log2(values) @ np.array(sizes, float)
        return np.append(0.0, np.cumsum(bits)) / 8

    def forward_step(self, t: int, with_pullback: bool = False, on_record: bool = True) -> Tape:
        """Step t: the operations, first to last.

        Returns what they read, if on record, else nothing; gradients' values only with pullbacks.
        """
        self.gradient_at_hand, self.num_gradients = None, 0
        if self.callback is not None:
            self.callback(self._report(t, with_pullback))
        tape = []
        for group, following in _with_following(self.groups):
            tape += self._carry_out(group, following.target, t, False, with_pullback, on_record)
        for _, inputs in tape:
            for x in inputs:
                if isinstance(x, Gradient) and not with_pullback:
                    x.forget()
        return tape

    def reverse_step(self, t: int) -> Tape:
        """Step t, undone: the inverse operations, last to first.  Returns what the operations had read."""
        self.gradient_at_hand = None
        tape = []
        for group, following in _with_following(self.groups_in_reverse):
            tape = self._carry_out(group, following.target, t, back=True) + tape
        return tape

    def _pull_back(self, tape: Tape, t: int, d: dict[str, NDArray]) -> None:
        """The adjoint of step t: d, the cotangents after it, become those before it."""
        gradient, d_gradient = None, None
        entries = reversed(tape)
        for group in reversed(self.groups):
            _, add, then = group
            of_then, of_add, of_decay = (
                () if operation is None else next(entries).inputs for operation in reversed(group)
            )
            if "w" in group.targets:  # gradients read since then were taken at the weights that it made
                self._pull_back_gradient(gradient, d_gradient, d)
                gradient, d_gradient = None, None
            anew = False
            for x in of_add:
                if isinstance(x, Gradient) and gradient is None:
                    gradient, d_gradient, anew = x, self.d_gradient, add.kernel is None
                    if not anew:
                        d_gradient[:] = 0.0
                    if x.pullback is None:
                        x.evaluate(self, with_pullback=True)
                        self.memory.saw(self, x)
            plan = self._plan(group)
            d_coefficients = group.adjoint(
                plan.ends,
                [_at(values, t) for values in plan.coefficients],
                [of_decay, _vectors(of_add), of_then],
                d[group.target],
                [d_gradient if name == "g" else d[name] for name in add.inputs] if add is not None else [],
                d[then.target] if then is not None else None,
                anew,
            )
            for name, d_c in zip(group.coefficients, d_coefficients, strict=True):
                if name in d:
                    row = d[name][t if len(d[name]) > 1 else 0]
                    row += d_c if row.size > 1 else d_c.sum()
        self._pull_back_gradient(gradient, d_gradient, d)

    def _pull_back_gradient(self, gradient: Gradient | None, d_gradient: Any, d: dict[str, NDArray]) -> None:
        """dw += d_gradient H_ww and dtheta += d_gradient H_wtheta, from one pullback."""
        if gradient is None:
            return
        products = gradient.pullback(d_gradient)
        d["w"] += products[: self.layout.size]
        if "theta" in d:
            d["theta"] += products[self.layout.size :]
        gradient.forget()

    def _carry_out(
        self,
        group: Group,
        next_target: str,
        t: int,
        back: bool,
        with_pullback: bool = True,
        on_record: bool = True,
    ) -> Tape:
        """Change the states as the operations of the group say, forward or back; what they read, if on record.

        next_target: the state that is changed next; its floats need not be known before.
        """
        decay, add, then = group
        plan = self._plan(group)
        of_add, of_then = (_at(coefficients, t) for coefficients in plan.coefficients[1:])
        reads_target = on_record and decay is not None and decay.factor in self.traced
        target_read = [self._float(group.target)] if reads_target and not back else []
        addend, inputs = None, ()
        if add is not None:
            inputs = self._read(add, t, with_pullback)
            if add.kernel is not None and not back:
                self._check_resolution(add, Blocks(plan.ends, of_add[1:]), inputs, t)
            addend = add.values(Blocks(plan.ends, of_add), _vectors(inputs)), of_add[0]
        ratios = None if plan.ratios is None else plan.ratios[t if len(plan.ratios) > 1 else 0]
        is_read = next_target != group.target or (then is not None and on_record)
        floats = np.empty(self.layout.size) if is_read else None
        further = None
        if then is not None:
            out = np.empty(self.layout.size) if next_target != then.target else None
            further = Then(self.states[then.target], of_then[0], out)
            self.floats[then.target] = out
        self._change(group.target, Change(ratios, addend, plan.ends, back, floats, further), inputs, t)
        self.floats[group.target] = floats
        if "w" in group.targets:
            self.gradient_at_hand = None
        if not on_record:
            return []
        if reads_target and back:
            target_read = [self._float(group.target)]
        read = target_read, inputs, [floats]  # by decay, add and then
        return [
            Entry(operation, tuple(x))
            for operation, x in zip(group, read, strict=True)
            if operation is not None
        ]

    def _change(self, name: str, change: Change, inputs: tuple[Vector | Gradient, ...], t: int) -> None:
        """Change the state; inputs: what the addition has read."""
        try:
            self.states[name].change(change)
        except FixedPointRangeError as error:
            for x in inputs:
                if isinstance(x, Gradient):  # what is not finite is refused: no need to look for it before
                    x.check(self)
            name = next(name for name, state in self.states.items() if state is error.numbers)
            where = self.title(name, self.layout.locate(error.index))
            raise FixedPointRangeError(
                f"{where} at iteration {t}: {error}; {self.rule.advice(name)}", error.index
            ) from error

    def _check_resolution(self, add: Add, others: Blocks, inputs: tuple, t: int) -> None:
        """Raise where a state is so small that its last digits count."""
        resolutions = [0.0 if name == "g" else self.states[name].resolution for name in add.inputs]
        lost = add.kernel.first_lost(others, _vectors(inputs), resolutions)
        if lost is not None:
            name, index = add.inputs[lost[0]], lost[1]
            raise FixedPointRangeError(
                f"{self.title(name, self.layout.locate(index))} at iteration {t} is too small beside the room that "
                f"there is for large ones: the step would be wrong by more than 1e-6 of a step size; "
                f"{self.rule.advice(name, too_small=True)}",
                index,
            )

    def _read(self, add: Add, t: int, with_pullback: bool) -> tuple[Vector | Gradient, ...]:
        """What the operation reads of the present states."""
        return tuple(
            self._present_gradient(t, with_pullback) if name == "g" else self._float(name)
            for name in add.inputs
        )

    def _present_gradient(self, t: int, with_pullback: bool) -> Gradient:
        if self.gradient_at_hand is None:
            self.gradient_at_hand = Gradient(self._float("w"), t, self.num_gradients)
            self.gradient_at_hand.evaluate(self, with_pullback)
            self.num_gradients += 1
            self.memory.saw(self, self.gradient_at_hand)
        return self.gradient_at_hand

    def _float(self, name: str) -> Vector:
        if self.floats.get(name) is None:
            self.floats[name] = self.states[name].val
        return self.floats[name]

    def _plan(self, group: Group) -> _Plan:
        """What the group does, at all steps."""
        found = self.plans.get(id(group))
        if found is None:
            separate = len(self.states[group.target].stores) > 1
            if separate or any(self.coefficients[name].shape[1] > 1 for name in group.coefficients):
                ends = self.layout.ends
            else:
                ends = np.array([self.layout.size])
            coefficients = [
                [_for_blocks(self.coefficients[name], len(ends)) for name in operation.coefficients]
                if operation is not None
                else []
                for operation in group
            ]
            ratios = None
            if group.decay is not None:
                ratios = _for_blocks(self.ratios[group.decay.factor], len(ends))
            found = self.plans[id(group)] = _Plan(ends, ratios, coefficients)
        return found

    def _largest_gradient(self) -> float:
        """At the initial weights; 0 where there is no step to take."""
        if self.num_steps == 0:
            return 0.0
        gradient = Gradient(self.arguments["w"], 0)
        gradient.evaluate(self, with_pullback=False)
        gradient.check(self)
        return float(np.max(np.abs(gradient.value), initial=0.0))

    @property
    def wants_theta(self) -> bool:
        """Whether pullbacks of gradients go on to theta."""
        return "theta" in self.traced and self.theta_layout.size > 0

    @property
    def only_shrinks(self) -> bool:
        """Whether no factor is above one, so that digits never return from the buffer on the way forward."""
        return all(np.all(self.coefficients[factor] <= 1) for factor in self._factors())

    def _factors(self) -> list[str]:
        return [operation.factor for operation in self.program if isinstance(operation, Decay)]

    def initial_states(self) -> dict[str, Numbers]:
        """The states before the first step."""
        return self.represent(self.arguments)

    def set_states(self, states: dict[str, Numbers]) -> None:
        """Go on from these states, which are the run's own from now on."""
        self.states = states
        self.floats.clear()
        self.gradient_at_hand = None

    def represent(self, vectors: Mapping[str, Vector]) -> dict[str, Numbers]:
        """The states with these values, by name; their buffers are empty."""
        separate = {  # the leaves of these have buffers of their own
            operation.target
            for operation in self.program
            if isinstance(operation, Decay) and self.coefficients[operation.factor].shape[1] > 1
        }
        states = {}
        for name in ("w", *self.rule.states):
            sizes = self.layout.sizes if name in separate else [self.layout.size]
            try:
                precision = self.precisions.get(name, Precision())
                states[name] = self.recovery.represent(vectors[name], precision, sizes)
            except FixedPointRangeError as error:
                where = self.title(name, self.layout.locate(error.index))
                raise FixedPointRangeError(f"initial {where}: {error}", error.index) from error
        return states

    def title(self, state: str, path: str = "weights") -> str:
        """What messages call a state, or the part of it that is at `path` in the weights."""
        return path.replace("weights", "weights" if state == "w" else self.rule.states[state], 1)

    def _ratios(self, factor: str) -> NDArray[np.int64]:
        """n and d of a factor, (1 or num_steps, 2, columns)."""
        values = self.coefficients[factor]
        try:
            ratios = as_ratios(values.reshape(-1)).reshape(2, *values.shape)
        except FixedPointRangeError as error:
            need = "must be above 2**-25 (multiplying by 0 forgets everything and can't be undone), at most 2**16"
            self._refuse_coefficient(factor, error.index, need)
        return np.ascontiguousarray(ratios.transpose(1, 0, 2))

    def _refuse_coefficient(self, name: str, index: int, need: str) -> NoReturn:
        """Raise, for the entry of a coefficient that is at `index`, row by row."""
        values = self.coefficients[name]
        t, j = np.unravel_index(index, values.shape)
        leaf = f" of {self.layout.paths[j]}" if values.shape[1] > 1 else ""
        when = f" at iteration {t}" if len(values) > 1 else ""
        raise CoefficientRangeError(f"{name}{leaf}{when} {need}, got {values[t, j]:g}")

    def _report(self, t: int, with_pullback: bool) -> Step:
        gradient = self._present_gradient(t, with_pullback)
        gradient.check(self)
        unflatten = self.layout.unflatten
        state = {
            name: unflatten(self._in_units(name, self._float(name).copy(), t, 1)) for name in self.rule.states
        }
        return Step(t, unflatten(self._float("w").copy()), state, unflatten(gradient.value.copy()))


class Gradient:
    """The gradient of the training loss at the weights `at`, iteration t, evaluated with or without pullback.

    number: which of the gradients of the step it is.
    """

    def __init__(self, at: Vector, t: int, number: int = 0) -> None:
        self.at, self.t, self.number = at, t, number
        self.value: Vector | None = None
        self.pullback: Callable[[Vector], Vector] | None = None

    def evaluate(self, run: Run, with_pullback: bool) -> None:
        """Evaluate it; the pullback gives the Hessian-vector product, followed by that with theta if wanted."""
        leaves = run.layout.split(self.at)
        if with_pullback:
            self.value, self.pullback = run.gradient.with_pullback(leaves, run.theta, self.t, run.wants_theta)
        else:
            self.value = run.gradient(leaves, run.theta, self.t)
        if is_traced(self.value):
            raise run.gradient.uses_traced_values()
        self.value = np.ascontiguousarray(self.value, np.float64)

    def check(self, run: Run) -> None:
        """Raise NonFiniteGradientError if it is not finite."""
        index = first_not_finite(self.value)
        if index is not None:
            raise NonFiniteGradientError(
                f"the gradient of the training loss with respect to {run.layout.locate(index)} is "
                f"{self.value[index]} at iteration {self.t}; look at the loss there, or lower the step size"
            )

    def forget(self) -> None:
        """Keep only what it takes to evaluate it again."""
        self.value = self.pullback = None


class _Plan(NamedTuple):
    """What a group does at all steps: where its blocks end, (blocks,), and with which coefficients.

    ratios: those of the decay, (1 or num_steps, 2, blocks), if there is one.
    coefficients: of decay, add and then, a list each, (1 or num_steps, blocks).
    """

    ends: NDArray[np.int64]
    ratios: NDArray[np.int64] | None
    coefficients: list[list[NDArray[np.float64]]]


def _for_blocks(values: NDArray, count: int) -> NDArray:
    """Values for so many blocks, (..., count), of those for all or for each of them, (..., 1 or count)."""
    return values.repeat(count, axis=-1) if values.shape[-1] < count else values


def _at(coefficients: Sequence[NDArray[np.float64]], t: int) -> list[NDArray[np.float64]]:
    """Those of step t, (blocks,) each."""
    return [c[t] if len(c) > 1 else c[0] for c in coefficients]


def _with_following(groups: Sequence[Group]) -> Iterator[tuple[Group, Group]]:
    """Each group, with the one that comes next; after the last the first, of the next step."""
    return zip(groups, (*groups[1:], *groups[:1]), strict=True)


def _vectors(inputs: tuple[Vector | Gradient, ...]) -> list[Vector]:
    return [x.value if isinstance(x, Gradient) else x for x in inputs]


_run = differentiation.joint_primitive(Run.forward, Run.backward)
