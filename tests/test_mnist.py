"""MNIST: what the loaders return, where they look for the files, what they say when one is missing or bad."""

import functools
import gzip
import hashlib
import http.server
import subprocess
import sys
import threading
from pathlib import Path

import numpy as np
import numpy.testing as npt
import pooch
import pytest

from hypergrad import _download, data, mnist

FETCH, USER_CACHE = _download.fetch, _download.user_cache


def sha256(content):
    return hashlib.sha256(content).hexdigest()


@pytest.fixture(scope="module")
def whole():
    """All of MNIST as the checkout has it; not to be written to."""
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.delenv("HYPERGRAD_DATA", raising=False)
        return mnist.load_data()


@pytest.fixture(autouse=True)
def away_from_the_users_folders(monkeypatch, tmp_path):
    """The checkout's own files, an empty cache, and no network unless a test says otherwise."""
    monkeypatch.delenv("HYPERGRAD_DATA", raising=False)
    monkeypatch.setattr(_download, "user_cache", lambda dataset: tmp_path / "cache" / dataset)

    def refuse(url, path):
        raise OSError(f"no network for {url}")

    monkeypatch.setattr(_download, "fetch", refuse)


CONTENT = b"\x00\x00\x08\x01" + bytes(range(200))
MIRRORS = ("https://first.example/mnist/", "https://second.example/")


@pytest.fixture
def small_file():
    """A small file of the same kind as the real ones."""
    return _download.DataFile("mnist", "small.gz", sha256(CONTENT), MIRRORS, gzip.decompress)


# What the loaders return.


def test_load_data_has_the_shapes_range_and_class_counts_of_mnist(whole):
    train_images, train_labels, test_images, test_labels, n = whole
    assert n == 60_000
    assert train_images.shape == (60_000, 784)
    assert test_images.shape == (10_000, 784)
    assert train_labels.shape == (60_000, 10)
    assert test_labels.shape == (10_000, 10)
    for images in (train_images, test_images):
        assert images.dtype == np.float64
        assert images.min() == 0.0
        assert images.max() == 1.0
    for labels in (train_labels, test_labels):
        npt.assert_array_equal(labels.sum(axis=1), 1, err_msg="ones in each label")
    npt.assert_array_equal(
        train_labels.sum(axis=0), [5923, 6742, 5958, 6131, 5842, 5421, 5918, 6265, 5851, 5949]
    )
    npt.assert_array_equal(test_labels.sum(axis=0), [980, 1135, 1032, 1010, 982, 892, 958, 1028, 974, 1009])
    assert train_labels[:10].argmax(axis=1).tolist() == [5, 0, 4, 1, 9, 2, 1, 3, 1, 4]
    # Published mean and standard deviation of the training pixels.
    assert round(train_images.mean(), 4) == 0.1307
    assert round(train_images.std(), 4) == 0.3081


def test_digits_stand_upright_with_ink_one(whole):
    images, labels, *_ = whole
    ones = images[labels[:, 1] == 1].mean(axis=0).reshape(28, 28)
    assert ones.sum(axis=0)[12:16].sum() > 0.5 * ones.sum(), "a one is a vertical stroke in the middle"
    assert ones[14, 14] > 0.8
    assert ones[0, 0] == 0.0


def test_normalized_images_are_less_the_mean_training_image(whole):
    X, T, X_test, T_test, n = mnist.load_data(normalize=True)
    mean = whole[0].mean(axis=0)
    npt.assert_allclose(X[::997], whole[0][::997] - mean, atol=1e-13, err_msg="train images")
    npt.assert_allclose(X_test[::97], whole[2][::97] - mean, atol=1e-13, err_msg="test images")
    assert np.abs(X.mean(axis=0)).max() < 1e-12
    npt.assert_array_equal(T, whole[1], err_msg="train labels")
    npt.assert_array_equal(T_test, whole[3], err_msg="test labels")
    assert n == 60_000


