"""guess_pixel_size on lattices whose pixel size is known, on what is no lattice, and on real micrographs."""

from __future__ import annotations

import dask.array as da
import numpy as np
import pytest

from hrtem_dask import guess_pixel_size, open_movie
from hrtem_dask.analysis.rings import CRYSTALS, REFLECTIONS, rings_of
from hrtem_dask.core.errors import InputError
from hrtem_dask.kernels.rings import find_spots, log_likelihood, refine

#: [110] zone of a cubic crystal: reflection -> angle [radian] between its g and the [001] direction
ZONE_110 = {"111": (0.9553, -0.9553), "002": (0.0,), "220": (np.pi / 2,), "113": (0.4405, -0.4405)}


def thon_noise(shape, rng, defocus=900.0):
    """Amorphous film: noise with the rings of an astigmatic contrast transfer function, on shot noise."""
    ky, kx = np.meshgrid(np.fft.fftfreq(shape[0]), np.fft.fftfreq(shape[1]), indexing="ij")
    k2 = 1.1 * ky**2 + 0.9 * kx**2
    transfer = np.sin(defocus * k2) * np.exp(-18 * k2)
    film = np.fft.ifft2(np.fft.fft2(rng.normal(size=shape)) * transfer).real
    return film / film.std() + rng.normal(size=shape)


def lattice_frames(pixel_size, crystal, rng, n=3, side=384, contrast=1.1):
    """Round particles of random rotation, seen along [110], on an amorphous film."""
    structure, a = CRYSTALS[crystal]
    frames = np.stack([thon_noise((side, side), rng) for _ in range(n)])
    y, x = np.mgrid[:side, :side]
    for frame in frames:
        for centre in rng.uniform(0.2 * side, 0.8 * side, (5, 2)):
            inside = np.hypot(y - centre[0], x - centre[1]) < 45
            turn = rng.uniform(0, np.pi)
            for hkl, angles in ZONE_110.items():
                g = np.sqrt(sum(int(i) ** 2 for i in hkl)) / a
                strength = contrast * REFLECTIONS[structure].get("".join(sorted(hkl, reverse=True)), 0) / 0.5
                if strength == 0 or g * pixel_size > 0.45:
                    continue
                for angle in angles:
                    phase = 2 * np.pi * g * pixel_size * (x * np.cos(turn + angle) + y * np.sin(turn + angle))
                    frame += inside * strength * np.cos(phase + rng.uniform(0, 6))
    return frames


@pytest.mark.parametrize(("pixel_size", "crystal"), [(0.25, "Au"), (0.45, "Au"), (0.59, "Au"),
                                                     (0.8, "Au"), (0.33, "Pt"), (0.55, "Cu"), (0.5, "CeO2"),
                                                     (0.7, "Si")])  # fmt: skip
def test_known_lattices(pixel_size, crystal, rng):
    frames = lattice_frames(pixel_size, crystal, rng)
    guess = guess_pixel_size(open_movie(frames), crystal)
    assert guess.pixel_size == pytest.approx(pixel_size, rel=0.006)
    assert abs(guess.pixel_size - pixel_size) < 5 * guess.error
    assert guess.error < 0.02 * pixel_size
    assert guess.inferred
    assert guess.crystal == crystal
    assert sum(n for n, _ in guess.rings.values()) <= guess.n_spots
    assert f"{guess.pixel_size:.4f}" in str(guess)
    for hkl, (_, radius) in guess.rings.items():
        assert radius == pytest.approx(rings_of(crystal)[hkl][0] * pixel_size, rel=0.03)


def test_scale_offset_and_chunks_change_nothing(rng):
    frames = lattice_frames(0.59, "Au", rng)
    first = guess_pixel_size(open_movie(frames))
    again = guess_pixel_size(open_movie(da.from_array(300 + 17 * frames, chunks=(2, 100, 130))))
    assert again.pixel_size == pytest.approx(first.pixel_size, rel=1e-9)
    assert again.rings.keys() == first.rings.keys()
    calibrated = guess_pixel_size(open_movie(frames, pixel_size=1.7))
    assert calibrated.pixel_size == first.pixel_size


def test_few_frames_of_a_long_movie_are_looked_at(rng):
    frames = lattice_frames(0.59, "Au", rng, n=2)
    movie = open_movie(da.concatenate([da.from_array(frames)] * 500).rechunk((1, -1, -1)))
    guess = guess_pixel_size(movie, max_frames=3)
    assert guess.n_frames == 3
    assert guess.pixel_size == pytest.approx(0.59, rel=0.006)


