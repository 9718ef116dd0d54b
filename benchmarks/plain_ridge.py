"""The reference for `emukit train linear`: a per-cell ridge in plain xarray and numpy.

``python -m benchmarks.plain_ridge STORE`` reads a store of the competition's layout, fits cumulative CO2 per cell and
calendar month on the k360 training months of all members, and prints the validation score. It uses nothing of emukit.
"""

from __future__ import annotations

import sys

import numpy as np
import xarray as xr


def main(store: str) -> None:
    """Load, fit, score, print."""
    ds = xr.open_zarr(store, chunks=None).load()
    names = [str(s) for s in ds.ssp.values]
    n = ds.sizes["time"]
    months = {"ssp126": n, "ssp370": n - 480, "ssp585": n}
    truth_span = slice(n - 480, n - 360)
    held_out = names.index("ssp370")
    weights = np.cos(np.deg2rad(ds.y.values))[:, None] * np.ones(ds.sizes["x"])
    weights /= weights.sum()
    score = 0.0
    for name, std_weight in (("tas", 1.0), ("pr", 0.75)):
        values = ds[name].transpose("ssp", "time", "member_id", "y", "x").values
        prediction = np.empty((120, *values.shape[3:]))
        month = np.arange(n) % 12
        for m in range(12):
            x, y = [], []
            for scenario, stop in months.items():
                s = names.index(scenario)
                rows = np.flatnonzero(month[:stop] == m)
                for member in range(values.shape[2]):
                    x.append(ds.CO2.values[s, rows])
                    y.append(values[s, rows, member].reshape(len(rows), -1).astype(np.float64))
            design = np.concatenate(x)
            centre, scale = design.mean(), design.std()
            design = np.stack([np.ones_like(design), (design - centre) / scale], 1)
            coefficients = np.linalg.solve(design.T @ design + np.diag([0.0, 1.0]), design.T @ np.concatenate(y))
            rows = np.flatnonzero(month[truth_span] == m)
            future = (ds.CO2.values[held_out, truth_span][rows] - centre) / scale
            fields = np.stack([np.ones_like(future), future], 1) @ coefficients
            prediction[rows] = fields.reshape(len(rows), *values.shape[3:])
        truth = values[held_out, truth_span, 0].astype(np.float64)
        monthly = np.sqrt((weights * (prediction - truth) ** 2).sum((1, 2)).mean())
        mean = np.sqrt((weights * (prediction.mean(0) - truth.mean(0)) ** 2).sum())
        std = (weights * np.abs(prediction.std(0) - truth.std(0))).sum()
        score += 0.5 * (0.1 * monthly + mean + std_weight * std)
    print(score)


if __name__ == "__main__":
    main(sys.argv[1])