def test_subsets_are_consecutive_rows_of_train_then_test(whole):
    train_images, train_labels, test_images, test_labels, _ = whole
    mean = train_images.mean(axis=0)
    (X0, T0), (X1, T1), (X2, T2) = mnist.load_data_subset(3, 59_999, np.int64(4))
    npt.assert_allclose(X0, train_images[:3] - mean, atol=1e-13)
    npt.assert_array_equal(T0, train_labels[:3])
    npt.assert_allclose(X1[:2], train_images[3:5] - mean, atol=1e-13)
    npt.assert_allclose(X1[-2:], test_images[:2] - mean, atol=1e-13)
    npt.assert_array_equal(T1[-2:], test_labels[:2])
    npt.assert_allclose(X2, test_images[2:6] - mean, atol=1e-13)
    npt.assert_array_equal(T2, test_labels[2:6])


def test_dicts_hold_the_same_as_subsets():
    subsets, dicts = mnist.load_data_subset(5, 0, 7), mnist.load_data_dicts(5, 0, 7)
    assert [d["X"].shape for d in dicts] == [(5, 784), (0, 784), (7, 784)]
    for (X, T), d in zip(subsets, dicts, strict=True):
        assert list(d) == ["X", "T"]
        npt.assert_array_equal(d["X"], X)
        npt.assert_array_equal(d["T"], T)
    assert mnist.load_data_dicts() == []


def test_as_dict_is_the_training_set(whole):
    raw, normalized = mnist.load_data_as_dict(normalize=False), mnist.load_data_as_dict()
    npt.assert_array_equal(raw["X"][::997], whole[0][::997], err_msg="X")
    npt.assert_array_equal(raw["T"], whole[1], err_msg="T")
    npt.assert_allclose(
        normalized["X"][::997], whole[0][::997] - whole[0].mean(axis=0), atol=1e-13, err_msg="X"
    )
    npt.assert_array_equal(normalized["T"], whole[1], err_msg="T")


def test_callers_cannot_change_what_others_get():
    first = mnist.load_data_dicts(2)[0]
    kept = {key: array.copy() for key, array in first.items()}
    first["X"][:] = 7.0
    first["T"][:] = 7
    second = mnist.load_data_dicts(2)[0]
    for key in ("X", "T"):
        npt.assert_array_equal(second[key], kept[key], err_msg=key)
    for array in mnist._raw():
        with pytest.raises(ValueError, match="read-only"):
            array[0] = 1


@pytest.mark.parametrize("sizes", [(70_001,), (60_000, 10_000, 1), (5, -1)])
def test_sizes_beyond_what_is_there_are_refused(sizes):
    with pytest.raises(ValueError, match=rf"sizes \[{sizes[0]}.*at most 70000 rows of MNIST"):
        mnist.load_data_subset(*sizes)
    with pytest.raises(ValueError, match="70000"):
        mnist.load_data_dicts(*sizes)


def test_sizes_that_are_no_whole_numbers_are_refused():
    with pytest.raises(TypeError, match="float"):
        mnist.load_data_subset(2.5)


def test_data_is_the_same_module_under_its_older_name():
    assert set(data.__all__) == set(mnist.__all__)
    for name in mnist.__all__:
        assert getattr(data, name) is getattr(mnist, name), name


