"""The plain way to write and to score a submission, as a notebook would: what emukit's speed is measured against.

Invariant: nothing of `emukit.submission` or `emukit.metrics` is used here, so agreement means something.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pandas as pd
from numpy.typing import NDArray


def write_row_by_row(
    path: Path, prediction: NDArray[np.floating], lat: NDArray[np.floating], lon: NDArray[np.floating]
) -> int:
    """Collect a dictionary for every value of (T, V, Y, X), and let pandas write them; the number of rows."""
    rows = []
    for t in range(prediction.shape[0]):
        for v, variable in enumerate(("tas", "pr")):
            for y in range(len(lat)):
                for x in range(len(lon)):
                    row_id = f"t{t:03d}_{variable}_{lat[y]:.2f}_{lon[x]:.2f}"
                    rows.append({"ID": row_id, "Prediction": prediction[t, v, y, x]})
    pd.DataFrame(rows).to_csv(path, index=False)
    return len(rows)


def score_by_merge(submission: Path, solution: Path) -> float:
    """Merge two CSVs on the ID, take the IDs apart with a regular expression, pivot to arrays, and score."""
    merged = pd.read_csv(solution).merge(pd.read_csv(submission), on="ID", suffixes=("_true", "_pred"))
    parts = merged["ID"].str.extract(r"t(\d+)_(\w+)_(-?\d+\.\d+)_(-?\d+\.\d+)")
    merged["time"], merged["variable"] = parts[0].astype(int), parts[1]
    merged["lat"], merged["lon"] = parts[2].astype(float), parts[3].astype(float)
    score = 0.0
    for variable, stddev_weight in (("tas", 1.0), ("pr", 0.75)):
        rows = merged[merged["variable"] == variable]
        true = rows.pivot(index="time", columns=["lat", "lon"], values="Prediction_true")
        pred = rows.pivot(index="time", columns=["lat", "lon"], values="Prediction_pred")[true.columns]
        weights = np.cos(np.deg2rad(true.columns.get_level_values("lat").to_numpy(float)))
        p, t = pred.to_numpy(float), true.to_numpy(float)
        monthly = np.sqrt(np.average(((p - t) ** 2).mean(axis=0), weights=weights))
        time_mean = np.sqrt(np.average((p.mean(axis=0) - t.mean(axis=0)) ** 2, weights=weights))
        stddev = np.average(np.abs(p.std(axis=0) - t.std(axis=0)), weights=weights)
        score += 0.5 * (0.1 * monthly + time_mean + stddev_weight * stddev)
    return float(score)
