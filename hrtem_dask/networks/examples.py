"""Training examples drawn on the fly from stored exit waves, as a PyTorch data set."""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch

from ..core.errors import InputError
from ..simulate.draws import draw_example
from ..simulate.sets import Dataset, Sample
from .scoring import normalised

__all__ = ["CACHE", "Examples", "SampleCache"]

#: what the samples that a process keeps may take [byte]
CACHE = 256 << 20


class SampleCache:
    """The samples of a set that were used last, within a limit of memory; safe among threads.

    Parameters
    ----------
    data : Dataset
    limit : int
        [byte]; a single sample is kept however large it is.

    Examples
    --------
    >>> from types import SimpleNamespace
    >>> field = np.zeros((10, 10), np.complex64)
    >>> data = SimpleNamespace(read=lambda i, instances: Sample(field + i, field.real > 0, field.real, {}))
    >>> cache = SampleCache(data, 3000)
    >>> [int(cache[i].wave[0, 0].real) for i in (4, 5, 4, 6)], cache.held <= 3000, cache.reads
    ([4, 5, 4, 6], True, 3)
    """

    def __init__(self, data: Dataset, limit: int = CACHE) -> None:
        self.data, self.limit, self.held, self.reads = data, int(limit), 0, 0
        self.kept: OrderedDict[int, Sample] = OrderedDict()
        self.lock = threading.Lock()

    def __getitem__(self, i: int) -> Sample:
        with self.lock:
            if i in self.kept:
                self.kept.move_to_end(i)
                return self.kept[i]
        sample = self.data.read(i, instances=False)
        with self.lock:
            self.reads += 1
            if i not in self.kept:
                self.kept[i] = sample
                self.held += size_of(sample)
            while self.held > self.limit and len(self.kept) > 1:
                self.held -= size_of(self.kept.popitem(last=False)[1])
        return sample

    def __getstate__(self) -> dict:
        return {"data": self.data, "limit": self.limit}  # another process begins with an empty one

    def __setstate__(self, state: dict) -> None:
        self.__init__(**state)


def size_of(sample: Sample) -> int:
    """Memory that a sample takes [byte]."""
    arrays = (sample.wave, sample.truth, sample.thickness, sample.instances)
    return sum(a.nbytes for a in arrays if a is not None) + int(sample.columns.memory_usage().sum())


@dataclass(eq=False)
class Examples(torch.utils.data.Dataset):
    """Examples of a set, every one with a microscope, a camera, a dose and a place of its own.

    Example ``i`` depends on the set, the seed and i alone, whoever draws it: a `DataLoader` gives
    the same batches for any number of workers. Waves are read when they are needed, and each
    process keeps those that it used last, up to ``cache`` bytes: the store may be larger than the
    memory.

    Parameters
    ----------
    data : Dataset
        From `hrtem_dask.simulate.open_dataset`.
    length : int
        Number of examples; each is new.
    size : int
        Side [network pixel].
    pixel_size : float
        Of the network [angstrom].
    seed : int
    batch : int
        Examples a step: example i is number i % batch of step i // batch.
    classes : tuple of str
        Classes of columns to label (`hrtem_dask.simulate.columns.column_image`); without any, the
        mask of the particles.
    column_size : float
        Sigma of the label of a column [angstrom].
    scale, offset : (float, float), float
        Range of the changes after the z-score: the mean and the spread of a crop are not those of
        a frame, whose coverage is another.
    cache : int
        [byte]

    Examples
    --------
    ``DataLoader(Examples(open_dataset("set.zarr"), length=30_000), batch_size=4, num_workers=3)``
    """

    data: Dataset
    length: int
    size: int = 256
    pixel_size: float = 0.5
    seed: int = 1
    batch: int = 1
    classes: Sequence[str] = ()
    column_size: float = 0.4
    scale: tuple[float, float] = (0.7, 1.4)
    offset: float = 0.5
    cache: int = CACHE

    def __post_init__(self) -> None:
        if min(self.length, self.size, self.batch) < 1 or self.pixel_size <= 0 or self.cache < 0:
            raise InputError(f"found length = {self.length}, size = {self.size}, batch = {self.batch}, pixel_size = "
                             f"{self.pixel_size}, cache = {self.cache}; expected positive numbers")
        self.samples = SampleCache(self.data, self.cache)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, i: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Example i: image, float32 (1 or defocus, y, x), and truth, int64 (y, x) or float32 (class, y, x)."""
        if not 0 <= i < self.length:
            raise IndexError(f"example {i} of {self.length}")
        image, truth = self.draw(*divmod(i, self.batch))
        label = truth if self.classes else truth.astype(np.int64)
        return torch.from_numpy(image if image.ndim == 3 else image[None]), torch.from_numpy(label)

    def draw(self, step: int, k: int) -> tuple[np.ndarray, np.ndarray]:
        """Example k of a step: normalised and jittered image, and truth."""
        rng = np.random.default_rng([self.seed, 1, step, k])
        sample = self.samples[int(rng.integers(len(self.data)))]
        image, truth = draw_example(sample, self.data.recipe, rng, size=self.size, pixel_size=self.pixel_size,
                                    classes=self.classes, column_size=self.column_size)
        scale = np.exp(rng.uniform(*np.log(self.scale)))
        return (normalised(image) * scale + rng.uniform(-self.offset, self.offset)).astype(np.float32), truth