def test_importing_the_loaders_stays_light():
    code = (
        "import sys, hypergrad.data, hypergrad.omniglot; "
        "print({'pooch', 'tqdm', 'requests', 'matplotlib', 'PIL', 'scipy.ndimage'} & set(sys.modules))"
    )
    root = _download.CHECKOUT_DATA.parent
    output = subprocess.run(
        [sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=True
    )
    assert output.stdout == "set()\n"


# random_partition and one_hot.


def test_random_partition_gives_disjoint_rows_with_their_labels():
    rows = np.arange(20)
    whole = {"X": rows[:, None] * np.ones(3), "T": rows * 10}
    parts = mnist.random_partition(whole, np.random.RandomState(3), [12, 0, 5])
    assert [len(part["X"]) for part in parts] == [12, 0, 5]
    order = np.concatenate([part["T"] for part in parts]) // 10
    npt.assert_array_equal(order, np.random.RandomState(3).permutation(20)[:17], err_msg="order of the rows")
    npt.assert_array_equal(np.concatenate([part["X"] for part in parts])[:, 1], order, err_msg="images")
    npt.assert_array_equal(whole["T"], rows * 10, err_msg="the caller's labels")


def test_random_partition_refuses_what_does_not_fit():
    whole = {"X": np.zeros((20, 3)), "T": np.zeros(20)}
    with pytest.raises(ValueError, match=r"sizes \[12, 9\] add up to 21: .* at most 20 rows"):
        mnist.random_partition(whole, np.random.RandomState(0), [12, 9])
    with pytest.raises(ValueError, match=r"same number of rows throughout, got {'X': 20, 'T': 21}"):
        mnist.random_partition({**whole, "T": np.zeros(21)}, np.random.RandomState(0), [1])


def test_one_hot():
    npt.assert_array_equal(mnist.one_hot(np.array([2, 0]), 3), [[0, 0, 1], [1, 0, 0]])
    assert mnist.one_hot([1], 2).dtype.kind == "i"
    assert mnist.one_hot(np.array([], dtype=int), 4).shape == (0, 4)


@pytest.mark.parametrize(("label", "K"), [(3, 3), (-1, 3), (0.5, 3), (0, 0)])
def test_one_hot_refuses_labels_out_of_range(label, K):
    with pytest.raises(
        ValueError, match=rf"label {label} at index 1 is not among the integers 0 .. {K - 1}|index 0"
    ):
        mnist.one_hot(np.array([0, label]), K)


def test_one_hot_refuses_other_shapes():
    with pytest.raises(ValueError, match=r"shape \(n,\), got shape \(2, 1\)"):
        mnist.one_hot(np.zeros((2, 1), dtype=int), 3)


# Where the files come from.


def test_the_checkouts_files_are_the_canonical_ones():
    for file in mnist.FILES:
        path, content = file.read()
        assert path == _download.CHECKOUT_DATA / "mnist" / file.name
        assert sha256(content) == file.sha256


@pytest.mark.parametrize("subfolder", ["", "mnist"])
@pytest.mark.parametrize("level", [1, 9])
def test_a_named_folder_is_used_whatever_the_compression(monkeypatch, tmp_path, small_file, subfolder, level):
    folder = tmp_path / "named" / subfolder
    folder.mkdir(parents=True)
    (folder / "small.gz").write_bytes(gzip.compress(CONTENT, level))
    monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path / "named"))
    assert small_file.read() == (folder / "small.gz", CONTENT)


def test_a_named_folder_without_the_file_is_an_error_even_if_the_checkout_has_it(monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path / "wrong"))
    with pytest.raises(_download.DatasetError) as raised:
        mnist.FILES[0].read()
    for part in ("HYPERGRAD_DATA", str(tmp_path / "wrong"), mnist.FILES[0].name, mnist.MIRRORS[0], "unset"):
        assert part in str(raised.value), part
    mnist._raw.cache_clear()
    with pytest.raises(mnist.DatasetError, match="HYPERGRAD_DATA is set to"):
        mnist.load_data()


def test_an_empty_variable_counts_as_unset(monkeypatch):
    monkeypatch.setenv("HYPERGRAD_DATA", "")
    assert mnist.FILES[1].find() == _download.CHECKOUT_DATA / "mnist" / mnist.FILES[1].name


def damaged(kind):
    packed = gzip.compress(CONTENT)
    return {
        "truncated": packed[:-20],
        "empty": b"",
        "not gzip": b"<html>Not found</html>",
        "a flipped byte": packed[:30] + bytes([packed[30] ^ 255]) + packed[31:],
        "other content": gzip.compress(CONTENT[:-1] + b"\x00"),
    }[kind]


@pytest.mark.parametrize("kind", ["truncated", "empty", "not gzip", "a flipped byte", "other content"])
@pytest.mark.parametrize("place", ["named", "cache/mnist"])
def test_a_damaged_file_is_named_with_what_to_do(monkeypatch, tmp_path, small_file, kind, place):
    path = tmp_path / place / "small.gz"
    path.parent.mkdir(parents=True)
    path.write_bytes(damaged(kind))
    if place == "named":
        monkeypatch.setenv("HYPERGRAD_DATA", str(path.parent))
    with pytest.raises(OSError, match="is damaged") as raised:
        small_file.read()
    assert isinstance(raised.value, mnist.DatasetError)
    assert str(path) in str(raised.value)
    assert "replace it with a good copy, from https://first.example/mnist/small.gz" in str(raised.value)
    if kind == "other content":
        assert f"expected {small_file.sha256}" in str(raised.value)


