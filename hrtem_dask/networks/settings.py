"""What defines a training run."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

from ..core.errors import InputError
from .msdnet import MSDNet

if TYPE_CHECKING:
    from .unet import UNet

__all__ = ["NETWORKS", "Settings"]

NETWORKS = ("msdnet", "unet")


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

    def __post_init__(self) -> None:
        if self.network not in NETWORKS:
            raise InputError(f"network is {self.network!r}; expected one of {list(NETWORKS)}")

    def build(self) -> MSDNet | UNet:
        """Return a fresh network with one input channel and two classes."""
        if self.network == "unet":
            from .unet import UNet

            return UNet(1, 2, width=self.width, levels=self.depth)
        return MSDNet(1, 2, self.depth, width=self.width, padding=self.padding)
