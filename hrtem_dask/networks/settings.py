"""What defines a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import InputError
from ..simulate.columns import COLUMN_CLASSES
from .contrast import WRONG
from .msdnet import MSDNet

if TYPE_CHECKING:
    from .unet import UNet

__all__ = ["BACKGROUND", "NETWORKS", "PARTICLE", "Settings"]

NETWORKS = ("msdnet", "unet")
BACKGROUND, PARTICLE = "background", "particle"


@dataclass(frozen=True)
class Settings:
    """What defines a run.

    ``network`` is "msdnet", with so many layers ``depth`` of ``width`` planes, or "unet", with
    ``width`` planes at the finest of ``depth`` + 1 scales. ``size`` [network pixel] is the side of an
    example, ``pixel_size`` [angstrom] that of the network, ``scale`` and ``offset`` the range of the
    changes after the z-score: the mean and the spread of a crop are not those of a frame, whose
    coverage is another. ``warm_up`` is a number of iterations, ``clip`` the largest norm of a
    gradient, ``average`` the decay of the running average of the weights, and ``validations`` how
    often the average is judged during a run. ``outline`` is what the network learns to outline, see
    `Dataset`, and ``start`` the sha256 of the weights that it begins with, empty for random ones.
    ``classes`` follow the background: "particle" alone, or classes of columns, each drawn as
    Gaussians with a sigma of ``column_size`` [angstrom], in images whose columns are dark but for a
    part ``wrong`` of the examples, see `hrtem_dask.networks.contrast`.
    """

    network: str = "msdnet"
    depth: int = 50
    width: int = 1
    padding: str = "reflect"
    batch: int = 3
    size: int = 256
    pixel_size: float = 0.5
    learning_rate: float = 1e-2
    warm_up: int = 60
    clip: float = 1.0
    dice_weight: float = 1.0
    average: float = 0.998
    validations: int = 40
    scale: tuple[float, float] = (0.7, 1.4)
    offset: float = 0.5
    seed: int = 1
    outline: str = "half-thickness"
    start: str = ""
    classes: tuple[str, ...] = (PARTICLE,)
    column_size: float = 0.4
    wrong: float = WRONG

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InputError(f"network is {self.network!r}; expected one of {list(NETWORKS)}")
        known = self.classes == (PARTICLE,) or (self.classes and set(self.classes) <= set(COLUMN_CLASSES))
        if not known or len(set(self.classes)) < len(self.classes) or self.column_size <= 0:
            raise InputError(f"found the classes {list(self.classes)} and columns of {self.column_size:g} angstrom; "
                             f"expected ['{PARTICLE}'], or some of {list(COLUMN_CLASSES)}, each once, and a positive "
                             f"size")

    @property
    def columns(self) -> tuple[str, ...]:
        """Classes of columns to learn; none where particles are learnt."""
        return () if self.classes == (PARTICLE,) else self.classes

    def build(self) -> MSDNet | UNet:
        """Return a fresh network with one input channel, for the background and the classes."""
        if self.network == "unet":
            from .unet import UNet

            return UNet(1, 1 + len(self.classes), width=self.width, levels=self.depth)
        return MSDNet(1, 1 + len(self.classes), self.depth, width=self.width, padding=self.padding)
