"""Learn a schedule of step sizes for a small network on MNIST, through `hypergrad.train`.

`schedules_2015_interface.py` beside this file does the same in the names of 2015, with the same numbers.
Run with: python examples/schedules_train.py
"""

import autograd.numpy as np
from autograd import grad

import hypergrad as hg
from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import init_weights, net_log_probs, nll
from hypergrad.optimizers import adam
from hypergrad.util import RandomState

LAYERS = (784, 10, 10)
BATCH, STEPS, ROWS, META_ITERATIONS = 50, 10, 500, 5


def run():
    (data,) = load_data_dicts(ROWS)
    shape = (STEPS, 2 * (len(LAYERS) - 1))  # weights 0, biases 0, weights 1, biases 1

    def network_loss(weights, rows):
        return nll(net_log_probs(weights, data["X"][rows]), data["T"][rows])

    def schedules(columns):
        """One (step, array of weights) table as a list of (W, b) pairs, like the weights."""
        return [(columns[:, j], columns[:, j + 1]) for j in range(0, shape[1], 2)]

    def objective(hypers, i):
        log_steps, logit_decays = np.reshape(hypers, (2, *shape))
        rule = hg.Momentum(schedules(np.exp(log_steps)), schedules(hg.logistic(logit_decays)))

        def training_loss(weights, theta, t):
            return network_loss(weights, RandomState((0, i, t)).randint(ROWS, size=BATCH))

        start = init_weights(LAYERS, RandomState((0, i)), np.exp(-3.0))
        return network_loss(hg.train(training_loss, start, rule, STEPS), slice(None))

    losses = []

    def callback(hypers, i, gradient):
        losses.append(float(objective(hypers, i)))
        print(f"meta-iteration {i}: training loss {losses[-1]:.6f} after {STEPS} iterations")

    start = np.concatenate([np.full(shape, -1.0), np.full(shape, hg.logit(0.5))]).ravel()
    learned = adam(grad(objective), start, callback, META_ITERATIONS, 0.2)
    return np.array(losses), learned


if __name__ == "__main__":
    run()