@pytest.mark.parametrize("kind", ["white", "poisson", "thon", "flat", "gradient", "readout"])
def test_what_is_no_lattice_is_refused(kind, rng):
    shape = (256, 256)
    make = {
        "white": lambda: rng.normal(size=shape),
        "poisson": lambda: rng.poisson(3, size=shape).astype(np.uint16),
        "thon": lambda: thon_noise(shape, rng),
        "flat": lambda: np.full(shape, 7.0),
        "gradient": lambda: np.add.outer(np.arange(256.0), np.arange(256.0)),
        "readout": lambda: rng.normal(size=shape) + 3 * np.cos(np.arange(256) * np.pi / 2) + rng.normal(size=(256, 1)),
    }[kind]
    with pytest.raises(InputError, match=r"spot\(s\) in 4 frame.*--pixel-size"):
        guess_pixel_size(open_movie(np.stack([make() for _ in range(4)])))


def test_one_plane_wave_does_not_decide(rng):
    y, x = np.mgrid[:256, :256]
    image = np.cos(2 * np.pi * (0.11 * x + 0.2 * y)) + rng.normal(size=(256, 256))
    assert len(find_spots(image)) == 1
    with pytest.raises(InputError, match="expected at least 3"):
        guess_pixel_size(image)


def test_a_pixel_size_is_as_good_as_the_crystal_that_is_named(rng):
    guess = guess_pixel_size(open_movie(lattice_frames(0.5, "Pt", rng)), "Au")
    assert guess.pixel_size == pytest.approx(0.5 * 4.0782 / 3.9242, rel=0.006)


def test_unknown_crystals_are_refused():
    with pytest.raises(InputError, match="expected one of Au"):
        guess_pixel_size(np.zeros((1, 64, 64)), "unobtainium")
    with pytest.raises(InputError, match="cubic"):
        rings_of("Zn")
    assert rings_of("Rh")["111"][0] == pytest.approx(np.sqrt(3) / 3.80, rel=0.01)


def test_spots_are_where_the_waves_are(rng):
    y, x = np.mgrid[:300, :400]
    waves = [(0.2, 0.13), (0.31, -0.07)]
    image = sum(np.cos(2 * np.pi * (ky * y + kx * x)) for ky, kx in waves) + rng.normal(size=(300, 400))
    spots = find_spots(image)
    expected = sorted(np.hypot(*w) for w in waves)
    np.testing.assert_allclose(sorted(spots[:, 0]), expected, atol=5e-4)
    angles = sorted(np.arctan2(ky, kx) % np.pi for ky, kx in waves)
    np.testing.assert_allclose(sorted(spots[:, 1]), angles, atol=5e-3)


def test_false_alarms_in_noise_are_rare(rng):
    found = sum(len(find_spots(rng.normal(size=(256, 256)))) for _ in range(60))
    assert found <= 12  # 0.03 an image were asked for; the tail of the noise is a little longer than its model


def test_the_likelihood_prefers_the_inner_ring_and_the_right_ratio():
    table = rings_of("Au")
    q, share = np.array([v for v, _ in table.values()]), [s for _, s in table.values()]
    lone = np.full(12, 0.25)
    candidates = np.array([0.25 / q[0], 0.25 / q[1], 0.25 / q[2]])
    score = log_likelihood(lone, candidates, q, share)
    assert score.argmax() == 0
    square = np.array([0.3, 0.3, 0.3 * np.sqrt(2), 0.3 * np.sqrt(2)])  # a [100] zone has no 111
    candidates = np.array([0.3 / q[0], 0.3 / q[1], 0.3 / q[2]])
    assert log_likelihood(square, candidates, q, share).argmax() == 1
    size, error, ring = refine(np.array([0.25, 0.251, 0.2887, 0.1]), 0.58, q)
    assert size == pytest.approx(0.25 / q[0], rel=0.005)
    assert 0 < error < 0.01
    assert ring.tolist() == [0, 0, 1, -1]


@pytest.mark.real
def test_the_real_micrographs(shared_data):
    movie = open_movie(str(shared_data / "nanoparticles" / "image_*.png"))
    guess = guess_pixel_size(movie, "Au")
    assert guess.pixel_size == pytest.approx(0.588, abs=0.01)
    assert guess.n_frames == 20
    assert {"111", "200"} <= set(guess.rings)
    assert guess.rings["111"][0] > guess.rings["200"][0]


@pytest.mark.real
@pytest.mark.parametrize("name", ["vacuum/low_dose", "thon/amorphous_1006.tif", "vacuum/soot_with_vacuum_512.tif",
                                  "vendor/three_frames.mrc", "vendor/ceta_beam_off.emd"])  # fmt: skip
@pytest.mark.filterwarnings("ignore::UserWarning")
def test_real_images_without_gold_are_refused(shared_data, name):
    with pytest.raises(InputError, match=r"spot\(s\)"):
        guess_pixel_size(open_movie(shared_data / name), "Au")
