"""The classical detector: right on known spots, silent on noise, the same for any chunks, scale and offset."""

from __future__ import annotations

import dask
import dask.array as da
import numpy as np
import pytest
from scipy import ndimage

from hrtem_dask import blob_probability
from hrtem_dask.analysis import blobs as stage
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import CalibrationError, InputError
from hrtem_dask.kernels.blobs import SIZE, blob_response, scale_of
from hrtem_dask.kernels.matching import match_columns


def lattice(extent: float, spacing: float = 2.6) -> np.ndarray:
    """Triangular lattice away from the border (y, x) [angstrom]."""
    n = np.arange(-20, 40)
    yx = np.stack(np.meshgrid(n, n, indexing="ij"), -1).reshape(-1, 2) @ (spacing * np.array([[0.866, 0.5], [0, 1]]))
    return yx[((yx > 4) & (yx < extent - 4)).all(1)]


def spots(height: float, seed: int = 0, *, n: int = 160, step: float = 0.2, dose: float = 80.0) -> np.ndarray:
    """Counts of spots of 0.6 angstrom on an even ground."""
    y, x = np.mgrid[:n, :n] * step
    image = np.ones((n, n))
    for a, b in lattice(n * step):
        image += height * np.exp(-((y - a) ** 2 + (x - b) ** 2) / (2 * 0.6**2))
    return np.random.default_rng(seed).poisson(dose * image)


def peaks(probability: np.ndarray, step: float, threshold: float) -> np.ndarray:
    """Local maxima above a threshold (y, x) [angstrom]."""
    top = (probability == ndimage.maximum_filter(probability, 7)) & (probability > threshold)
    return np.argwhere(top) * step


@pytest.mark.parametrize(("height", "sign"), [(0.8, "auto"), (-0.5, "auto"), (0.8, "bright"), (-0.5, "dark")])
def test_finds_the_spots_of_either_contrast(height, sign):
    movie = make_movie(spots(height)[None], pixel_size=0.2)
    p = blob_probability(movie, sign=sign).sel({"class": "column"}).values[0]
    m = match_columns(peaks(p, 0.2, 0.5), lattice(32.0))
    assert m.f1 > 0.98


def test_the_wrong_contrast_finds_other_places():
    movie = make_movie(spots(0.8)[None], pixel_size=0.2)
    p = blob_probability(movie, sign="dark").sel({"class": "column"}).values[0]
    assert match_columns(peaks(p, 0.2, 0.4), lattice(32.0)).counts[0] == 0


def test_noise_and_speckle_hold_no_columns():
    rng = np.random.default_rng(4)
    noise = rng.poisson(30.0, (300, 300)).astype(float)
    film = 1000 + 100 * ndimage.gaussian_filter(rng.normal(0, 5, (300, 300)), 3)
    movie = make_movie(np.stack([noise, film]), pixel_size=0.2)
    p = blob_probability(movie).sel({"class": "column"})
    inside = p.values[:, 15:-15, 15:-15]  # a mirrored border doubles the noise there
    assert inside.max() < 0.55  # 6 standard deviations
    z = inside / (1 - inside) * 5
    # half of a normal distribution is cut off at 0, the root mean square of the other half is 1
    assert np.sqrt((z[z > 0] ** 2).mean()) == pytest.approx(1, abs=0.15)


def test_the_noise_is_that_of_the_ground_and_not_of_the_lattice():
    counts = spots(0.8).astype(float)
    empty = np.random.default_rng(7).poisson(np.full(counts.shape, counts.mean())).astype(float)
    full, bare = (scale_of([c], (0.2, 0.2), size=0.5).noise for c in (counts, empty))
    assert full == pytest.approx(bare, rel=0.25)
    assert np.std(blob_response(counts, 0.5, (0.2, 0.2))) > 3 * full
    assert np.std(blob_response(empty, 0.5, (0.2, 0.2))) == pytest.approx(bare, rel=0.1)


def test_a_noisier_part_of_a_frame_holds_no_columns_either():
    rng = np.random.default_rng(2)
    image = rng.normal(0, 1, (300, 300))
    image[:, 150:] *= 4
    image[40, 40] = 300.0  # a hot pixel makes its surroundings no noisier
    p = blob_probability(make_movie(image[None], pixel_size=0.2)).sel({"class": "column"}).values[0]
    z = p / (1 - p) * 5
    for part in (z[60:-20, 20:120], z[60:-20, 180:280], z[48:60, 20:60]):
        assert np.sqrt((part[part > 0] ** 2).mean()) == pytest.approx(1, abs=0.2)
        assert part.max() < 5.5


