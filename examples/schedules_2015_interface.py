"""Learn a schedule of step sizes for a small network on MNIST, in the names of the 2015 package.

`schedules_train.py` beside this file does the same through `hypergrad.train`, with the same numbers.
Run with: python examples/schedules_2015_interface.py
"""

import autograd.numpy as np
from autograd import grad

from hypergrad.mnist import load_data_dicts
from hypergrad.nn_utils import VectorParser, fill_parser, inv_logit, logit, make_nn_funs
from hypergrad.optimizers import adam, sgd_parsed
from hypergrad.util import RandomState

layer_sizes = [784, 10, 10]
batch_size, N_iters, N_data, N_meta_iter = 50, 10, 500, 5
init_log_alpha, init_beta, init_log_scale, meta_alpha = -1.0, 0.5, -3.0, 0.2


def run():
    (train_data,) = load_data_dicts(N_data)
    parser, _, loss_fun, _ = make_nn_funs(layer_sizes)
    N_weight_types = len(parser.names)
    hyperparams = VectorParser()
    hyperparams["log_alphas"] = np.full((N_iters, N_weight_types), init_log_alpha)
    hyperparams["invlogit_betas"] = np.full((N_iters, N_weight_types), inv_logit(init_beta))
    scale = np.exp(fill_parser(parser, np.full(N_weight_types, init_log_scale)))

    def hyperloss(hyperparam_vect, i):
        hypers = hyperparams.new_vect(hyperparam_vect)
        W0 = RandomState((0, i)).randn(parser.vect.size) * scale

        def indexed_loss(W, meta, i_iter):
            idxs = RandomState((0, i, i_iter)).randint(N_data, size=batch_size)
            return loss_fun(W, train_data["X"][idxs], train_data["T"][idxs])

        alphas, betas = np.exp(hypers["log_alphas"]), logit(hypers["invlogit_betas"])
        W_opt = sgd_parsed(grad(indexed_loss), [W0, alphas, betas, np.zeros(1)], parser)
        return loss_fun(W_opt, **train_data)

    losses = []

    def callback(x, i, g):
        losses.append(float(hyperloss(x, i)))
        print(f"meta-iteration {i}: training loss {losses[-1]:.6f} after {N_iters} iterations")

    learned = adam(grad(hyperloss), hyperparams.vect, callback, N_meta_iter, meta_alpha)
    return np.array(losses), learned


if __name__ == "__main__":
    run()
