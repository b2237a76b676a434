"""Times of the frames of an in-situ recording, from the names of its folders and files."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

__all__ = ["times_from_names"]

_GATAN = re.compile(r"Hour_(\d+).Minute_(\d+).Second_(\d+).Frame_(\d+)$", re.IGNORECASE)


def times_from_names(paths: Sequence[Path], frame_time: float | None = None) -> np.ndarray | None:
    """Read times [second] from names in Gatan's in-situ layout, ``..._Hour_00_Minute_00_Second_01_Frame_0007``.

    The frames of a second are numbered from 0, so a frame that was dropped leaves its gap.

    Parameters
    ----------
    paths : sequence of Path
        Files of one recording.
    frame_time : float, optional
        Time from frame to frame [second]; by default one over the largest number of frames that a
        second of the recording holds, where the recording goes on into a further second.

    Returns
    -------
    array or None
        Time of each frame, 0 for the start of the recording; None where a name does not follow the
        layout, or nothing says how many frames a second has.

    Examples
    --------
    >>> names = [Path(f"a_Hour_00_Minute_00_Second_{s:02d}_Frame_{k:04d}.dm4") for s in (0, 1) for k in (0, 1)]
    >>> times_from_names(names).tolist()
    [0.0, 0.5, 1.0, 1.5]
    """
    found = [_GATAN.search(p.stem) for p in paths]
    if not found or not all(found):
        return None
    hour, minute, second, frame = np.array([[int(g) for g in m.groups()] for m in found if m]).T
    whole = hour * 3600 + minute * 60 + second
    if frame_time is None:
        if whole.max() == whole.min():
            return None
        rate = int(frame.max()) + 1
        if rate == 1 and np.all(np.diff(whole) > 1):
            return whole.astype(float)  # slower than one frame a second
        frame_time = 1.0 / rate
    return whole + frame * frame_time
