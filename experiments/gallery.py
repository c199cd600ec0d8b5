"""README's gallery and its tables, made from the committed results: `python -m experiments.gallery`."""

from __future__ import annotations

import json
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.readme import costs
from experiments.common import RESULTS, Record, load_arrays

LINE_LENGTH = 116
README = RESULTS.parents[1] / "README.md"
RECOVERIES_SHOWN = ("stored", "stored_pullbacks", "checkpointed", "reversible")  # in the table of numbers


class Picture(NamedTuple):
    """A figure of the gallery: the experiment that draws it, its file, and one line or two."""

    experiment: str
    file: str
    caption: str


class Row(NamedTuple):
    """A quantity: what 2015 had, and how ours is computed from an experiment's results."""

    quantity: str
    published: str
    experiment: str
    ours: Callable[[Record], str]


PICTURES = [
    Picture(
        "figure_1",
        "figure_1",
        "**Figure 1.** Three trajectories of 50 steps on a toy loss. Each meta-iteration updates all 100 "
        "step sizes and decays by the gradient through the whole descent.",
    ),
    Picture(
        "figure_1_float16",
        "figure_1_float16",
        "**Why exactness matters** (companion). Momentum SGD there and back, 46 steps at decay 0.8. Left: "
        "in float16, without a buffer, it misses its start. Middle: exact reversal returns to it bit for "
        "bit. Right: distance between the two ways.",
    ),
    Picture(
        "schedules",
        "figure_2",
        "**Figure 2.** Learned step sizes of the four weight matrices of a 784-50-50-50-10 network. The "
        "last layer moves first, the first layer later, and all slow down at the end.",
    ),
    Picture(
        "schedules",
        "figure_3",
        "**Figure 3.** Left: training loss on all 10,000 rows with the initial schedules, with the learned "
        "ones, and with the constants that Bayesian optimisation chose in 2015. Right: final training loss "
        "over meta-iterations.",
    ),
    Picture(
        "tuned_constants",
        "tuned_constants",
        "**What tuned constants reach.** Bayesian optimisation of one step size, decay and initial scale, "
        "on the problem of figures 2 and 3. The learned schedules get lower than any constants.",
    ),
    Picture(
        "figure_4",
        "figure_4",
        "**Figure 4.** The hypergradient of both schedules at their start, averaged over 100 seeds, with "
        "the standard error of the mean as a band, which the paper lacked.",
    ),
    Picture(
        "schedules",
        "figure_5",
        "**Figure 5.** Initial scales of biases and weights over meta-iterations; dashed: 1/√784 and 1/√50.",
    ),
    Picture(
        "figure_6",
        "figure_6",
        "**Figure 6.** A penalty for each of the 7,850 weights of a logistic regression, learned from the "
        "validation loss: one map per digit.",
    ),
    Picture(
        "figure_7",
        "figure_7",
        "**Figure 7.** Ten training images, labelled 0 to 9, learned so that a logistic regression trained "
        "on them alone does well on 10,000 real ones.",
    ),
    Picture(
        "figure_7",
        "figure_7_net",
        "**Figure 7, continued.** Thirty images for a net with a hidden layer, not in the paper: at the settings "
        "of 2015, and trained as the ten, for longer; right: test errors while the images are learned.",
    ),
    Picture(
        "omniglot_sharing",
        "figure_8",
        "**Figure 8.** Ten tasks: to tell apart the characters of five alphabets (Balinese, Early Aramaic, "
        "Greek, Japanese katakana, Sanskrit), and of the same turned left by 90 degrees.",
    ),
    Picture(
        "omniglot_sharing",
        "figure_9",
        "**Figure 9.** How much the weights of each pair of tasks have in common, by layer. Where the "
        "sharing is learned, a task shares its top layer with its own rotation; mean of three seeds.",
    ),
    Picture(
        "omniglot_sharing",
        "table",
        "**The results table, drawn.** Left: losses of each of three seeds, beside those of 2015 on other "
        "alphabets. Right: learned sharing of rotated and of all other pairs of tasks.",
    ),
    Picture(
        "figure_10",
        "figure_10",
        "**Figure 10.** Chaos: one network trained at 1,000 step sizes. Up to a log step size of about 1.48 "
        "the final loss is smooth and its gradient agrees with differences of neighbours; beyond, gradients "
        "stay exact but mean nothing.",
    ),
    Picture(
        "adam_schedules",
        "adam_schedules",
        "**Beyond the paper: Adam.** Its step size, beta1 and beta2 for every step and layer, learned "
        "through a training run that is reversed bit for bit; right: training with the best constants, and "
        "with them.",
    ),
    Picture(
        "long_schedule",
        "long_schedule",
        "**Beyond the paper: 10,000 steps.** Step size and decay learned from the validation loss at the "
        "end of 20 epochs, and the memory that it takes to go back: weights and velocities of every step, "
        "or our buffer.",
    ),
    Picture(
        "mislabelled_digits",
        "mislabelled_digits",
        "**Beyond the paper: influence.** One backward pass gives the influence of each of 10,000 training "
        "examples on the validation loss. One label in ten is wrong; those examples harm most.",
    ),
    Picture(
        "recovery_frontier",
        "recovery_frontier",
        "**Beyond the paper: recoveries.** Error, peak memory and time of a hypergradient over 10 to "
        "10,000 steps, by every way to get the trajectory back. Solid: the same to the last bit; dashed: "
        "approximations, and reversal in floats, which fails after a few hundred steps.",
    ),
    Picture(
        "adjoint_growth",
        "adjoint_growth",
        "**Beyond the paper: does a gradient mean anything?** Figure 10 again, with a trace of the backward "
        "pass. Red: the adjoint grew more than 30-fold, and the trace warned. Right: by how much gradients "
        "fail to predict the loss at a step size 0.2 % larger.",
    ),
]


