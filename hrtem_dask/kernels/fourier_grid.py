"""Periodic images on another grid: their spectrum cropped or padded, never interpolated."""

from __future__ import annotations

import numpy as np
from scipy import fft

__all__ = ["fourier_resample", "fourier_shift", "resize_spectrum"]


def resize_spectrum(spectrum: np.ndarray, shape: tuple[int, int], *, columns: int | None = None) -> np.ndarray:
    """Crop or pad the spectrum of a periodic image to that of another number of samples.

    Parameters
    ----------
    spectrum : ndarray, complex
        As `scipy.fft.fft2` gives it, or, with `columns`, as `scipy.fft.rfft2` gives it.
    shape : (int, int)
        Samples (y, x) of the other image.
    columns : int, optional
        Samples along x of the image whose half transform this is.

    Returns
    -------
    ndarray, complex64
        Scaled so that the mean of the image stays. The frequency at the Nyquist of the smaller of
        two even grids is left out: which of its two signs is meant is not known.

    Examples
    --------
    >>> small = resize_spectrum(np.fft.fft2(np.eye(8)), (4, 6))
    >>> small.shape, round(float(np.fft.ifft2(small).real.mean()), 6)
    ((4, 6), 0.125)
    """
    source = (spectrum.shape[0], columns or spectrum.shape[1])
    out = np.zeros((shape[0], shape[1] // 2 + 1) if columns else shape, np.complex64)
    rows, cols = ((min(a, b) - 1) // 2 for a, b in zip(source, shape, strict=True))
    scale = np.float32(shape[0] * shape[1] / (source[0] * source[1]))
    for y in (slice(0, rows + 1), slice(-rows, None)) if rows else (slice(0, 1),):
        for x in (slice(0, cols + 1), slice(-cols, None)) if cols and not columns else (slice(0, cols + 1),):
            np.multiply(spectrum[y, x], scale, out=out[y, x], casting="same_kind")
    return out


def fourier_resample(image: np.ndarray, shape: tuple[int, int]) -> np.ndarray:
    """Resample a periodic image to another number of samples by cropping or padding its spectrum.

    Parameters
    ----------
    image : ndarray, shape (y, x), real or complex
    shape : (int, int)
        Samples (y, x) over the same period; sample (0, 0) stays.

    Returns
    -------
    ndarray, float32 or complex64
        The spectrum at the smaller of the two Nyquist frequencies is left out.

    Examples
    --------
    >>> x = np.cos(2 * np.pi * np.arange(8) / 8)[None].repeat(8, 0)
    >>> bool(np.allclose(fourier_resample(x, (8, 16))[:, ::2], x, atol=1e-6))
    True
    """
    real = not np.iscomplexobj(image)
    image = image.astype(np.float32 if real else np.complex64)
    if image.shape == tuple(shape):
        return image
    if real:
        return fft.irfft2(resize_spectrum(fft.rfft2(image), shape, columns=image.shape[1]), s=shape)
    return fft.ifft2(resize_spectrum(fft.fft2(image), shape), overwrite_x=True)


def fourier_shift(image: np.ndarray, shift: tuple[float, float]) -> np.ndarray:
    """Move a real periodic image by (y, x) samples, which need not be whole numbers.

    Examples
    --------
    >>> x = np.cos(2 * np.pi * np.arange(8) / 8)[None].repeat(8, 0)
    >>> bool(np.allclose(fourier_shift(x, (0.4, 2.0)), np.roll(x, 2, 1), atol=1e-6))
    True
    """
    ky, kx = np.fft.fftfreq(image.shape[0])[:, None], np.fft.rfftfreq(image.shape[1])[None]
    ramp = np.exp(-2j * np.pi * ky * shift[0]) * np.exp(-2j * np.pi * kx * shift[1])
    return fft.irfft2(fft.rfft2(image) * ramp.astype(np.complex64), s=image.shape)
