"""The MNIST loaders under their older name; see hypergrad.mnist."""

from hypergrad.mnist import (
    DatasetError,
    load_data,
    load_data_as_dict,
    load_data_dicts,
    load_data_subset,
    one_hot,
    random_partition,
)

__all__ = [
    "DatasetError",
    "load_data",
    "load_data_as_dict",
    "load_data_dicts",
    "load_data_subset",
    "one_hot",
    "random_partition",
]
