"""Labels of one block as runs: rows of equal labels, a small fraction of the size of the block.

What has to wait for the whole of a frame, as every label does that may join another one elsewhere,
waits in this form; sizes, moments and boxes follow from runs without touching a pixel.
"""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

__all__ = ["Runs", "fill_runs", "find_runs", "relabel_runs"]


@dataclass(frozen=True)
class Runs:
    """Horizontal runs of one positive label, in raster order; no run goes on in the next row.

    Attributes
    ----------
    shape : (int, int)
        Of the block.
    start : ndarray of int, shape (run,)
        Place of the first pixel of each run in the flattened block.
    length : ndarray of int, shape (run,)
        Pixels.
    label : ndarray of int, shape (run,)
        Their label.
    """

    shape: tuple[int, int]
    start: np.ndarray
    length: np.ndarray
    label: np.ndarray

    @property
    def place(self) -> tuple[np.ndarray, np.ndarray]:
        """Row and column of the first pixel of each run, int64."""
        i, j = np.divmod(self.start.astype(np.int64), max(1, self.shape[1]))
        return i, j


def find_runs(labels: np.ndarray) -> Runs:
    """Find the runs of the positive labels of a block.

    Parameters
    ----------
    labels : ndarray of int, shape (y, x)
        Labels; 0 and below is background.

    Returns
    -------
    Runs

    Examples
    --------
    >>> runs = find_runs(np.array([[0, 3, 3], [3, 0, 7]]))
    >>> runs.start.tolist(), runs.length.tolist(), runs.label.tolist()
    ([1, 3, 5], [2, 1, 1], [3, 3, 7])
    """
    labels = np.ascontiguousarray(labels)
    new = np.ones(labels.shape, dtype=bool)
    np.not_equal(labels[:, 1:], labels[:, :-1], out=new[:, 1:])
    start = np.flatnonzero(new)
    label = labels.ravel()[start]
    length = np.diff(start, append=labels.size)
    keep = label > 0
    index = np.int32 if labels.size < 2**31 else np.int64
    return Runs(labels.shape, start[keep].astype(index), length[keep].astype(index), label[keep])


def fill_runs(runs: Runs) -> np.ndarray:
    """Turn runs into labels (y, x) again, of the dtype of the labels; the background is 0.

    Examples
    --------
    >>> fill_runs(find_runs(np.array([[0, 3, 3], [3, 0, 7]])))
    array([[0, 3, 3],
           [3, 0, 7]])
    """
    size = runs.shape[0] * runs.shape[1]
    start, stop = runs.start.astype(np.int64), runs.start.astype(np.int64) + runs.length
    # background and runs take turns; gaps between runs that touch are 0 long
    lengths = np.empty(2 * start.size + 1, dtype=np.int64)
    lengths[0::2] = np.append(start, size) - np.insert(stop, 0, 0)
    lengths[1::2] = runs.length
    values = np.zeros(lengths.size, dtype=runs.label.dtype)
    values[1::2] = runs.label
    return np.repeat(values, lengths).reshape(runs.shape)


def relabel_runs(runs: Runs, final: np.ndarray) -> Runs:
    """Replace label n by ``final[n]``, int32; runs whose label becomes 0 are left out."""
    label = final[runs.label]
    keep = label > 0
    return replace(runs, start=runs.start[keep], length=runs.length[keep], label=label[keep])
