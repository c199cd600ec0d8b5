"""Exact gradients through a whole training run, by running it backwards bit for bit."""