def numbers(values: np.ndarray, form: str) -> str:
    """Return the values, formatted alike."""
    return ", ".join(form.format(float(value)) for value in np.ravel(values))


def mean_and_spread(values: np.ndarray, form: str) -> str:
    """Return the mean and the standard deviation over seeds."""
    return f"{form.format(float(np.mean(values)))} ± {form.format(float(np.std(values, ddof=1)))}"


def before_and_after(values: np.ndarray, form: str) -> str:
    """Return the first value, that before the last update, which was the last in 2015, and that after it."""
    first, last_of_2015, last = (form.format(float(values[i])) for i in (0, -2, -1))
    return f"{first} → {last_of_2015} ({last})"


def errors_of_images(results: Record, stage: str) -> str:
    """Return the test errors of a stage of figure 7, the least, and the test loss before the last update."""
    errors = 100 * results[f"{stage}_test_error"]
    least, loss = errors.min(), results[f"{stage}_test_loss"][-2]
    return f"{before_and_after(errors, '{:.2f} %')}; {least:.2f} %; {loss:.3f}"


def peak(schedule: np.ndarray) -> str:
    """Return where a schedule is largest, and its value there."""
    return f"{int(np.argmax(schedule))}, {np.max(schedule):.2f}"


ROWS = [
    Row(
        "Figure 1, final losses, decays rounded as in 2015",
        "395.30, 356.57, 356.34",
        "figure_1",
        lambda r: numbers(r["final_losses_rounded_up"], "{:.3f}"),
    ),
    Row(
        "Figure 1, final losses, decays as they are",
        "–",
        "figure_1",
        lambda r: numbers(r["final_losses"], "{:.3f}"),
    ),
    Row(
        "Companion, float16 comes back to",
        "about (5, 23)",
        "figure_1_float16",
        lambda r: f"({numbers(r['float16_back'][0], '{:.3g}')})",
    ),
    Row(
        "Schedules, final training loss, before → after 49 updates (50)",
        "0.531 → 0.123",
        "schedules",
        lambda r: before_and_after(r["train_loss"], "{:.3f}"),
    ),
    Row(
        "Schedules, validation loss",
        "0.601 → 0.239",
        "schedules",
        lambda r: before_and_after(r["valid_loss"], "{:.3f}"),
    ),
    Row(
        "Schedules, test error",
        "17.9 % → 7.1 %",
        "schedules",
        lambda r: before_and_after(100 * r["test_error"], "{:.1f} %"),
    ),
    Row(
        "Figure 2, layer 4's step size peaks at iteration, value",
        "about 8, 6.7",
        "schedules",
        lambda r: peak(r["step_sizes"][:, 6]),
    ),
    Row(
        "Figure 2, layer 1's step size peaks at iteration, value",
        "about 38, 3.3",
        "schedules",
        lambda r: peak(r["step_sizes"][:, 0]),
    ),
    Row(
        "The constants that Bayesian optimisation chose in 2015, training loss",
        "0.156",
        "schedules",
        lambda r: f"{r['learning_curves'][2, -1]:.3f}",
    ),
    Row(
        "Bayesian optimisation, step size, decay, log initial scale",
        "2.43, 0.60, -1.63",
        "tuned_constants",
        lambda r: (
            f"{np.exp(r['best_log_step_size']):.2f}, {1 / (1 + np.exp(-r['best_logit_decay'])):.2f}, "
            f"{r['best_log_scale']:.2f}"
        ),
    ),
    Row(
        "Training loss over 10 fresh seeds: our constants, those of 2015, learned schedules",
        "–, 0.156, 0.123 (one seed)",
        "tuned_constants",
        lambda r: ", ".join(
            mean_and_spread(r[f"{k}_train_loss"], "{:.3f}") for k in ("tuned", "published", "learned")
        ),
    ),
    Row(
        "Figure 4, standard error / mean (rms), step sizes, decays, 100 seeds",
        "–",
        "figure_4",
        lambda r: (
            f"{100 * r['error_ratio_log_step_sizes']:.1f} %, {100 * r['error_ratio_logit_decays']:.0f} %"
        ),
    ),
    Row(
        "Figure 6, largest penalty shown",
        "0.03",
        "figure_6",
        lambda r: f"{r['largest_shown']:.3f}",
    ),
    Row(
        "Figure 7, range of the ten images",
        "-0.30 to 0.33",
        "figure_7",
        lambda r: f"{r['ten_images'].min():.2f} to {r['ten_images'].max():.2f}",
    ),
    *(
        Row(f"Figure 7, {quantity}", published, "figure_7", ours)
        for quantity, published, ours in [
            (
                "ten images: loss, before → after 39 updates (40)",
                "2.32189 → 0.419342",
                lambda r: before_and_after(r["ten_objective"], "{:.6f}"),
            ),
            (
                "ten images, decays rounded as in 2015: loss",
                "2.32189 → 0.419342",
                lambda r: before_and_after(r["ten_rounded_objective"], "{:.6f}"),
            ),
            (
                "30 images as in 2015: objective, before → after 99 updates (100)",
                "580.61 → 1.00902",
                lambda r: before_and_after(r["thirty_2015_objective"], "{:.5f}"),
            ),
            (
                "30 images as in 2015: test error; the least of it; test loss after 99 updates",
                "88.4 % → 13.25 %; 11.8 %; 0.457",
                lambda r: errors_of_images(r, "thirty_2015"),
            ),
            (
                "30 images, decays rounded as in 2015, too: objective",
                "580.61 → 1.00902",
                lambda r: before_and_after(r["thirty_2015_rounded_objective"], "{:.5f}"),
            ),
            (
                "30 images, decays rounded as in 2015, too: test error; the least; test loss",
                "88.4 % → 13.25 %; 11.8 %; 0.457",
                lambda r: errors_of_images(r, "thirty_2015_rounded"),
            ),
            (
                "30 images as the ten, trained for longer: test error (of the ten)",
                "–",
                lambda r: f"{100 * r['thirty_test_error'][-1]:.2f} % ({100 * r['ten_test_error'][-1]:.2f} %)",
            ),
        ]
    ),
    *(
        Row(
            f"Figures 8 and 9, {model}: train / test loss (3 seeds; other alphabets than in 2015)",
            published,
            "omniglot_sharing",
            lambda r, i=i: " / ".join(
                mean_and_spread(r[f"{name}_loss"][0, :, i], "{:.2f}") for name in ("train", "test")
            ),
        )
        for i, (model, published) in enumerate(
            [
                ("separate nets", "0.61 / 1.34"),
                ("tied first layer", "0.90 / 1.25"),
                ("learned sharing", "0.60 / 1.13"),
            ]
        )
    ),
    Row(
        "Figure 9, correlation in the top layer, rotated pairs (other pairs)",
        "–",
        "omniglot_sharing",
        lambda r: (
            f"{mean_and_spread(r['rotation_correlation'][0, :, -1, -1], '{:.2f}')} "
            f"({mean_and_spread(r['unrelated_correlation'][0, :, -1, -1], '{:.2f}')})"
        ),
    ),
    Row(
        "Figure 10, smallest loss, at log step size",
        "0.00244, near 1.66",
        "figure_10",
        lambda r: f"{np.nanmin(r['losses']):.5f}, {r['log_step_sizes'][np.nanargmin(r['losses'])]:.3f}",
    ),
    Row(
        "Adam, training loss over 10 seeds, best constants → learned schedules",
        "–",
        "adam_schedules",
        lambda r: " → ".join(mean_and_spread(r[f"{k}_train_loss"], "{:.3f}") for k in ("tuned", "learned")),
    ),
    Row(
        "10,000 steps, validation loss over 5 seeds, constants → learned",
        "–",
        "long_schedule",
        lambda r: " → ".join(
            mean_and_spread(r[f"{k}_valid_loss"], "{:.3f}") for k in ("constant", "learned")
        ),
    ),
    Row(
        "10,000 steps, test error",
        "–",
        "long_schedule",
        lambda r: " → ".join(
            mean_and_spread(100 * r[f"{k}_test_error"], "{:.2f}") + " %" for k in ("constant", "learned")
        ),
    ),
    Row(
        "10,000 steps, memory of a stored trajectory → of the buffer",
        "–",
        "long_schedule",
        lambda r: f"{r['stored_bytes'] / 1e6:,.0f} MB → {r['buffer_bytes'].max() / 1e6:.0f} MB",
    ),
    Row(
        "Wrong labels among the 1,000 most harmful, over 5 runs (by the examples' own loss)",
        "–",
        "mislabelled_digits",
        lambda r: (
            f"{100 * r['precision_influence_at_count'].mean():.1f} % "
            f"({100 * r['precision_own_loss_at_count'].mean():.1f} %)"
        ),
    ),
    Row(
        "Recoveries at 10,000 steps, peak memory: stored, with pullbacks, checkpointed, reversible",
        "–",
        "recovery_frontier",
        lambda r: numbers([r[f"{k}_peak_bytes"][-1] / 1e6 for k in RECOVERIES_SHOWN], "{:,.1f}") + " MB",
    ),
    Row(
        "Recoveries at 10,000 steps, time of a hypergradient, in trainings without: the same four",
        "–",
        "recovery_frontier",
        lambda r: numbers([r[f"{k}_time"][-1] for k in RECOVERIES_SHOWN], "{:.1f}"),
    ),
    Row(
        "Recoveries at 300 steps, error in step sizes' gradient: last fifth, straight line, float64 reversal",
        "–",
        "recovery_frontier",
        lambda r: numbers(
            [r[f"{k}_error_log_step_sizes"][3] for k in ("truncated", "interpolated", "float64")], "{:.2g}"
        ),
    ),
    Row(
        "Figure 10, traced: of step sizes warned of, share where gradients mislead; of the others, where they hold",
        "–",
        "adjoint_growth",
        lambda r: f"{100 * r['warned_rightly']:.0f} %, {100 * r['passed_rightly']:.0f} %",
    ),
]


