"""Where the examples of a run come from: a simulated set, or labelled frames (`fine_tuning`)."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from ..simulate.draws import draw_example
from ..simulate.sets import Dataset
from .contrast import turned_dark
from .examples import Examples
from .scoring import normalised
from .settings import Settings

__all__ = ["COLUMN_DOSES", "DOSES", "Example", "Simulated", "Source"]

DOSES = (20.0, 50.0, 200.0)  # electrons/angstrom^2, to validate at
COLUMN_DOSES = (50.0, 200.0, 1000.0)  # where columns are learnt
IMAGES = 12  # a dose

#: normalised image float32 (y, x), and truth: bool (y, x), or probability float32 (class, y, x)
Example = tuple[np.ndarray, np.ndarray]


class Source(Protocol):
    """What a run learns from and is judged by; a small object that travels to the workers."""

    #: names of the groups of validation images; image k is of group k % len(groups)
    groups: tuple[str, ...]
    #: number of validation images
    judged: int

    def drawer(self, settings: Settings) -> Callable[[int, int], Example]:
        """Return a function that draws example k of a step."""
        ...

    def validation(self, settings: Settings, k: int) -> Example:
        """Validation image k: the same on every call."""
        ...

    def identity(self) -> Any:
        """What tells this source from others, for JSON."""
        ...


@dataclass(frozen=True)
class Simulated:
    """Examples drawn from the exit waves of one set, and validation images from other fields of it."""

    data: Dataset
    other: Dataset
    wanted: tuple[float, ...] = DOSES

    @property
    def groups(self) -> tuple[str, ...]:
        """One group a dose."""
        return tuple(f"dice_{d:g}" for d in self.doses)

    @property
    def doses(self) -> tuple[float, ...]:
        """Those of the wanted ones that the recipe has, else ends and middle of its range."""
        dose = self.data.recipe.imaging.dose
        found = tuple(d for d in self.wanted if dose.low <= d <= dose.high)
        return found or tuple(sorted({dose.low, math.sqrt(dose.low * dose.high), dose.high}))

    @property
    def judged(self) -> int:
        """Number of validation images."""
        return IMAGES * len(self.doses)

    def drawer(self, settings: Settings) -> Callable[[int, int], Example]:
        """Return a function that draws example k of a step."""
        s = settings
        draw = Examples(self.data, length=1, size=s.size, pixel_size=s.pixel_size, seed=s.seed, scale=s.scale,
                        offset=s.offset, classes=s.columns, column_size=s.column_size).draw
        if not s.columns:
            return draw

        def dark(step: int, k: int) -> Example:
            wrong = np.random.default_rng([s.seed, 6, step, k]).random() < s.wrong
            return turned_dark(*draw(step, k), s.column_size / s.pixel_size, wrong)

        return dark

    def validation(self, settings: Settings, k: int) -> Example:
        """Draw validation image k: not jittered, the doses in turn, every dose with the same microscopes."""
        i, which = divmod(k, len(self.doses))
        imaging = self.data.recipe.imaging
        dose = replace(imaging.dose, low=self.doses[which], high=self.doses[which])
        image, truth = draw_example(
            self.other.read(i % len(self.other), instances=False),
            replace(self.data.recipe, imaging=replace(imaging, dose=dose)),
            np.random.default_rng([settings.seed, 2, i]), size=settings.size, pixel_size=settings.pixel_size,
            classes=settings.columns, column_size=settings.column_size)
        image = normalised(image)
        if settings.columns:
            return turned_dark(image, truth, settings.column_size / settings.pixel_size)
        return image, truth

    def identity(self) -> Any:
        """Recipe, seed and fields of the set."""
        return {"recipe": self.data.recipe.digest, "seed": self.data.seed, "fields": list(self.data.indices),
                "validation": list(self.other.indices)}
