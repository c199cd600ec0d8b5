"""The 2015 package's names for `hypergrad.parallel`: ``omap(fun, arglist)``, ``collect_results(directory)``.

The job name of 2015 is now the directory that omap was given to keep its results in.
"""

from hypergrad.parallel import collect_results, omap

__all__ = ["collect_results", "omap"]
