"""Principal components of the climate by a random forest over forcing series.

Invariant: what is kept is the trees as plain arrays; walking through them equals scikit-learn's prediction.

A forest answers every forcing with a mean of training years: beyond the training forcings it stands still, and an
unseen stronger scenario stops warming where the training scenarios stopped. With `detrend` ``linear`` the forest
learns what a straight line in the forcings leaves, and the line continues.

After ClimateBench (Watson-Parris et al. 2022, doi:10.1029/2021MS002954), whose forest predicts annual fields.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray
from sklearn.ensemble import RandomForestRegressor

from emukit.data.archive import Archive
from emukit.data.split import Split
from emukit.emulators.base import refuse_unused
from emukit.emulators.components import Array, ComponentEmulator, Detrend, fit_basis, fit_trend
from emukit.errors import RecipeError


class RandomForest(ComponentEmulator):
    """One forest for all principal components of a variable, on top of a linear part."""

    kind = "random-forest"

    @classmethod
    def fit(
        cls,
        archive: Archive,
        split: Split,
        *,
        features: tuple[str, ...] = ("CO2", "CO2~30", "SO2", "BC"),
        components: int = 10,
        detrend: Detrend = "linear",
        ridge: float = 1.0,
        trees: int = 200,
        leaf: int = 5,
        tried: float = 0.5,
        seed: int = 0,
    ) -> Self:
        """Grow the trees.

        Splits lessen the sum of squares over all components of a variable, which is the area mean squared error of its
        fields.

        Args:
            archive: The data.
            split: Its training spans are used, in whole years.
            features: Forcing series, as `emukit.emulators.features` names them.
            components: Patterns kept for each variable.
            detrend: What the forest learns: departures from a line in the features (``linear``), which is needed beyond
                the training forcings, or from the climatology (``none``).
            ridge: Penalty of that line; see `eof-regression`.
            trees: How many.
            leaf: Fewest years in a leaf.
            tried: Share of the features that a split is chosen among.
            seed: Of the years and features that each tree sees: that of the run.

        Raises:
            RecipeError: No features, a bad name, or a value outside its range.
            ProtocolError: A forcing is not in the store, or no training span holds a whole year.
        """
        _check_options(trees, leaf, tried, seed)
        if detrend == "none":
            refuse_unused(cls.fit, "there is no line", "set model.detrend to 'linear'", ridge=ridge)
        basis, years = fit_basis(archive, split, features, components)
        trend = fit_trend(years, ridge, detrend)
        left = years.amounts - np.einsum("nf,fvk->nvk", years.z, trend)
        learned: dict[str, NDArray[Any]] = {}
        for v, name in enumerate(archive.variables):
            forest = RandomForestRegressor(trees, min_samples_leaf=leaf, max_features=tried, random_state=seed)
            forest.fit(years.z, left[:, v] if components > 1 else left[:, v, 0], years.weights)
            learned |= {f"{name}.{part}": values for part, values in forest_arrays(forest).items()}
        return cls(archive.domain, basis, trend, learned)

    def departure(self, z: Array) -> Array:
        """(T, V, K) means of all trees."""
        forests = []
        for name in self.variables:
            mark = f"{name}."
            forests.append({n.removeprefix(mark): a for n, a in self.learned.items() if n.startswith(mark)})
        return np.stack([walk(forest, z) for forest in forests], 1)


def forest_arrays(forest: RandomForestRegressor) -> dict[str, NDArray[Any]]:
    """A fitted forest as arrays over the nodes of all its trees.

    Returns:
        ``roots`` (R,) first node of each tree; ``children`` (N, 2) where to go at or below and above the threshold, a
        leaf's being itself; ``feature`` (N,) compared; ``threshold`` (N,); ``value`` (N, K).
    """
    children, feature, threshold, value, roots, first = [], [], [], [], [], 0
    for estimator in forest.estimators_:
        tree = estimator.tree_
        own = np.arange(tree.node_count)
        leaf = tree.children_left < 0
        pair = np.stack([tree.children_left, tree.children_right], 1)
        children.append(first + np.where(leaf[:, None], own[:, None], pair))
        feature.append(np.where(leaf, 0, tree.feature))
        threshold.append(np.where(leaf, 0.0, tree.threshold))
        value.append(tree.value[:, :, 0])
        roots.append(first)
        first += tree.node_count
    return {
        "roots": np.asarray(roots, np.int32),
        "children": np.concatenate(children).astype(np.int32),
        "feature": np.concatenate(feature).astype(np.int32),
        "threshold": np.concatenate(threshold),
        "value": np.concatenate(value),
    }


def walk(forest: Mapping[str, NDArray[Any]], x: Array) -> Array:
    """(T, F) inputs -> (T, K): the mean over trees of the leaf that each input ends in."""
    # scikit-learn compares inputs in single precision with thresholds in double.
    x = np.asarray(x, np.float32)
    rows = np.arange(len(x))[:, None]
    node = np.broadcast_to(forest["roots"], (len(x), len(forest["roots"])))
    while True:
        above = x[rows, forest["feature"][node]] > forest["threshold"][node]
        below = forest["children"][node, above.astype(np.int8)]
        if np.array_equal(below, node):
            return np.asarray(forest["value"][node].mean(1), np.float64)
        node = below


def _check_options(trees: int, leaf: int, tried: float, seed: int) -> None:
    if trees < 1:
        raise RecipeError("model.trees must be at least 1", found=str(trees))
    if leaf < 1:
        raise RecipeError("model.leaf must be at least 1", found=str(leaf))
    if not 0 < tried <= 1:
        raise RecipeError("model.tried is out of range", found=str(tried), expected="a share above 0, at most 1")
    if not 0 <= seed < 2**32:
        raise RecipeError("the seed is out of a forest's range", found=str(seed), expected="0 to 2^32 - 1")