def serving(answers, asked):
    """A stand-in for the download of one address: answers it from a dict, where an exception is raised."""

    def fetch(url, path):
        asked.append(url)
        if isinstance(answers[url], Exception):
            raise answers[url]
        path.write_bytes(answers[url])

    return fetch


FIRST, SECOND = (mirror + "small.gz" for mirror in MIRRORS)


@pytest.mark.parametrize(
    "first", [ConnectionError("refused"), damaged("truncated"), damaged("not gzip"), damaged("other content")]
)
def test_the_second_mirror_serves_what_the_first_does_not(monkeypatch, tmp_path, small_file, first):
    asked = []
    monkeypatch.setattr(_download, "fetch", serving({FIRST: first, SECOND: gzip.compress(CONTENT)}, asked))
    cached = tmp_path / "cache" / "mnist" / "small.gz"
    assert small_file.read() == (cached, CONTENT)
    assert asked == [FIRST, SECOND]
    assert [path.name for path in cached.parent.iterdir()] == ["small.gz"], (
        "something else is left in the cache"
    )
    assert small_file.read() == (cached, CONTENT)
    assert asked == [FIRST, SECOND], "downloaded again although it is in the cache"


def test_the_first_mirror_is_enough(monkeypatch, small_file):
    asked = []
    monkeypatch.setattr(_download, "fetch", serving({FIRST: gzip.compress(CONTENT)}, asked))
    assert small_file.read()[1] == CONTENT
    assert asked == [FIRST]


def test_no_mirror_serves_it(monkeypatch, tmp_path, small_file):
    answers = {FIRST: ConnectionError("no route to host"), SECOND: damaged("truncated")}
    monkeypatch.setattr(_download, "fetch", serving(answers, []))
    with pytest.raises(mnist.DatasetError) as raised:
        small_file.read()
    for part in (
        "small.gz",
        FIRST,
        SECOND,
        "no route to host",
        "by hand",
        "HYPERGRAD_DATA",
        str(tmp_path / "cache"),
    ):
        assert part in str(raised.value), part
    assert list((tmp_path / "cache" / "mnist").iterdir()) == [], "a damaged download is left in the cache"


def test_a_cache_that_cannot_be_written_is_an_error_of_the_same_kind(tmp_path, small_file):
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(mnist.DatasetError, match=r"small\.gz .* could not be downloaded: .*HYPERGRAD_DATA"):
        small_file.read()


def test_a_real_download_over_http_shows_its_progress(monkeypatch, tmp_path, capsys):
    """From a server on this machine that has the file at the second of its two addresses."""
    monkeypatch.setattr(_download, "fetch", FETCH)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    content = np.random.RandomState(0).bytes(300_000)
    (tmp_path / "there").mkdir()
    (tmp_path / "there" / "real.gz").write_bytes(gzip.compress(content))
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=tmp_path)
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever).start()
        try:
            address = f"http://127.0.0.1:{server.server_port}"
            mirrors = (f"{address}/absent/", f"{address}/there/")
            file = _download.DataFile("mnist", "real.gz", sha256(content), mirrors, gzip.decompress)
            assert file.read() == (tmp_path / "cache" / "mnist" / "real.gz", content)
            nowhere = _download.DataFile("mnist", "nowhere.gz", sha256(content), mirrors, gzip.decompress)
            with pytest.raises(
                mnist.DatasetError, match=r"/absent/nowhere\.gz \(404 .*/there/nowhere\.gz \(404 "
            ):
                nowhere.read()
        finally:
            server.shutdown()
    assert "real.gz: 100%" in capsys.readouterr().err


def test_the_users_cache_is_the_systems():
    assert USER_CACHE("mnist") == Path(pooch.os_cache("hypergrad")) / "mnist"
