"""Particles that stand together in the middle of the frame: a motion around another one."""

from __future__ import annotations

from dataclasses import dataclass, replace

import numpy as np

from ..core.checks import check_number
from .recipe import Recipe
from .scenes import MovingParticles, Rock, Wander, parts_of

__all__ = ["Gathered"]


@dataclass(frozen=True)
class Gathered:
    """A motion whose particles stand on a circle about the middle of the frame, one alone in its centre.

    Drawn at random they lie anywhere in the cell of the movie, half of them outside of a small frame.

    Parameters
    ----------
    motion : Rock or Wander
        How they move.
    radius : float
        Of the circle [angstrom].
    """

    motion: Rock | Wander
    radius: float = 30.0

    def __post_init__(self) -> None:
        check_number("Gathered.radius", self.radius, "angstrom", least=0)

    def scene(self, recipe: Recipe, seed: int, n_frames: int, frame_time: float) -> MovingParticles:
        """Make the scene of the motion, every particle moved to its place."""
        scene = self.motion.scene(recipe, seed, n_frames, frame_time)
        particles = parts_of(scene.recipe, seed).particles
        count = len(particles)
        if not count:
            return scene
        angle = 2 * np.pi * np.arange(count) / count + np.pi / 2
        radius = self.radius if count > 1 else 0.0
        places = scene.field.box / 2 + radius * np.stack([np.cos(angle), np.sin(angle)], 1)
        return replace(scene, moves=scene.moves + places - [p.positions.mean(0)[:2] for p in particles])
