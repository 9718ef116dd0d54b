"""Every term of a loss by name: one table.

Invariant: a term is found by its name, and importing this table imports none of them.
"""

from __future__ import annotations

from emukit.registry import Entry, Registry

# Each a function of GridContext that builds a LossTerm. A new term is a function and a line here, or a package with an
# entry point in the group ``emukit.losses`` (docs/plugins.md).
TERMS: Registry[Entry] = Registry(
    "loss term",
    "emukit.losses",
    {
        "mse": Entry("emukit.losses.values:mse", "mean squared error"),
        "l1": Entry("emukit.losses.values:l1", "mean absolute error"),
        "huber": Entry("emukit.losses.values:huber", "squared near zero, absolute beyond"),
        "log_cosh": Entry("emukit.losses.values:log_cosh", "a smooth mean absolute error"),
        "rmse": Entry("emukit.losses.values:rmse", "root of each segment's mean squared error"),
        "time_mean": Entry("emukit.losses.values:time_mean", "error of the mean over the segment"),
        "time_std": Entry("emukit.losses.values:time_std", "error of the standard deviation over the segment"),
        "dice": Entry("emukit.losses.values:dice", "how little two fields overlap"),
        "gabor": Entry("emukit.losses.texture:gabor", "absolute differences of texture, by Gabor filters"),
        "hessian": Entry("emukit.losses.texture:hessian", "root of the mean square of second differences"),
        "polar": Entry(
            "emukit.losses.polar:polar", "absolute error, warped about the middle of the map as one published loss does"
        ),
        "sobel": Entry("emukit.losses.texture:sobel", "absolute differences of gradients"),
        "ssim": Entry("emukit.losses.texture:ssim", "one minus the structural similarity"),
    },
    entry=Entry,
    accepts=callable,
    expected="a function of GridContext that gives a LossTerm",
)
