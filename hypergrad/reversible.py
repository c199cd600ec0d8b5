"""Training as a sequence of exactly reversible operations, and its derivative.

A rule (rules.py) writes one training step as a short program over named state vectors, "w" for the weights
and others of its own, made of two operations that fixed-point arithmetic can undo bit for bit:

    Decay(s, c)            s <- s * c          the remainder goes into the information buffer
    Add(s, f, ...)         s <- s + f(...)     f reads other states, coefficients and the gradient g, never s

`train` runs the program forward T times (`_Run.forward`) and, when autograd asks, backward (`_Run.backward`).
Going back over step t takes two things:

    recall    what had the operations of step t read?  `Reversible` finds out by undoing them, last to first;
              `Stored` kept it.  This is the only part that differs between recoveries.
    adjoint   pull the cotangents of the states back through the operations, last to first.

With `Momentum` this is Algorithms 1 to 3 of Maclaurin, Duvenaud and Adams, "Gradient-based Hyperparameter
Optimization through Reversible Learning" (2015), line by line.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple, NoReturn, Protocol

import autograd.numpy as anp
import numpy as np
from numpy.typing import NDArray

from hypergrad import differentiation
from hypergrad.differentiation import is_traced, value_of
from hypergrad.exact_rep import ExactRep, FixedPointRangeError, as_ratio
from hypergrad.trees import Layout, broadcast_prefix, children

__all__ = [
    "Add",
    "Decay",
    "Kernel",
    "NonFiniteGradientError",
    "ReversalError",
    "Reversible",
    "Rule",
    "Step",
    "Stored",
    "train",
]

Vector = NDArray[np.float64]


class ReversalError(RuntimeError):
    """Training run backwards did not pass through the states it had passed through forwards."""


class NonFiniteGradientError(ArithmeticError):
    """The gradient of the training loss holds NaN or infinity."""


# ---------------------------------------------------------------------------------------- operations


class Kernel(Protocol):
    """A function of coefficients (numbers) and vectors, element by element, with its derivative."""

    def forward(self, coefficients: Sequence[float], inputs: Sequence[Vector]) -> Vector:
        """The value; must not change the inputs, and must give the same bits for the same inputs."""

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """The cotangents of the coefficients and of the inputs."""


class Scaled:
    """c * x."""

    def forward(self, coefficients: Sequence[float], inputs: Sequence[Vector]) -> Vector:
        """c * x."""
        return coefficients[0] * inputs[0]

    def pullback(
        self, coefficients: Sequence[float], inputs: Sequence[Vector], cotangent: Vector
    ) -> tuple[Sequence[float], Sequence[Vector]]:
        """(<cotangent, x>, c * cotangent)."""
        return (np.dot(cotangent, inputs[0]),), (coefficients[0] * cotangent,)


@dataclass(frozen=True)
class Decay:
    """target <- target * factor.  Adjoint: d_factor += <d_target, target>; d_target *= factor."""

    target: str
    factor: str

    @property
    def coefficients(self) -> tuple[str, ...]:
        """The coefficients it uses."""
        return (self.factor,)


@dataclass(frozen=True)
class Add:
    """target <- target + kernel(coefficients, inputs).  Adjoint: the kernel's pullback of d_target.

    inputs: names of other states, or "g", the gradient of the training loss at the present weights.
    """

    target: str
    coefficients: tuple[str, ...]
    inputs: tuple[str, ...]
    kernel: Kernel = Scaled()

    def __post_init__(self) -> None:
        if self.target in self.inputs or (self.target == "w" and "g" in self.inputs):
            raise ValueError(
                f"{self.target} can't be changed by a function of itself: that has no exact inverse"
            )


Program = tuple[Decay | Add, ...]


class Step(NamedTuple):
    """What a callback sees at iteration t, before the update: copies, its own to keep."""

    iteration: int
    weights: Any
    state: dict[str, Any]
    gradient: Any


# ---------------------------------------------------------------------------------------- recoveries


@dataclass(frozen=True)
class Reversible:
    """Recover the trajectory by running training backwards: exact, in memory close to the entropy limit.

    check_every: steps between two comparisons, by checksum, of the recovered states with the true ones;
        num_steps / 100 by default.  The initial state is compared in full in any case.
    Raises ReversalError, on the way back, where they differ.
    Source: Maclaurin et al. 2015, section 2.
    """

    check_every: int | None = None

    def start(self, run: _Run) -> _ReversibleMemory:
        """The memory of one run."""
        return _ReversibleMemory(run, self.check_every or max(1, run.num_steps // 100))


@dataclass(frozen=True)
class Stored:
    """Keep what every step read: the reference to test against, in memory O(weights x steps)."""

    def start(self, run: _Run) -> _StoredMemory:
        """The memory of one run."""
        return _StoredMemory(run)


class _ReversibleMemory:
    """The buffers in the states are all the memory there is, but for a few checksums."""

    def __init__(self, run: _Run, check_every: int) -> None:
        self.run = run
        self.check_every = check_every
        self.checksums: dict[int, NDArray[np.int64]] = {}

    def advance(self, t: int) -> None:
        if t % self.check_every == 0:
            self.checksums[t] = self._checksum()
        self.run.forward_step(t)

    def rest(self) -> None:
        for state in self.run.states.values():
            for store in state.stores:
                store.pack()

    def recall(self, t: int) -> list[_Entry]:
        try:
            tape = self.run.reverse_step(t)
        except (FixedPointRangeError, NonFiniteGradientError) as error:
            self._fail(t, f"undoing iteration {t} failed: {error}")
        if t == 0:
            self._compare_with_start()
        elif t in self.checksums:
            wrong = np.argwhere(self.checksums[t] != self._checksum())
            if wrong.size:
                state, leaf = wrong[0]
                where = self.run.title(list(self.run.states)[state], self.run.layout.paths[leaf])
                self._fail(t, f"{where} is not what it was before iteration {t}")
        return tape

    def _checksum(self) -> NDArray[np.int64]:
        """The sum, modulo 2**64, of each leaf of each state."""
        leaves = self.run.layout.slices
        return np.array([[state.intrep[leaf].sum() for leaf in leaves] for state in self.run.states.values()])

    def _compare_with_start(self) -> None:
        for name, start in self.run.initial_states().items():
            state = self.run.states[name]
            wrong = np.flatnonzero(state.intrep != start.intrep)
            if wrong.size:
                where = self.run.title(name, self.run.layout.locate(int(wrong[0])))
                self._fail(
                    0, f"{wrong.size} of {start.intrep.size} entries of the start differ, first {where}"
                )
            if state.stores != start.stores:
                self._fail(0, f"digits are left in the information buffer of {self.run.title(name)}")

    def _fail(self, t: int, what: str) -> NoReturn:
        right = min((s for s in self.checksums if s > t), default=self.run.num_steps)
        finer = "" if self.check_every == 1 else "; recovery=Reversible(check_every=1) finds the iteration"
        raise ReversalError(
            f"weights not restored: running training backwards from iteration {self.run.num_steps} was right down "
            f"to iteration {right}, but then {what}. The training loss must return the same gradient, to the last "
            f"bit, for the same (weights, theta, t): look for random numbers not seeded by t, state kept between "
            f"calls, or data changed in place{finer}"
        )


class _StoredMemory:
    """The tapes of all steps, but for the gradients, which are evaluated again on the way back."""

    def __init__(self, run: _Run) -> None:
        self.run = run
        self.tapes: dict[int, list[_Entry]] = {}

    def advance(self, t: int) -> None:
        self.tapes[t] = self.run.forward_step(t)

    def rest(self) -> None:
        pass

    def recall(self, t: int) -> list[_Entry]:
        return self.tapes[t]


# ---------------------------------------------------------------------------------------- the engine


class _Gradient:
    """The gradient of the training loss at the weights `at`, iteration t: its value, or that with its pullback."""

    def __init__(self, run: _Run, at: Vector, t: int) -> None:
        self.run, self.at, self.t = run, at, t
        self.value: Vector | None = None
        self.pullback: Callable[[Vector], Vector] | None = None

    def evaluate(self, with_pullback: bool) -> None:
        run = self.run
        leaves = run.layout.split(self.at)
        if with_pullback:
            count, theta = len(leaves), run.theta if run.wants_theta else []
            self.value, self.pullback = differentiation.gradient_with_pullback(
                lambda boxes: run.gradient(boxes[:count], boxes[count:] or run.theta, self.t),
                [*leaves, *theta],
            )
        else:
            self.value = run.gradient(leaves, run.theta, self.t)
        # the dot product is finite unless an element is not (or lies beyond 1e154)
        if not np.isfinite(np.dot(self.value, self.value)) and not np.all(np.isfinite(self.value)):
            index = int(np.argmin(np.isfinite(self.value)))
            raise NonFiniteGradientError(
                f"the gradient of the training loss with respect to {run.layout.locate(index)} is "
                f"{self.value[index]} at iteration {self.t}; look at the loss there, or lower the step size"
            )

    def forget(self) -> None:
        """Keep only what it takes to evaluate it again."""
        self.value = self.pullback = None


class _Entry(NamedTuple):
    """An operation and the vectors it read."""

    operation: Decay | Add
    inputs: tuple[Vector | _Gradient, ...]


class _Run:
    """One training run: its states, the forward loop over its steps and the backward loop."""

    def __init__(
        self,
        rule: Rule,
        gradient: Callable[[list, list, int], Any],
        layout: Layout,
        theta_layout: Layout,
        coefficient_names: Sequence[str],
        traced: frozenset[str],
        num_steps: int,
        recovery: Any,
        callback: Callable[[Step], None] | None,
    ) -> None:
        self.rule, self.program = rule, rule.program
        self.gradient = gradient  # (weight leaves, theta leaves, t) -> flat gradient
        self.layout, self.theta_layout = layout, theta_layout
        self.argument_names = ("w", "theta", *rule.states, *coefficient_names)
        self.traced = traced
        self.num_steps = num_steps
        self.recovery = recovery
        self.callback = callback
        self.wants_theta = False
        self.complete = False  # the states are those after the last step
        self.floats: dict[str, Vector] = {}  # states as floats, until they change
        self.gradient_at_hand: _Gradient | None = None  # likewise, until the weights change

    def forward(self, *arguments: NDArray) -> Vector:
        """The weights after num_steps, (N,), from (w, theta, initial states..., coefficients...).

        w, theta and the states are flat vectors; a coefficient has shape (1 or T, 1 or number of leaves).
        """
        self.arguments = dict(zip(self.argument_names, arguments, strict=True))
        self.theta = self.theta_layout.split(self.arguments["theta"])
        self.coefficients = {
            name: self.arguments[name] for name in self.argument_names[2 + len(self.rule.states) :]
        }
        self._check_coefficients()
        self._train()
        self.callback = None  # training once more, for a second backward pass, is silent
        return self.states["w"].val

    def _train(self) -> None:
        """The forward loop (Algorithm 1)."""
        self.states = self.initial_states()
        self.floats.clear()
        if self.traced:
            self.memory = self.recovery.start(self)
        # without a way back, digits in the buffer matter only while they can still return to the states
        forgetful = not self.traced and all(np.all(self.coefficients[name] <= 1) for name in self._factors())
        for t in range(self.num_steps):
            if self.traced:
                self.memory.advance(t)
            else:
                self.forward_step(t)
            if forgetful:
                for state in self.states.values():
                    for store in state.stores:
                        store.forget()
        if self.traced:
            self.memory.rest()
        self.complete = True

    def backward(self, argnums: tuple[int, ...], cotangent: Vector) -> tuple:
        """The backward loop (Algorithm 2): cotangents of the arguments of `forward` numbered argnums."""
        wanted = [self.argument_names[argnum] for argnum in argnums]
        self.wants_theta = "theta" in wanted and self.theta_layout.size > 0
        if not self.complete:  # a backward pass uses the states up
            self._train()
        self.complete = False
        d = {name: np.zeros_like(self.arguments[name]) for name in {*self.states, *wanted}}
        d["w"] += cotangent
        for t in reversed(range(self.num_steps)):
            tape = self.memory.recall(t)
            self._adjoint(tape, t, d)
        return tuple(d[name] for name in wanted)

    def forward_step(self, t: int) -> list[_Entry]:
        """Step t: apply the operations, first to last.  Returns what they read, less the gradients' values."""
        self.gradient_at_hand = None
        if self.callback is not None:
            self.callback(self._report(t))
        tape = []
        for operation in self.program:
            inputs = self._read(operation, t, with_pullback=False)
            self._apply(operation, inputs, t, undo=False)
            tape.append(_Entry(operation, inputs))
        for _, inputs in tape:
            for x in inputs:
                if isinstance(x, _Gradient):
                    x.forget()
        return tape

    def reverse_step(self, t: int) -> list[_Entry]:
        """Step t, undone: the inverse operations, last to first.  Returns what the operations had read."""
        self.gradient_at_hand = None
        tape = []
        for operation in reversed(self.program):
            if isinstance(operation, Decay):
                self._apply(operation, (), t, undo=True)
                inputs = self._read(operation, t, with_pullback=True)
            else:
                inputs = self._read(operation, t, with_pullback=True)
                self._apply(operation, inputs, t, undo=True)
            tape.append(_Entry(operation, inputs))
        return tape[::-1]

    def _read(self, operation: Decay | Add, t: int, with_pullback: bool) -> tuple[Vector | _Gradient, ...]:
        if isinstance(operation, Decay):  # its derivative reads the target, its value nothing
            return (self._float(operation.target),) if operation.factor in self.traced else ()
        inputs = []
        for name in operation.inputs:
            if name == "g":
                if self.gradient_at_hand is None:
                    self.gradient_at_hand = _Gradient(self, self._float("w"), t)
                    self.gradient_at_hand.evaluate(with_pullback)
                inputs.append(self.gradient_at_hand)
            else:
                inputs.append(self._float(name))
        return tuple(inputs)

    def _apply(self, operation: Decay | Add, inputs: tuple, t: int, undo: bool) -> None:
        """The operation, or its exact inverse, on the fixed-point state."""
        state = self.states[operation.target]
        try:
            if isinstance(operation, Decay):
                ratios = [as_ratio(factor) for _, (factor,) in self._blocks(operation, t)]
                state.rational_mul_blocks([ratio[::-1] for ratio in ratios] if undo else ratios)
            else:
                change = np.empty(self.layout.size)
                for block, coefficients in self._blocks(operation, t):
                    change[block] = operation.kernel.forward(coefficients, _parts(inputs, block))
                (state.sub if undo else state.add)(change)
        except FixedPointRangeError as error:
            where = self.title(operation.target, self.layout.locate(error.index))
            raise FixedPointRangeError(
                f"{where} at iteration {t}: {error}; lower the step size, or rescale the problem", error.index
            ) from error
        self.floats.pop(operation.target, None)
        if operation.target == "w":
            self.gradient_at_hand = None

    def _adjoint(self, tape: list[_Entry], t: int, d: dict[str, NDArray]) -> None:
        """Pull the cotangents d of the states after step t back to those before it, and collect the others."""
        gradient, d_gradient = None, None
        for operation, inputs in reversed(tape):
            if operation.target == "w":  # gradients read after this were taken at the weights it made
                self._pull_back_gradient(gradient, d_gradient, d)
                gradient, d_gradient = None, None
            d_target = d[operation.target]
            for x in inputs:
                if isinstance(x, _Gradient):
                    gradient = x
                    if x.pullback is None:
                        x.evaluate(with_pullback=True)
                    if d_gradient is None:
                        d_gradient = np.zeros(self.layout.size)
            for j, (block, coefficients) in enumerate(self._blocks(operation, t)):
                xs = _parts(inputs, block)
                if isinstance(operation, Decay):
                    d_coefficients = [np.dot(d_target[block], x) for x in xs]
                    d_target[block] *= coefficients[0]
                else:
                    d_coefficients, d_inputs = operation.kernel.pullback(coefficients, xs, d_target[block])
                    for name, d_input in zip(operation.inputs, d_inputs, strict=True):
                        total = d_gradient if name == "g" else d[name]
                        total[block] += d_input
                for name, d_c in zip(operation.coefficients, d_coefficients, strict=False):
                    if name in d:
                        rows, columns = d[name].shape
                        d[name][t if rows > 1 else 0, j if columns > 1 else 0] += d_c
        self._pull_back_gradient(gradient, d_gradient, d)

    def _pull_back_gradient(self, gradient: _Gradient | None, d_gradient: Any, d: dict[str, NDArray]) -> None:
        """One pullback gives the Hessian-vector product and the mixed product with theta."""
        if gradient is None:
            return
        both = gradient.pullback(d_gradient)
        d["w"] += both[: self.layout.size]
        if self.wants_theta:
            d["theta"] += both[self.layout.size :]
        gradient.forget()

    # -- small things

    def initial_states(self) -> dict[str, ExactRep]:
        """The states before the first step."""
        split = {
            operation.target
            for operation in self.program
            if isinstance(operation, Decay) and self.coefficients[operation.factor].shape[1] > 1
        }
        states = {}
        for name in ("w", *self.rule.states):
            try:
                states[name] = ExactRep(
                    self.arguments[name], sizes=self.layout.sizes if name in split else [self.layout.size]
                )
            except FixedPointRangeError as error:
                where = self.title(name, self.layout.locate(error.index))
                raise FixedPointRangeError(f"initial {where}: {error}", error.index) from error
        return states

    def title(self, state: str, path: str = "weights") -> str:
        """What to call a state, or a part of it, in messages."""
        name = "weights" if state == "w" else self.rule.states[state]
        return path.replace("weights", name, 1)

    def _factors(self) -> list[str]:
        return [operation.factor for operation in self.program if isinstance(operation, Decay)]

    def _float(self, name: str) -> Vector:
        if name not in self.floats:
            self.floats[name] = self.states[name].val
        return self.floats[name]

    def _blocks(self, operation: Decay | Add, t: int) -> list[tuple[slice, list[float]]]:
        """The parts of the vectors that share coefficients, with these at step t."""
        rows = [c[t if len(c) > 1 else 0] for c in map(self.coefficients.get, operation.coefficients)]
        individual = isinstance(operation, Decay) and len(self.states[operation.target].stores) > 1
        if not individual and all(row.size == 1 for row in rows):
            return [(slice(0, self.layout.size), [float(row[0]) for row in rows])]
        return [
            (block, [float(row[j] if row.size > 1 else row[0]) for row in rows])
            for j, block in enumerate(self.layout.slices)
        ]

    def _check_coefficients(self) -> None:
        for name, values in self.coefficients.items():
            bad = ~np.isfinite(values)
            need = "must be finite"
            if name in self._factors():
                bad |= values <= 0
                need = "must be above 2**-25: a smaller one would throw away what it multiplies and can't be undone"
            if bad.any():
                t, j = np.argwhere(bad)[0]
                leaf = f" of {self.layout.paths[j]}" if values.shape[1] > 1 else ""
                when = f" at iteration {t}" if len(values) > 1 else ""
                raise ValueError(f"{name}{leaf}{when} {need}; got {values[t, j]:g}")

    def _report(self, t: int) -> Step:
        self.gradient_at_hand = _Gradient(self, self._float("w"), t)
        self.gradient_at_hand.evaluate(with_pullback=False)
        unflatten = self.layout.unflatten
        state = {name: unflatten(self._float(name).copy()) for name in self.rule.states}
        return Step(
            t, unflatten(self._float("w").copy()), state, unflatten(self.gradient_at_hand.value.copy())
        )


