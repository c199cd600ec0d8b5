"""Omniglot: drawings true to the archives, groups and rotations as asked for, clear words when files are missing.

The tests run on the real archives where these are found, and otherwise on small ones made here.
"""

import dataclasses
import hashlib
import io
import os
import shutil
import zipfile
from pathlib import PurePosixPath

import matplotlib.pyplot as plt
import numpy as np
import numpy.testing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageDraw

from experiments.common import RESULTS, load_arrays
from experiments.multitask import load_tasks
from hypergrad import _download, omniglot
from hypergrad import _omniglot_archives as archives_module
from hypergrad.util import RandomState

IN_ARCHIVES = [
    ["Balinese", "Early_Aramaic", "Greek", "Korean", "Latin"],
    ["Greek", "Japanese_(katakana)", "Latin", "Sanskrit", "Tagalog"],
]


def sha256(content):
    return hashlib.sha256(content).hexdigest()


def made_up_archive(stem, alphabets):
    """An archive like the official ones: 20 drawings of a few characters per alphabet, as 1-bit PNGs."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for alphabet in alphabets:
            archive.writestr(f"{stem}/{alphabet}/", b"")
            RS = RandomState(alphabet)  # so that Greek and Latin are the same in both
            for character in range(1, 3 + omniglot.ALPHABETS.index(alphabet)):
                stroke = RS.randint(15, 90, size=(4, 2))
                for drawing in range(1, 21):
                    image = Image.new("1", (105, 105), 1)
                    points = [tuple(point) for point in (stroke + RS.randint(-5, 6, size=(4, 2))).tolist()]
                    ImageDraw.Draw(image).line(points, fill=0, width=3)
                    png = io.BytesIO()
                    image.save(png, "PNG")
                    name = f"{stem}/{alphabet}/character{character:02}/{character:04}_{drawing:02}.png"
                    archive.writestr(name, png.getvalue())
    return buffer.getvalue()


@pytest.fixture(scope="session")
def found_or_made(tmp_path_factory):
    """A folder with the two archives, and what identifies them."""
    folder = tmp_path_factory.mktemp("archives")
    try:
        found = [archive.find() for archive in archives_module.ARCHIVES]
    except omniglot.DatasetError:  # HYPERGRAD_DATA is set, for other data
        found = [None]
    if all(found):
        for path in found:
            shutil.copyfile(path, folder / path.name)
        return folder, archives_module.ARCHIVES
    made = []
    for archive, alphabets in zip(archives_module.ARCHIVES, IN_ARCHIVES, strict=True):
        content = made_up_archive(PurePosixPath(archive.name).stem, alphabets)
        (folder / archive.name).write_bytes(content)
        made.append(dataclasses.replace(archive, sha256=sha256(content)))
    return folder, tuple(made)


@pytest.fixture(autouse=True)
def archives(found_or_made, monkeypatch, tmp_path):
    """The archives' folder, named by HYPERGRAD_DATA; an empty user's cache; no network."""
    folder, identities = found_or_made
    monkeypatch.setenv("HYPERGRAD_DATA", str(folder))
    monkeypatch.setattr(_download, "user_cache", lambda dataset: tmp_path / "cache" / dataset)
    monkeypatch.setattr(_download, "fetch", refuse)
    monkeypatch.setattr(omniglot, "ARCHIVES", identities)
    return folder


@pytest.fixture
def fresh(archives, monkeypatch, tmp_path):
    """A folder of its own with the archives, nothing converted, and nothing remembered before or after."""
    folder = tmp_path / "fresh"
    folder.mkdir()
    for archive in omniglot.ARCHIVES:
        os.symlink(archives / archive.name, folder / archive.name)
    monkeypatch.setenv("HYPERGRAD_DATA", str(folder))
    archives_module.ink_counts.cache_clear()
    yield folder
    archives_module.ink_counts.cache_clear()


def refuse(url, path):
    raise OSError(f"no network for {url}")


def drawings_in(folder):
    """{alphabet: {character: names of its drawings}} and a function that reads one, straight from the archives."""
    names, holders = {}, {}
    for archive in omniglot.ARCHIVES:
        with zipfile.ZipFile(folder / archive.name) as opened:
            for name in opened.namelist():
                if name.endswith(".png"):
                    _, alphabet, character, _ = name.split("/")
                    names.setdefault(alphabet, {}).setdefault(character, {})[name[-6:-4]] = name
                    holders[name] = folder / archive.name

    def read(name):
        with zipfile.ZipFile(holders[name]) as opened, opened.open(name) as file:
            return np.asarray(Image.open(file).convert("L"))

    return names, read


# Drawings and labels.


def test_load_data_gives_fifteen_drawings_of_every_character(archives):
    names, _ = drawings_in(archives)
    assert sorted(names) == list(omniglot.ALPHABETS)
    for name, alphabet in zip(omniglot.ALPHABETS, omniglot.load_data(), strict=True):
        n_chars = len(names[name])
        assert alphabet["X"].shape == (15 * n_chars, 784), name
        assert alphabet["T"].shape == (15 * n_chars, 55), name
        expected = [15] * n_chars + [0] * (55 - n_chars)
        assert alphabet["T"].sum(axis=0).tolist() == expected, f"drawings per character of {name}"
        npt.assert_array_equal(alphabet["T"].argmax(axis=1), np.repeat(np.arange(n_chars), 15), err_msg=name)
        assert alphabet["X"].dtype == np.float64


def test_ink_is_one_and_paper_is_zero():
    for name, alphabet in zip(omniglot.ALPHABETS, omniglot.load_data(), strict=True):
        X = alphabet["X"]
        assert X.min() == 0.0, name
        assert 0.9 < X.max() <= 1.0, name
        assert np.median(X) == 0.0, f"{name}: most of a drawing is paper"
        assert (X.max(axis=1) > 0.3).all(), f"{name}: every drawing has ink"


def test_drawings_are_area_averages_of_the_archives_drawings(archives):
    names, read = drawings_in(archives)
    for name in ("Greek", "Tagalog"):
        X = omniglot.load_data([name])[0]["X"]
        for i_char, character in enumerate(sorted(names[name])):
            for i_drawing in (0, 14):
                ink = 1.0 - read(names[name][character][f"{i_drawing + 1:02}"]) / 255.0
                # Each pixel of 105 x 105 as 4 x 4 squares, and blocks of 15 x 15 of those.
                squares = np.kron(ink, np.ones((4, 4)))
                expected = squares.reshape(28, 15, 28, 15).mean(axis=(1, 3))
                got = X[15 * i_char + i_drawing].reshape(28, 28)
                npt.assert_allclose(got, expected, atol=1e-15, err_msg=f"{name}, {character}, {i_drawing}")


def test_load_data_takes_names_and_indices_in_the_order_given():
    whole = omniglot.load_data()
    some = omniglot.load_data(["Latin", 0, np.int64(7), "Latin"])
    for alphabet, index in zip(some, [5, 0, 7, 5], strict=True):
        npt.assert_array_equal(alphabet["X"], whole[index]["X"], err_msg=omniglot.ALPHABETS[index])
        npt.assert_array_equal(alphabet["T"], whole[index]["T"], err_msg=omniglot.ALPHABETS[index])
    assert omniglot.load_data([]) == []


@pytest.mark.parametrize("unknown", ["Klingon", "greek", 8, -1])
def test_an_unknown_alphabet_is_named_with_those_there_are(unknown):
    with pytest.raises(
        ValueError, match=f"no alphabet {unknown!r}: expected an index from 0 to 7, .*Greek, Jap"
    ):
        omniglot.load_data(["Greek", unknown])


def test_a_lone_name_is_not_taken_for_a_list():
    with pytest.raises(ValueError, match=r"got the string 'Greek': write \['Greek'\]"):
        omniglot.load_data("Greek")


def test_callers_cannot_change_what_others_get():
    first = omniglot.load_data(["Greek"])[0]
    kept = first["X"].copy()
    first["X"][:] = 9.0
    first["T"][:] = 9
    second = omniglot.load_data(["Greek"])[0]
    npt.assert_array_equal(second["X"], kept)
    assert second["T"].max() == 1
    for name, counts in archives_module.ink_counts(omniglot.ARCHIVES).items():
        assert not counts.flags.writeable, name


# Groups of drawings.


def numbered(n_chars, n_drawings, seed=0):
    """Two alphabets, rows in random order, whose drawings carry their own number."""
    alphabets = []
    for offset in (0, 10_000):
        order = np.random.RandomState(seed + offset).permutation(n_chars * n_drawings)
        T = np.zeros((len(order), 55), dtype=int)
        T[np.arange(len(order)), 54 - order // n_drawings] = 1  # the last columns, not the first
        alphabets.append({"X": np.tile((offset + order)[:, None], (1, 784)).astype(float), "T": T})
    return alphabets


@given(
    st.integers(1, 6),
    st.lists(st.integers(0, 6), min_size=1, max_size=4),
    st.integers(0, 3),
    st.integers(0, 99),
)
def test_random_partition_divides_the_drawings_of_each_character(n_chars, num_chars, spare, seed):
    n_drawings = max(sum(num_chars) + spare, 1)
    data = numbered(n_chars, n_drawings)
    before = [alphabet["X"].copy() for alphabet in data]
    groups = omniglot.random_partition(data, np.random.RandomState(seed), num_chars)
    assert len(groups) == len(num_chars)
    for size, group in zip(num_chars, groups, strict=True):
        assert [len(alphabet["X"]) for alphabet in group] == [size * n_chars] * 2
        for alphabet in group:
            assert set(alphabet["T"].sum(axis=0)[-n_chars:]) == {size}, "drawings per character"
    for i, alphabet in enumerate(data):
        ids = np.concatenate([group[i]["X"][:, 0] for group in groups])
        assert len(set(ids)) == len(ids), "a drawing is in two groups"
        labels = np.concatenate([group[i]["T"] for group in groups]).argmax(axis=1)
        npt.assert_array_equal(labels, 54 - ids.astype(int) % 10_000 // n_drawings, err_msg="labels")
        npt.assert_array_equal(alphabet["X"], before[i], err_msg="the caller's drawings")


def test_random_partition_depends_on_its_generator_alone_and_differs_between_alphabets():
    data = numbered(5, 15)
    ids = [
        [
            alphabet["X"][:, 0]
            for alphabet in omniglot.random_partition(data, RandomState(seed), [10, 2, 3])[2]
        ]
        for seed in (1, 1, 2)
    ]
    npt.assert_array_equal(ids[0], ids[1])
    assert set(ids[0][0]) != set(ids[2][0]), "another seed gives the same drawings"
    assert set(ids[0][0]) != set(ids[0][1] - 10_000), "both alphabets are divided alike"


def test_groups_can_be_divided_again():
    train, tests = omniglot.random_partition(omniglot.load_data(), RandomState(0), [12, 3])
    train, valid = omniglot.random_partition(train, RandomState(1), [10, 2])
    for name, *groups in zip(omniglot.ALPHABETS, train, valid, tests, strict=True):
        n_chars = np.count_nonzero(groups[0]["T"].sum(axis=0))
        assert [len(group["X"]) for group in groups] == [10 * n_chars, 2 * n_chars, 3 * n_chars], name


@pytest.mark.parametrize("num_chars", [[10, 2, 4], [16], [-1, 3]])
def test_more_drawings_than_there_are_is_an_error(num_chars):
    with pytest.raises(ValueError, match=r"sizes \[.* at most 15 drawings of each character"):
        omniglot.random_partition(omniglot.load_data(["Greek"]), RandomState(0), num_chars)
    with pytest.raises(ValueError, match="at most 15 drawings"):
        omniglot.load_curated_alphabets(num_chars, RandomState(0))


# Choices of alphabets, and their rotations.


def rows_of(alphabets):
    """The drawings of some alphabets as a sorted list of rows, rounded: independent of their order."""
    return sorted(map(tuple, np.concatenate([alphabet["X"] for alphabet in alphabets]).round(9).tolist()))


@pytest.mark.parametrize("chosen", ["curated", "split", "split of three"])
def test_splits_hold_every_drawing_once_less_the_mean(chosen):
    num_chars = [10, 2, 3]
    if chosen == "curated":
        names = omniglot.CURATED_ALPHABETS
        groups = omniglot.load_curated_alphabets(num_chars, RandomState("split"))
    else:
        size = 3 if chosen == "split of three" else 8
        names = sorted(RandomState("split").choice(8, size=size, replace=False))
        groups = omniglot.load_data_split(num_chars, RandomState("split"), num_alphabets=size)
    whole = omniglot.load_data(names)
    assert [len(group) for group in groups] == [len(names)] * 3
    for i, alphabet in enumerate(whole):
        n_chars = len(alphabet["X"]) // 15
        assert [len(group[i]["X"]) for group in groups] == [size * n_chars for size in num_chars], names[i]
        used = [group[i]["T"].any(axis=0) for group in groups]
        npt.assert_array_equal(used[0], used[2], err_msg=f"columns used by {names[i]}")
        assert used[0].sum() == n_chars
        assert used[0][n_chars:].any(), f"{names[i]}: the characters' columns are not random"
    mean = np.concatenate([alphabet["X"] for alphabet in whole]).mean(axis=0)
    expected = [{"X": alphabet["X"] - mean} for alphabet in whole]
    npt.assert_allclose(rows_of([a for group in groups for a in group]), rows_of(expected), atol=2e-9)


def test_the_same_character_has_the_same_label_in_every_group():
    groups = omniglot.load_data_split([5, 5, 5], RandomState(4), num_alphabets=1)
    whole = omniglot.load_data()
    mean_of = {index: alphabet["X"].mean(axis=0) for index, alphabet in enumerate(whole)}
    (index,) = RandomState(4).choice(8, size=1, replace=False)
    labels = {}
    for group in groups:
        for x, t in zip(group[0]["X"], group[0]["T"], strict=True):
            row = np.abs(whole[index]["X"] - mean_of[index] - x).max(axis=1).argmin()
            labels.setdefault(row // 15, set()).add(int(t.argmax()))
    assert all(len(columns) == 1 for columns in labels.values()), labels
    assert len(set.union(*labels.values())) == len(labels), "two characters share a column"


@pytest.mark.parametrize("num_alphabets", [0, 9])
def test_a_split_of_more_alphabets_than_there_are_is_an_error(num_alphabets):
    with pytest.raises(ValueError, match=f"num_alphabets from 1 to 8, got {num_alphabets}"):
        omniglot.load_data_split([1], RandomState(0), num_alphabets)


def test_rotated_alphabets_are_quarter_turns_of_the_curated_ones():
    data = omniglot.load_rotated_alphabets(RandomState("rotated"), normalize=False)
    assert len(data) == 10
    for name, original, rotated in zip(omniglot.CURATED_ALPHABETS, data[:5], data[5:], strict=True):
        npt.assert_array_equal(original["T"], rotated["T"], err_msg=f"labels of {name}")
        for upright, turned in zip(original["X"][:20], rotated["X"][:20], strict=True):
            # Clockwise: what was the left edge, from the bottom up, is the top.
            npt.assert_array_equal(turned.reshape(28, 28)[0], upright.reshape(28, 28)[::-1, 0], err_msg=name)
            npt.assert_array_equal(
                turned.reshape(28, 28), np.rot90(upright.reshape(28, 28), -1), err_msg=name
            )
    assert rows_of(data[:5]) == rows_of(omniglot.load_data(omniglot.CURATED_ALPHABETS))


def test_normalized_rotations_are_less_one_mean_of_all():
    raw = omniglot.load_rotated_alphabets(RandomState(0), normalize=False)
    normalized = omniglot.load_rotated_alphabets(RandomState(0))
    mean = np.concatenate([alphabet["X"] for alphabet in raw]).mean(axis=0)
    for i, (a, b) in enumerate(zip(raw, normalized, strict=True)):
        npt.assert_allclose(b["X"], a["X"] - mean, atol=1e-12, err_msg=f"drawings of alphabet {i}")
        npt.assert_array_equal(a["T"], b["T"], err_msg=f"labels of alphabet {i}")


def test_the_generator_orders_rows_and_columns():
    first, again, other = (omniglot.load_rotated_alphabets(RandomState(seed), False) for seed in (0, 0, 1))
    for key in ("X", "T"):
        npt.assert_array_equal(first[3][key], again[3][key], err_msg=key)
    assert not np.array_equal(first[3]["X"], other[3]["X"])
    assert first[3]["T"].any(axis=0).tolist() != other[3]["T"].any(axis=0).tolist()


@pytest.mark.parametrize(("angle", "quarters"), [(0, 0), (180, 2), (270, 3), (-90, 3), (450.0, 1)])
def test_quarter_turns_are_exact(angle, quarters):
    data = omniglot.load_rotated_alphabets(RandomState(0), normalize=False, angle=angle)
    images = data[0]["X"].reshape(-1, 28, 28)
    npt.assert_array_equal(data[5]["X"].reshape(-1, 28, 28), np.rot90(images, -quarters, axes=(1, 2)))


def test_other_angles_turn_the_same_way_and_stay_in_range():
    exact, near, slanted = (
        omniglot.load_rotated_alphabets(RandomState(0), False, a)[5]["X"] for a in (90, 89.9, 30)
    )
    assert np.abs(near - exact).max() < 0.1
    assert slanted.min() >= 0.0
    assert slanted.max() <= 1.0
    assert 0.9 < slanted.sum() / exact.sum() < 1.1, "ink is lost"


def test_flipped_alphabets_are_mirrored_top_to_bottom():
    data = omniglot.load_flipped_alphabets(RandomState("flipped"), False)
    assert len(data) == 10
    for original, flipped in zip(data[:5], data[5:], strict=True):
        npt.assert_array_equal(flipped["X"].reshape(-1, 28, 28), original["X"].reshape(-1, 28, 28)[:, ::-1])
        npt.assert_array_equal(flipped["T"], original["T"])
        flipped["T"][:] = 5
        assert original["T"].max() == 1, "the two share their labels' memory"
    assert rows_of(data[:5]) == rows_of(omniglot.load_data(omniglot.CURATED_ALPHABETS))
    everything = np.concatenate(
        [alphabet["X"] for alphabet in omniglot.load_flipped_alphabets(RandomState(0))]
    )
    assert np.abs(everything.mean(axis=0)).max() < 1e-12


def test_flipped_and_rotated_alphabets_start_from_the_same_rows_and_columns():
    flipped = omniglot.load_flipped_alphabets(RandomState(3), normalize=False)
    rotated = omniglot.load_rotated_alphabets(RandomState(3), normalize=False)
    for a, b in zip(flipped[:5], rotated[:5], strict=True):
        npt.assert_array_equal(a["X"], b["X"])
        npt.assert_array_equal(a["T"], b["T"])


@pytest.mark.parametrize("load", [omniglot.load_flipped_alphabets, omniglot.load_rotated_alphabets])
def test_what_is_no_generator_is_refused(load):
    with pytest.raises(TypeError, match=r"expected RS, a generator of random numbers .*, got True"):
        load(True)


def test_the_tasks_of_figure_8_are_turned_left_as_in_the_committed_results():
    committed = load_arrays(RESULTS / "omniglot_sharing" / "results.npz")["drawings"]
    tasks = np.array([task["X"][:15] for task in load_tasks("omniglot", 0, normalize=False)])
    for drawings in (committed, tasks):
        images = drawings.reshape(10, 15, 28, 28)
        npt.assert_array_equal(images[5:], np.rot90(images[:5], axes=(2, 3)))


def test_show_alphabets_draws_a_row_of_drawings_per_alphabet():
    alphabets = omniglot.load_rotated_alphabets(RandomState(0), normalize=False)
    _, given_axes = plt.subplots()
    try:
        for ax, n_cols in [(given_axes, 15), (None, 20)]:
            axes = omniglot.show_alphabets(alphabets, *([ax, n_cols] if ax else []))
            assert ax is None or axes is ax
            (image,) = axes.get_images()
            assert image.get_cmap().name == "binary", "ink is dark"
            tiles = image.get_array().reshape(10, 28, n_cols, 28).swapaxes(1, 2)
            for row, alphabet in zip(tiles, alphabets, strict=True):
                for tile in row:
                    assert (alphabet["X"] == tile.reshape(784)).all(axis=1).any(), (
                        "not a drawing of the alphabet"
                    )
            npt.assert_array_equal(
                np.rot90(tiles[:5], -1, axes=(2, 3)), tiles[5:], err_msg="rows do not match"
            )
    finally:
        plt.close("all")


# Files.


def test_the_converted_drawings_are_kept_beside_the_archives(fresh, monkeypatch):
    whole = omniglot.load_data()
    kept = sorted(path.name for path in fresh.glob("*.npz"))
    assert kept == ["images_background_small1-28x28.npz", "images_background_small2-28x28.npz"]
    assert len(list(fresh.iterdir())) == 4, "something else is left in the folder"

    def refuse_to_convert(content):
        raise AssertionError("converted again")

    monkeypatch.setattr(archives_module, "_converted", refuse_to_convert)
    archives_module.ink_counts.cache_clear()
    for name, first, again in zip(omniglot.ALPHABETS, whole, omniglot.load_data(), strict=True):
        npt.assert_array_equal(first["X"], again["X"], err_msg=name)


@pytest.mark.parametrize("kind", ["truncated", "empty", "garbage", "of another archive", "without checksum"])
def test_kept_drawings_that_are_not_right_are_made_again(fresh, kind):
    whole = omniglot.load_data()
    for path in fresh.glob("*.npz"):
        good = path.read_bytes()
        if kind == "truncated":
            path.write_bytes(good[: len(good) // 2])
        elif kind in ("empty", "garbage"):
            path.write_bytes(b"" if kind == "empty" else b"\x93NUMPY garbage")
        elif kind == "of another archive":
            np.savez(path, sha256="0" * 64, Greek=np.zeros((1, 15, 784), np.uint8))
        else:
            np.savez(path, Greek=np.zeros((1, 15, 784), np.uint8))
    archives_module.ink_counts.cache_clear()
    for name, first, again in zip(omniglot.ALPHABETS, whole, omniglot.load_data(), strict=True):
        npt.assert_array_equal(first["X"], again["X"], err_msg=name)
    for path in fresh.glob("*.npz"):
        with np.load(path) as stored:
            assert len(stored.files) == 6, "not written again"


def test_the_users_cache_serves_where_the_archives_folder_cannot_be_written(fresh, tmp_path):
    for archive in omniglot.ARCHIVES:  # a folder in the file's place cannot be replaced by a file
        (fresh / f"{PurePosixPath(archive.name).stem}-28x28.npz" / "in the way").mkdir(parents=True)
    first = omniglot.load_data(["Greek"])[0]["X"]
    kept = tmp_path / "cache" / "omniglot"
    assert sorted(path.name for path in kept.iterdir()) == [
        "images_background_small1-28x28.npz",
        "images_background_small2-28x28.npz",
    ]
    archives_module.ink_counts.cache_clear()
    npt.assert_array_equal(omniglot.load_data(["Greek"])[0]["X"], first)


def test_drawings_load_where_nothing_can_be_written(fresh, tmp_path):
    for archive in omniglot.ARCHIVES:
        (fresh / f"{PurePosixPath(archive.name).stem}-28x28.npz" / "in the way").mkdir(parents=True)
    (tmp_path / "cache").write_text("a file where the folder should be")
    assert len(omniglot.load_data(["Greek"])[0]["X"]) > 0


@pytest.mark.parametrize("content", [b"", b"<html>Not found</html>", None])
def test_a_damaged_archive_is_named_with_what_to_do(fresh, content):
    path = fresh / omniglot.ARCHIVES[1].name
    whole = path.read_bytes()
    path.unlink()
    path.write_bytes(whole[:-100] if content is None else content)
    with pytest.raises(omniglot.DatasetError) as raised:
        omniglot.load_data()
    for part in (str(path), "damaged", omniglot.ARCHIVES[1].sha256, "replace", "brendenlake/omniglot"):
        assert part in str(raised.value), part


def test_a_named_folder_without_the_archives_is_an_error(fresh, monkeypatch, tmp_path):
    monkeypatch.setenv("HYPERGRAD_DATA", str(tmp_path / "elsewhere"))
    with pytest.raises(omniglot.DatasetError, match=r"HYPERGRAD_DATA is set to .*elsewhere.*small1\.zip"):
        omniglot.load_data()


def test_missing_archives_are_downloaded_and_checked(fresh, monkeypatch, tmp_path):
    asked = []

    def second_mirror_only(url, path):
        asked.append(url)
        if url.startswith(archives_module.MIRRORS[0]):
            raise ConnectionError("refused")
        shutil.copyfile(fresh / path.name, path)

    monkeypatch.delenv("HYPERGRAD_DATA")
    monkeypatch.setattr(_download, "CHECKOUT_DATA", tmp_path / "no checkout")
    with pytest.raises(omniglot.DatasetError, match=r"small1\.zip is neither in .*no checkout.* by hand"):
        omniglot.load_data()
    monkeypatch.setattr(_download, "fetch", second_mirror_only)
    assert len(omniglot.load_data()) == 8
    assert asked == [
        mirror + archive.name for archive in omniglot.ARCHIVES for mirror in archives_module.MIRRORS
    ]
    assert len(list((tmp_path / "cache" / "omniglot").glob("*.zip"))) == 2
