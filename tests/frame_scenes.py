"""Frames of a film that drifts, with what can be wrong with them; quick, and true in what matters to their spectra."""

from __future__ import annotations

import numpy as np
import xarray as xr
from scipy import fft

from hrtem_dask.core.calibration import make_movie
from hrtem_dask.detector import MTF
from hrtem_dask.kernels.camera import expose, radial_frequency

PIXEL = 0.4  # angstrom
CAMERA = MTF(scale=0.5, power=2.5)
ROOM = 32  # pixel around the frame, which a shift brings in


def film_movie(n: int, *, side: int = 256, dose: float = 400.0, moved: dict | None = None, doses: dict | None = None,
               vacuum: tuple[int, ...] = (), lattice: tuple[int, ...] = (), defocus: np.ndarray | None = None,
               seed: int = 0) -> xr.DataArray:
    """Movie of a thin film: ``moved`` [angstrom] is the drift within the exposure of some frames."""
    rng, big = np.random.default_rng(seed), (side + 2 * ROOM,) * 2
    ky, kx = fft.fftfreq(big[0], PIXEL)[:, None], fft.rfftfreq(big[1], PIXEL)[None]
    noise, k2 = fft.rfft2(rng.normal(size=big)), ky**2 + kx**2
    response = CAMERA(radial_frequency(big))
    at, counts = np.cumsum(rng.normal(0, 0.6, (n, 2)), axis=0), []
    y, x = np.mgrid[: big[0], : big[1]] * PIXEL
    spots = fft.rfft2((np.hypot(y - 64, x - 64) < 22) * 0.25 * np.cos(2 * np.pi * (0.42 * x + 0.05 * y)))
    for i in range(n):
        focus = 600.0 if defocus is None else defocus[i]
        wave = noise * np.sin(np.pi * 0.0197 * focus * k2 + 0.07) * np.exp(-k2 / 0.45**2) * 0.8
        wave = wave + spots if i in lattice else wave
        wave = wave * np.exp(-2j * np.pi * (ky * at[i, 0] + kx * at[i, 1]))
        if i in (moved or {}):
            wave = wave * np.sinc(ky * moved[i][0] + kx * moved[i][1])
        image = np.zeros(big) if i in vacuum else fft.irfft2(wave, s=big)
        electrons = np.maximum(1 + image, 0) * (doses or {}).get(i, dose) * PIXEL**2
        frame = expose(electrons.astype(np.float32), response, rng)
        counts.append(np.rint(20 * frame[ROOM:-ROOM, ROOM:-ROOM]))
    return make_movie(np.clip(np.stack(counts), 0, 65535).astype(np.uint16), pixel_size=PIXEL,
                      time=np.arange(n) * 0.25)