def _parts(inputs: Sequence[Vector | _Gradient], block: slice) -> list[Vector]:
    return [(x.value if isinstance(x, _Gradient) else x)[block] for x in inputs]


_train = differentiation.joint_primitive(
    lambda run, *arguments: run.forward(*arguments),
    lambda run, argnums, cotangent: run.backward(argnums, cotangent),
)


# ---------------------------------------------------------------------------------------- the interface


class Rule(Protocol):
    """An update rule: a program of reversible operations, and how its coefficients come from hyperparameters."""

    program: Program
    states: Mapping[str, str]  # name in the program -> name in messages, of every state but the weights

    def initial(self) -> Mapping[str, Any]:
        """The initial value of each state: a tree like the weights, or None for zeros."""

    def coefficients(self, schedule: Callable[[Any, str], Any], num_steps: int) -> Mapping[str, Any]:
        """The program's coefficients, each of shape (1 or num_steps, 1 or number of leaves).

        schedule(value, name) brings a hyperparameter to that shape.  Written with autograd.numpy.
        """


def train(
    loss: Callable[[Any, Any, int], Any],
    weights: Any,
    rule: Rule,
    num_steps: int,
    theta: Any = None,
    recovery: Reversible | Stored = Reversible(),
    callback: Callable[[Step], None] | None = None,
) -> Any:
    """Train by gradient descent; the result can be differentiated with respect to all that shaped it.

    loss(weights, theta, t): the training loss at iteration t = 0 .. num_steps - 1, one float, written with
        autograd.numpy.  The same arguments must give the same result: t chooses the minibatch.
    weights: the initial weights, a tree (nested dict, list, tuple) of float arrays, or one array.
    rule: the update rule and its hyperparameters, like `Momentum(step_size, decay)`.
    theta: hyperparameters of the loss, a tree of float arrays; the loss gets it as it is.
    recovery: how the backward pass gets the trajectory back.
    callback: called with a `Step` before each update.

    Returns the trained weights, a tree like `weights`, float64.  autograd differentiates it, once, with respect to weights,
    theta and every hyperparameter and initial state of the rule.  None of the arguments is changed.

    Raises TypeError for weights or theta that are not floats; ValueError for trees or schedules that do not
    match, a loss that is no scalar, a decay <= 0; FixedPointRangeError where a weight leaves +-2048;
    NonFiniteGradientError; and, on the way back, ReversalError where the loss was not the same function.

    Source: Maclaurin, Duvenaud and Adams (2015), Algorithms 1 to 3.
    """
    theta_layout = Layout(theta, "theta")

    def gradient(leaves: list, theta_leaves: list, t: int) -> Any:
        parameters = theta_layout.rebuild(theta_leaves)
        return differentiation.gradient(
            lambda boxes: loss(layout.rebuild(boxes), parameters, t), leaves, f"iteration {t}"
        )

    layout = Layout(weights, "weights")
    return _start(gradient, layout, weights, rule, num_steps, theta_layout, theta, recovery, callback)


