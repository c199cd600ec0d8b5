"""The information buffer on disk: the same digits as in memory."""

import autograd.numpy as np
import numpy as onp
import pytest
from autograd import grad
from autograd.misc.flatten import flatten

import hypergrad as hg
from hypergrad import BitStore, ExactRep, spilling
from hypergrad.spilling import WordsOnDisk


def decayed(words, factors, length=40):
    """Numbers multiplied by all factors, and their digits."""
    x = ExactRep(onp.random.RandomState(0).standard_normal(length), words=words)
    for factor in factors:
        x.mul(factor)
    return x


@pytest.mark.parametrize("segment_bytes", [1, 200, 1 << 24])
@pytest.mark.parametrize("individual", [False, True])
def test_words_on_disk_are_those_in_memory(monkeypatch, tmp_path, segment_bytes, individual):
    monkeypatch.setattr(spilling, "SEGMENT_BYTES", segment_bytes)
    rng = onp.random.RandomState(1)
    factors = [0.3 + 0.6 * (rng.rand(40) if individual else rng.rand()) for _ in range(200)]
    in_memory, on_disk = (
        decayed(lambda n: None, factors),
        decayed(lambda n: WordsOnDisk(n, tmp_path), factors),
    )
    assert on_disk == in_memory
    assert on_disk.aux.nbytes == in_memory.aux.nbytes > 40 * 8
    for factor in reversed(factors):
        on_disk.div(factor)
    assert on_disk == ExactRep(onp.random.RandomState(0).standard_normal(40))


def test_files_have_no_names_and_segments_come_and_go(monkeypatch, tmp_path):
    monkeypatch.setattr(spilling, "SEGMENT_BYTES", 100)
    words = WordsOnDisk(10, tmp_path)
    store = BitStore(10, words)
    digits = onp.random.RandomState(0).randint(2**16, size=(30, 10))
    for digit in digits:
        store.push(digit, 2**16)
    assert len(words) == len(list(words)) > 20
    assert list(tmp_path.iterdir()) == []
    for digit in digits[::-1]:
        onp.testing.assert_array_equal(store.pop(2**16), digit)
    assert len(words) == 0
    with pytest.raises(KeyError):
        del words[3]


def test_training_with_buffers_on_disk(problem, tmp_path):
    def final(hypers, recovery):
        rule = hg.Momentum(0.1, hg.logistic(hypers["logit_decay"]))
        return problem.objective(
            hg.train(problem.loss, hypers["weights"], rule, 300, problem.theta, recovery=recovery)
        )

    hypers = {"weights": problem.weights, "logit_decay": np.linspace(-1.0, 1.0, 300)}
    found, true = (
        flatten(grad(final)(hypers, recovery))[0]
        for recovery in (hg.Reversible(spill_to=tmp_path), hg.Reversible())
    )
    onp.testing.assert_array_equal(found, true)


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"spill_to must be a folder, got '.*nowhere'"):
        hg.Reversible(spill_to=tmp_path / "nowhere")
