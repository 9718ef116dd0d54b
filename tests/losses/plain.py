"""Every loss term once more, in numpy, cell by cell and as its formula reads.

Nothing here is taken from emukit: neighbours are looked up one by one, fields are filtered one by one (not their
difference), and variances are sums of squared departures.
"""

import numpy as np


def neighbour(field, y, x, padding):
    """The value at row y and column x, which may lie outside: over the pole, round the globe, or zero."""
    rows, columns = field.shape
    if padding == "zero":
        return field[y, x] if 0 <= y < rows and 0 <= x < columns else 0.0
    if 0 <= y < rows:
        return field[y, x % columns]
    y = -1 - y if y < 0 else 2 * rows - 1 - y
    turns = {columns // 2, (columns + 1) // 2}
    return np.mean([field[y, (x + turn) % columns] for turn in turns])


def windows(field, radius, padding):
    """(Y, X, 2 radius + 1, 2 radius + 1): what lies around each cell."""
    reach = range(-radius, radius + 1)
    rows, columns = (range(n) for n in field.shape)
    return np.array(
        [[[[neighbour(field, y + j, x + i, padding) for i in reach] for j in reach] for x in columns] for y in rows]
    )


def each(function, fields, *arguments):
    """A function of a (Y, X) field for each of (S, L, Y, X) fields."""
    return np.array([[function(f, *arguments) for f in segment] for segment in fields])


def filtered(field, kernel, padding):
    return (windows(field, len(kernel) // 2, padding) * kernel).sum((-2, -1))


def gabor(p, t, w, padding):
    y, x = np.mgrid[-3:4, -3:4]
    around = [each(windows, fields, 3, padding) for fields in (p, t)]
    total = 0
    for sigma in (1, 2):
        for wavelength in (3, 5):
            for angle in np.arange(8) * np.pi / 8:
                across, along = x * np.cos(angle) + y * np.sin(angle), y * np.cos(angle) - x * np.sin(angle)
                kernel = np.exp(-(across**2 + along**2 / 4) / 2 / sigma**2) * np.cos(2 * np.pi * across / wavelength)
                kernel /= np.abs(kernel).sum()
                mine, theirs = ((a * kernel).sum((-2, -1)) for a in around)
                total += np.abs(mine - theirs) / 32
    return np.mean((total * w).sum((-2, -1)))


def hessian(p, t, w, padding):
    def squares(error):
        a = windows(error, 1, padding)
        dxx = a[..., 1, 0] - 2 * a[..., 1, 1] + a[..., 1, 2]
        dyy = a[..., 0, 1] - 2 * a[..., 1, 1] + a[..., 2, 1]
        dxy = a[..., 0, 0] - a[..., 0, 2] - a[..., 2, 0] + a[..., 2, 2]
        return dxx**2 + 2 * dxy**2 + dyy**2

    return np.sqrt(np.mean((each(squares, p - t) * w).sum((-2, -1))))


def sobel(p, t, w, padding):
    across = np.outer([1, 2, 1], [-1, 0, 1]) / 8
    parts = [
        np.abs(each(filtered, p, kernel, padding) - each(filtered, t, kernel, padding)) for kernel in (across, across.T)
    ]
    return np.mean((sum(parts) / 2 * w).sum((-2, -1)))


def ssim(p, t, w, padding):
    taps = np.exp(-(np.arange(-3, 4) ** 2) / 2 / 1.5**2)
    gauss = np.outer(taps, taps) / taps.sum() ** 2

    def similarity(x, y):
        # Zero padding is of the normalised fields; the shift by half the range comes after it.
        a, b = windows(x, 3, padding) + 3, windows(y, 3, padding) + 3
        mean_a, mean_b = (a * gauss).sum((-2, -1)), (b * gauss).sum((-2, -1))
        off_a, off_b = a - mean_a[..., None, None], b - mean_b[..., None, None]
        var_a, var_b, cov = ((u * v * gauss).sum((-2, -1)) for u, v in ((off_a, off_a), (off_b, off_b), (off_a, off_b)))
        c1, c2 = 0.06**2, 0.18**2
        return (2 * mean_a * mean_b + c1) * (2 * cov + c2) / (mean_a**2 + mean_b**2 + c1) / (var_a + var_b + c2)

    alike = np.array([[similarity(x, y) for x, y in zip(*s, strict=True)] for s in zip(p, t, strict=True)])
    return np.mean(((1 - alike) * w).sum((-2, -1)))


def polar(p, t, w, padding):
    rows, columns = w.shape
    middle_y, middle_x = (rows - 1) / 2, (columns - 1) / 2
    corner = np.sqrt(middle_y**2 + middle_x**2)
    places = [
        (middle_y + r * np.sin(a), middle_x + r * np.cos(a))
        for r in np.linspace(0, corner, int(corner))
        for a in np.linspace(0, 2 * np.pi, columns)
    ]

    def warp(field):
        return np.array([bilinear(field, y, x) for y, x in places])

    weights = warp(w)
    return np.mean((np.abs(each(warp, p) - each(warp, t)) * weights).sum(-1) / weights.sum())


def bilinear(field, y, x):
    rows, columns = field.shape
    y, x = min(max(y, 0), rows - 1), min(max(x, 0), columns - 1)
    j, i = min(int(y), rows - 2), min(int(x), columns - 2)
    y, x = y - j, x - i
    return (1 - y) * ((1 - x) * field[j, i] + x * field[j, i + 1]) + y * (
        (1 - x) * field[j + 1, i] + x * field[j + 1, i + 1]
    )


def cells(function):
    return lambda p, t, w, padding: np.mean((function(p - t) * w).sum((-2, -1)))


def rmse(p, t, w, padding):
    return np.mean(np.sqrt(((p - t) ** 2 * w).sum((-2, -1)).mean(1)))


def time_mean(p, t, w, padding):
    return np.mean(np.sqrt(((p.mean(1) - t.mean(1)) ** 2 * w).sum((-2, -1))))


def time_std(p, t, w, padding):
    return np.mean((np.abs(np.sqrt(p.var(1) + 1e-6) - np.sqrt(t.var(1) + 1e-6)) * w).sum((-2, -1)))


def dice(p, t, w, padding):
    return 1 - 2 * (p * t * w).sum() / ((p**2 * w).sum() + (t**2 * w).sum())


PLAIN = {
    "mse": cells(np.square),
    "l1": cells(np.abs),
    "huber": cells(lambda e: np.where(np.abs(e) < 1, e**2 / 2, np.abs(e) - 0.5)),
    "log_cosh": cells(lambda e: np.log(np.cosh(e))),
    "rmse": rmse,
    "time_mean": time_mean,
    "time_std": time_std,
    "dice": dice,
    "gabor": gabor,
    "hessian": hessian,
    "polar": polar,
    "sobel": sobel,
    "ssim": ssim,
}
