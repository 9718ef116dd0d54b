"""Sizes that a network can be built with: refused one by one, by the name of the option.

Invariant: a check costs nothing, however large the number that is checked.
"""

from __future__ import annotations

# Beyond it a network is a mistake, and takes minutes to be built even without storage.
MOST_BLOCKS = 200


def check_sizes(least: int, most: int | None = None, /, **sizes: int) -> None:
    """Refuse the first size that is out of range.

    Args:
        least: Smallest value allowed.
        most: Largest one; None for no limit.
        sizes: Options by name.

    Raises:
        ValueError: Names the option and its value.
    """
    for name, value in sizes.items():
        if value < least or (most is not None and value > most):
            wanted = f"at least {least}" if most is None else f"from {least} to {most}"
            raise ValueError(f"{name} must be {wanted}, not {value}")


def check_halvings(grid: tuple[int, int], times: int) -> None:
    """Refuse more halvings of a grid than leave it two cells each way before the last.

    Raises:
        ValueError: A halving would find a side of a single cell.
    """
    if times > (min(grid) - 1).bit_length():
        raise ValueError(f"a grid of {grid[0]} x {grid[1]} cells cannot be halved {times} times")