def duration(experiment: str) -> str:
    """Return how long the committed run took, in words."""
    seconds = json.loads((RESULTS / experiment / "run.json").read_text())["duration_seconds"]
    return f"{seconds:.0f} s" if seconds < 100 else f"{seconds / 60:.0f} min"


def gallery() -> str:
    """Return the pictures, each with its caption, the command that makes it, and how long that takes."""
    parts = []
    for experiment, file, caption in PICTURES:
        words = f"{caption} `python -m experiments {experiment}`, {duration(experiment)}."
        parts.append(textwrap.fill(words, LINE_LENGTH, break_on_hyphens=False))
        parts.append(f"![{file}](experiments/results/{experiment}/{file}.png)")
    return "\n\n".join(parts)


def table() -> str:
    """Return the table of numbers, those of 2015 beside ours."""
    results = {row.experiment: load_arrays(RESULTS / row.experiment / "results.npz") for row in ROWS}
    lines = ["| quantity | 2015 | ours |", "|---|---|---|"]
    lines += [
        f"| {quantity} | {published} | {ours(results[experiment])} |"
        for quantity, published, experiment, ours in ROWS
    ]
    return "\n".join(lines)


def updated(text: str) -> str:
    """Return a text with all parts, between their marks, made anew."""
    for name, part in (("gallery", gallery()), ("numbers", table()), ("costs", costs())):
        start, end = f"<!-- {name} -->", f"<!-- end of {name} -->"
        before, rest = text.split(start)
        after = rest.split(end)[1]
        text = f"{before}{start}\n{part}\n{end}{after}"
    return text


def write(path: Path = README) -> None:
    """Bring README up to date."""
    path.write_text(updated(path.read_text()))
    print(path)


if __name__ == "__main__":
    write()