def test_response_against_scipy():
    image = spots(0.8).astype(float)
    found = blob_response(image, 0.5, (0.2, 0.2))
    assert np.allclose(found, -(2.5**2) * ndimage.gaussian_laplace(image, 2.5, mode="reflect"), atol=2e-3)


def test_size_follows_the_spacing_and_unequal_pixels():
    small = scale_of([spots(0.8)], (0.2, 0.2)).size
    large = scale_of([spots(0.8)], (0.27, 0.27)).size
    assert large == pytest.approx(1.35 * small, rel=0.1)
    assert scale_of([np.random.default_rng(0).poisson(50.0, (128, 128))], (0.2, 0.2)).size == SIZE
    fine, coarse = spots(0.8, n=320, step=0.1), spots(0.8, n=160)
    mixed = fine[:, ::2]  # 0.1 along y, 0.2 along x
    assert scale_of([mixed], (0.1, 0.2)).size == pytest.approx(scale_of([coarse], (0.2, 0.2)).size, rel=0.06)


def test_scale_and_offset_of_the_counts_do_not_matter():
    counts = spots(0.8)
    a, b = (blob_probability(make_movie(c[None], pixel_size=0.2)).values for c in (counts, 1000.0 + 3.7 * counts))
    assert np.allclose(a, b, atol=1e-3)


def test_any_chunks_and_blocks_give_the_same(monkeypatch):
    counts = np.stack([spots(0.8, 1), spots(-0.5, 2), spots(0.8, 3)])
    monkeypatch.setattr(stage, "BLOCK", 60)
    monkeypatch.setattr(stage, "WHOLE", 100)
    monkeypatch.setattr(stage, "TILE", 64)
    found = [blob_probability(make_movie(da.from_array(counts, chunks=c), pixel_size=0.2))
             for c in [(1, -1, -1), (3, 31, 160), (2, 77, 50)]]
    assert found[0].chunks[2] == (60, 60, 40)
    values = [f.values for f in found]
    assert np.array_equal(values[0], values[1])
    assert np.array_equal(values[0], values[2])
    monkeypatch.setattr(stage, "BLOCK", 2048)
    assert np.allclose(values[0], blob_probability(make_movie(counts, pixel_size=0.2)).values, atol=1e-6)


def test_lazy_with_the_coordinates_of_the_movie():
    def never() -> np.ndarray:
        raise AssertionError("computed")

    data = da.from_delayed(dask.delayed(never)(), (4, 50, 60), np.uint16).rechunk((2, 25, 60))
    movie = make_movie(data, pixel_size=0.2, frame=[3, 5, 6, 9], time=[0.3, 0.5, 0.6, 0.9])
    p = blob_probability(movie)
    assert p.dims == ("frame", "class", "y", "x")
    assert p.dtype == np.float32
    assert p["class"].values.tolist() == ["background", "column"]
    assert p.frame.values.tolist() == [3, 5, 6, 9]
    assert np.array_equal(p.time, movie.time)
    assert p.attrs["units"] == "1"
    assert "blob_probability" in p.attrs["provenance"]


def test_unknown_pixels_hold_no_column_and_do_not_spoil_the_others():
    counts = spots(0.8).astype(float)
    whole = blob_probability(make_movie(counts[None], pixel_size=0.2), size=0.5).values
    counts[50:58, 60:75] = np.nan
    part = blob_probability(make_movie(counts[None], pixel_size=0.2), size=0.5).values
    assert np.isfinite(part).all()
    assert (part[0, 1, 50:58, 60:75] == 0).all()
    assert np.abs(part - whole)[0, 1, 80:].max() < 0.1  # the noise is measured anew
    assert np.allclose(part.sum(1), 1, atol=1e-6)


@pytest.mark.parametrize("value", [0.0, 7.0, np.nan])
def test_frames_without_anything(value):
    p = blob_probability(make_movie(np.full((2, 30, 40), value), pixel_size=0.2)).values
    assert (p[:, 1] == 0).all()
    assert (p[:, 0] == 1).all()


def test_bad_input_says_what_was_expected():
    movie = make_movie(np.ones((1, 30, 30)), pixel_size=0.2)
    with pytest.raises(InputError, match="frame, y, x"):
        blob_probability(movie.isel(frame=0))
    with pytest.raises(InputError, match="bright"):
        blob_probability(movie, sign="white")
    with pytest.raises(InputError, match="size is -1"):
        blob_probability(movie, size=-1)
    with pytest.raises(InputError, match="at most 20"):
        blob_probability(movie, size=100.0)
    with pytest.raises(InputError, match="smallest and the largest"):
        blob_probability(movie, spacings=(3.0, 1.0))
    with pytest.raises(CalibrationError):
        blob_probability(make_movie(np.ones((1, 30, 30))))
