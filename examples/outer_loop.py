"""Learn one step size and decay for each step of a small network on MNIST, by `hypergrad.minimize`.

Both keep to their domains; every meta-iteration averages over three fresh seeds; Ctrl-C keeps what was done.
Run with: python examples/outer_loop.py
"""

import autograd.numpy as np

import hypergrad as hg
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import init_weights, net_log_probs, nll
from hypergrad.util import RandomState

LAYERS = (784, 10, 10)
BATCH, STEPS, ROWS, META_ITERATIONS, SEEDS = 50, 10, 500, 8, 3


def run():
    train, valid = load_data_dicts(ROWS, ROWS)

    def objective(hypers, seed):
        """The validation loss after training with this seed."""

        def training_loss(weights, theta, t):
            rows = RandomState((seed, t)).randint(ROWS, size=BATCH)
            return nll(net_log_probs(weights, train["X"][rows]), train["T"][rows])

        start = init_weights(LAYERS, RandomState(seed), np.exp(-3.0))
        weights = hg.train(training_loss, start, hg.Momentum(hypers["step_size"], hypers["decay"]), STEPS)
        return nll(net_log_probs(weights, valid["X"]), valid["T"])

    return hg.minimize(
        objective,
        {"step_size": np.full(STEPS, 0.3), "decay": np.full(STEPS, 0.5)},
        "adam",
        META_ITERATIONS,
        learning_rate=0.2,
        transforms={"step_size": "log", "decay": "logit"},
        num_seeds=SEEDS,
        growth_limit=30.0,
        callback=lambda i, hypers, loss, gradient: print(f"meta-iteration {i}: validation loss {loss:.4f}"),
    )


if __name__ == "__main__":
    result = run()
    print(f"ended: {result.reason}; step sizes {np.round(result.hypers['step_size'], 2)}")
    print(f"standard error of the last loss over {SEEDS} seeds: {result.history.loss_sem[-1]:.4f}")
