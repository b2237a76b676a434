"""Atoms: gold particles of any shape and orientation, amorphous films, whole fields of view.

Positions are columns (x, y, z) in angstrom, as ASE and abTEM want them; z runs with the beam.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from scipy import ndimage
from scipy.spatial import cKDTree
from scipy.spatial.transform import Rotation

from .recipe import Particles, Recipe

__all__ = ["Specimen", "amorphous_block", "build_specimen", "carbon_film", "gold_particle"]

GOLD_LATTICE = 4.078  # angstrom
BASIS = np.array([[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
N111 = np.array([[a, b, c] for a in (1, -1) for b in (1, -1) for c in (1, -1)]) / np.sqrt(3)
N100 = np.concatenate([np.eye(3), -np.eye(3)])
CARBON_GAP = 2.4  # angstrom: closest carbon to gold
BLOCK_HEIGHT = 40.0  # angstrom
BLOCKS = 3


@dataclass(frozen=True)
class Specimen:
    """A field of view, periodic in x and y.

    Parameters
    ----------
    gold, carbon : ndarray, shape (n, 3)
        Positions (x, y, z) [angstrom].
    box : (float, float, float)
        Size of the cell along x, y, z [angstrom].
    particles : list of dict
        ``x, y, diameter`` [angstrom] and ``atoms`` of each particle, as placed.
    film_thickness : float
        Mean thickness of the film [angstrom], 0 where there is none.
    """

    gold: np.ndarray
    carbon: np.ndarray
    box: tuple[float, float, float]
    particles: list[dict] = field(default_factory=list)
    film_thickness: float = 0.0


def gold_particle(diameter: float, rng: np.random.Generator, *, elongation: float = 1.0, height: float = 1.0,
                  twin: bool = False) -> np.ndarray:
    """Cut one randomly truncated and oriented fcc particle.

    Parameters
    ----------
    diameter : float
        Mean diameter in projection [angstrom].
    rng : numpy.random.Generator
        Source of all randomness.
    elongation, height : float
        Longest over shortest axis in the plane; height along the beam over the diameter.
    twin : bool
        Whether one half is mirrored at a {111} plane.

    Returns
    -------
    ndarray, shape (n, 3)
        Positions (x, y, z) around the origin [angstrom]; at least one atom.

    Notes
    -----
    The shape is an ellipsoid cut by {111} and {100} facets at random distances; {111} lies
    nearer, as on gold. A low particle is not squeezed but cut by planes across the beam, as by
    the film it lies on and by a facet on top: its rim stays steep in projection.

    Examples
    --------
    >>> atoms = gold_particle(20.0, np.random.default_rng(0))
    >>> 100 < len(atoms) < 300
    True
    """
    r = diameter / 2
    stretch = np.sqrt(elongation)
    axes = np.array([r * stretch, r / stretch, r])
    reach = 1.05 * axes.max() + GOLD_LATTICE
    n = int(np.ceil(reach / GOLD_LATTICE))
    cells = np.stack(np.meshgrid(*[np.arange(-n, n + 1)] * 3, indexing="ij"), -1).reshape(-1, 1, 3)
    p = (cells + BASIS).reshape(-1, 3) * GOLD_LATTICE
    p -= rng.random(3) * GOLD_LATTICE
    p = p[(p**2).sum(1) < reach**2]
    if twin:
        normal = N111[rng.integers(8)]
        # a layer of atoms has to lie in the mirror plane, else the two halves do not fit
        along = p @ normal
        plane = along[np.argmin(np.abs(along - rng.uniform(-0.4, 0.4) * r))]
        lower = p[along <= plane + 0.1]
        upper = lower[lower @ normal < plane - 0.1]
        p = np.concatenate([lower, upper + 2 * (plane - upper @ normal)[:, None] * normal])
    turn = Rotation.random(random_state=rng).as_matrix()
    scale = axes.max() * np.concatenate([rng.uniform(0.82, 1.08, 8), rng.uniform(0.92, 1.2, 6)])
    p = p[(p @ np.concatenate([N111, N100]).T <= scale).all(1)] @ turn.T
    angle = rng.uniform(0, 2 * np.pi)
    c, s = np.cos(angle), np.sin(angle)
    inside = p @ np.array([[c, -s, 0], [s, c, 0], [0, 0, 1]])
    p = p[((inside / (1.04 * axes)) ** 2).sum(1) <= 1]
    cut = 2 * r * max(0.0, 1 - height)
    below = rng.random() * cut
    p = p[(p[:, 2] >= below - r) & (p[:, 2] <= r - (cut - below))]
    return p if len(p) else np.zeros((1, 3))


def amorphous_block(box: tuple[float, float, float], density: float, rng: np.random.Generator, *,
                    distance: float = 1.35, steps: int = 6) -> np.ndarray:
    """Fill a fully periodic block with carbon: random points, pushed apart where too close.

    Parameters
    ----------
    box : (float, float, float)
        Size along x, y, z [angstrom].
    density : float
        [atoms/angstrom^3].
    rng : numpy.random.Generator
    distance : float
        Distance that the points are pushed to [angstrom].
    steps : int
        Number of relaxation steps; a few pairs stay slightly closer.

    Returns
    -------
    ndarray, shape (n, 3)
    """
    size = np.asarray(box, float)
    p = rng.random((round(size.prod() * density), 3)) * size
    for _ in range(steps):
        p %= size
        p[p >= size] = 0  # the remainder of a tiny negative number rounds up to the box itself
        i, j = cKDTree(p, boxsize=size).query_pairs(distance, output_type="ndarray").T
        d = p[i] - p[j]
        d -= size * np.round(d / size)
        length = np.linalg.norm(d, axis=1, keepdims=True)
        push = 0.5 * d / np.maximum(length, 1e-3) * (1.1 * distance - length)
        for axis in range(3):
            p[:, axis] += np.bincount(i, push[:, axis], len(p)) - np.bincount(j, push[:, axis], len(p))
    return p % size


def carbon_film(blocks: list[np.ndarray], box: float, thickness: float, rng: np.random.Generator, *,
                roughness: float = 0.0, roughness_length: float = 20.0) -> np.ndarray:
    """Stack transformed blocks to a film with rough surfaces; its mean lower surface is z = 0.

    Relaxing new points for every film would take longer than its multislice, so films are cut
    from a few periodic blocks, each layer shifted, mirrored and turned at random.
    """
    layers, z = [], -3 * roughness
    while z < thickness + 3 * roughness:
        p = blocks[rng.integers(len(blocks))] + rng.random(3) * [box, box, BLOCK_HEIGHT]
        p[:, :2] %= box
        p[:, 2] %= BLOCK_HEIGHT
        for axis in range(2):
            if rng.random() < 0.5:
                p[:, axis] = box - p[:, axis]
        if rng.random() < 0.5:
            p = p[:, [1, 0, 2]]
        p[:, 2] += z
        layers.append(p)
        z += BLOCK_HEIGHT
    p = np.concatenate(layers)
    low, high = np.zeros(len(p)), np.full(len(p), thickness)
    if roughness > 0:
        n = max(16, round(box / 2))
        at = tuple((p[:, 1::-1].T / box * n).astype(int) % n)
        low += rough_surface(n, box, roughness, roughness_length, rng)[at]
        high += rough_surface(n, box, roughness, roughness_length, rng)[at]
    return p[(p[:, 2] >= low) & (p[:, 2] <= high)]


def rough_surface(n: int, box: float, rms: float, length: float, rng: np.random.Generator) -> np.ndarray:
    """Draw a periodic Gaussian random height (y, x) of this rms [angstrom] and correlation length."""
    height = ndimage.gaussian_filter(rng.normal(size=(n, n)), length / 2 * n / box, mode="wrap")
    return (height - height.mean()) * (rms / max(height.std(), 1e-12))


def build_specimen(recipe: Recipe, rng: np.random.Generator, blocks: list[np.ndarray]) -> Specimen:
    """Draw one field of view: particles on, under or partly in a film, or a film alone.

    Parameters
    ----------
    recipe : Recipe
    rng : numpy.random.Generator
    blocks : list of ndarray
        Periodic blocks of carbon from `film_blocks`.

    Returns
    -------
    Specimen
    """
    box, film = recipe.field.box, recipe.film
    thickness = 0.0 if rng.random() < film.absent_fraction else film.thickness.draw(rng)
    roughness, length = film.roughness.draw(rng), film.roughness_length.draw(rng)
    empty = rng.random() < recipe.particles.empty_fraction
    if empty and not thickness:
        thickness = film.thickness.draw(rng)
    carbon = carbon_film(blocks, box, thickness, rng, roughness=roughness, roughness_length=length) \
        if thickness else np.zeros((0, 3))
    gold, particles = ([], []) if empty else place_particles(recipe.particles, box, thickness, rng)
    return assemble(gold, carbon, box, particles, thickness)


def assemble(gold: list[np.ndarray], carbon: np.ndarray, box: float, particles: list[dict],
             thickness: float) -> Specimen:
    """Put particles and film into one periodic cell; carbon too close to gold gives way."""
    atoms = wrap(np.concatenate(gold), box) if gold else np.zeros((0, 3))
    if gold and len(carbon):
        distance = cKDTree(atoms).query(carbon, distance_upper_bound=CARBON_GAP)[0]
        carbon = carbon[distance > CARBON_GAP]
    z = np.concatenate([atoms[:, 2], carbon[:, 2]])
    lift = np.array([0.0, 0.0, 2.0 - z.min()])
    return Specimen(atoms + lift, carbon + lift, (box, box, float(np.ptp(z)) + 4.0), particles, thickness)


def film_blocks(recipe: Recipe, seed: int, count: int = BLOCKS) -> list[np.ndarray]:
    """Return the periodic blocks of carbon that all films of one set are cut from."""
    box = recipe.field.box
    return [amorphous_block((box, box, BLOCK_HEIGHT), recipe.film.density, np.random.default_rng([seed, 77, i]))
            for i in range(count)]


def place_particles(spec: Particles, box: float, thickness: float,
                    rng: np.random.Generator) -> tuple[list[np.ndarray], list[dict]]:
    """Place particles until the drawn coverage is reached; they meet the border as they fall."""
    goal, most = spec.coverage.draw(rng) * box**2, spec.number.draw_integer(rng)
    thermal = spec.thermal_displacement.draw(rng)
    gold: list[np.ndarray] = []
    particles: list[dict] = []
    for _ in range(20 * most):
        if len(gold) == most or (gold and sum(q["diameter"] ** 2 for q in particles) * np.pi / 4 > goal):
            break
        d = spec.diameter.draw(rng)
        centre = rng.random(2) * box
        gap = -0.3 * d if rng.random() < spec.touching_fraction else rng.uniform(1, 8)
        if not is_free(centre, d, gap, particles, box):
            continue
        p = gold_particle(d, rng, elongation=spec.elongation.draw(rng), height=spec.height.draw(rng),
                          twin=rng.random() < spec.twin_fraction)
        sunk = rng.uniform(-0.1, 0.5) * np.ptp(p[:, 2]) if thickness else 0.0
        z = thickness + 2.0 - p[:, 2].min() - sunk
        if rng.random() < 0.4:  # on the other side of the film
            z = -2.0 - p[:, 2].max() + sunk
        p = p + [*centre, z] + rng.normal(0, thermal, p.shape)
        gold.append(p)
        particles.append({"x": float(centre[0]), "y": float(centre[1]), "diameter": float(d), "atoms": len(p)})
    return gold, particles


def is_free(centre: np.ndarray, diameter: float, gap: float, particles: list[dict], box: float) -> bool:
    """Whether a disc here keeps its gap (negative: may overlap) to all others, across borders too."""
    for q in particles:
        d = np.abs(centre - [q["x"], q["y"]])
        if np.hypot(*np.minimum(d, box - d)) < (diameter + q["diameter"]) / 2 + gap:
            return False
    return True


def wrap(p: np.ndarray, box: float) -> np.ndarray:
    """Bring x and y back into the box."""
    p = p.copy()
    p[:, :2] %= box
    return p
