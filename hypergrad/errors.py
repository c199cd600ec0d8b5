"""The errors of training, beside `FixedPointRangeError`."""

__all__ = ["ADVICE", "CoefficientRangeError", "NonFiniteGradientError", "ReversalError"]

ADVICE = (
    "The training loss must return the same gradient, to the last bit, for the same (weights, theta, t): look for "
    "a loop variable that the loss reads when the loop has moved on (bind it: lambda w, theta, t, c=c: ...), "
    "random numbers not seeded by t (dropout from one generator, say), state kept between calls, or data changed "
    "in place"
)


class ReversalError(RuntimeError):
    """Training run backwards, or once more, did not pass through the states it had passed through forwards.

    iteration: the first, going back, before which a state is known to be wrong; or at which a gradient differs.
    right_until: the last, going back, before which all states were found right (num_steps: after the last).
    leaf: the path of the first part found wrong, like velocity['W1']; None where reversal itself failed.
    """

    def __init__(
        self, message: str, iteration: int = 0, right_until: int | None = None, leaf: str | None = None
    ) -> None:
        super().__init__(message)
        self.iteration, self.right_until, self.leaf = iteration, right_until, leaf

    def __reduce__(self) -> tuple:  # so that it comes through other processes whole
        return type(self), (str(self), self.iteration, self.right_until, self.leaf)


class NonFiniteGradientError(ArithmeticError):
    """The gradient of the training loss holds NaN or infinity, or the loss is one."""


class CoefficientRangeError(ValueError):
    """A coefficient of the rule is not finite, or is a decay that can't be undone."""