def _start(
    gradient: Callable[[list, list, int], Any],
    layout: Layout,
    weights: Any,
    rule: Rule,
    num_steps: int,
    theta_layout: Layout,
    theta: Any,
    recovery: Any,
    callback: Callable[[Step], None] | None,
) -> Any:
    """Bring everything to flat vectors and run."""
    num_steps = operator.index(num_steps)
    if num_steps < 0:
        raise ValueError(f"num_steps must be 0 or more, got {num_steps}")

    def schedule(value: Any, name: str) -> Any:
        return _schedule(value, name, weights, num_steps)

    initial = [
        np.zeros(layout.size) if value is None else layout.flatten(value, rule.states[name])
        for name, value in rule.initial().items()
    ]
    coefficients = rule.coefficients(schedule, num_steps)
    arguments = [layout.flatten(weights), theta_layout.flatten(theta), *initial, *coefficients.values()]
    names = ("w", "theta", *rule.states, *coefficients)
    traced = frozenset(name for name, x in zip(names, arguments, strict=True) if is_traced(x))
    run = _Run(
        rule, gradient, layout, theta_layout, tuple(coefficients), traced, num_steps, recovery, callback
    )
    return layout.unflatten(_train(run, *arguments))


def _schedule(value: Any, name: str, weights: Any, num_steps: int) -> Any:
    """A hyperparameter as an array of shape (1 or num_steps, 1 or number of leaves)."""
    if children(value) is None:
        return _column(value, name, num_steps)
    columns = [
        _column(leaf, path, num_steps) for path, leaf in broadcast_prefix(value, weights, name, "weights")
    ]
    rows = max((np.shape(value_of(column))[0] for column in columns), default=1)
    return anp.concatenate([column * np.ones((rows, 1)) for column in columns], axis=1)


def _column(value: Any, path: str, num_steps: int) -> Any:
    plain = np.asarray(value_of(value))
    if plain.dtype.kind not in "fiu":
        raise TypeError(
            f"{path} must be a number or an array of one per step, got {plain.dtype} {plain!r:.60}"
        )
    if plain.shape not in ((), (num_steps,)):
        raise ValueError(
            f"{path} must be a scalar or a schedule of shape ({num_steps},), one value per step, got shape {plain.shape}"
        )
    return anp.reshape(value, (-1, 1)) * 1.0
