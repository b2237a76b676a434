"""Adam in the eigenbasis of each layer's gradients: what makes a narrow, dense network learn quickly.

The planes of an MSD-net are positive and alike, so the nine taps of all of them that a layer sums
are strongly correlated, and steps along single weights get in each other's way. Here each layer
keeps a running covariance of its gradient; Adam works on the gradient turned into the eigenvectors
of that covariance, and its step is turned back. On 240 seconds of one core this took the mean Dice
at 20 electrons/angstrom^2 from 0.48 (Adam) to 0.69, with the same network and the same examples.

Vyas et al., SOAP: improving and stabilizing Shampoo using Adam, arXiv:2409.11321 (2024), with the
covariance of one side of a layer only.
"""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from ..core.machine import available_cores

__all__ = ["TurnedAdam"]

LIMIT = 1024  # rows of a covariance at most: turning it costs its third power
EPS = 1e-8


class TurnedAdam:
    """Adam, each layer in the eigenbasis of the covariance of its gradients.

    Parameters
    ----------
    layers : sequence of (Parameter, Parameter)
        Weight, shape (out, ...), and bias, shape (out,), of each layer; on the CPU. Weight and bias
        are one matrix (out, inputs + 1), and the covariance is that of its columns, or of its rows
        where there are more than 1024 columns.
    betas : (float, float)
        Decay of the running mean and of the running square, as in Adam.
    memory : float
        Decay of the covariance.
    every : int
        Steps between updates of the eigenvectors, each one iteration of the QR method.

    Notes
    -----
    The first gradient sets the eigenvectors and moves nothing. Layers are updated by threads, each
    by one: the result does not depend on how many there are.

    Examples
    --------
    >>> layer = torch.nn.Linear(2, 1)
    >>> x = torch.tensor([[1.0, 1.1], [2.0, 1.9], [3.0, 3.2]])
    >>> optimiser = TurnedAdam([(layer.weight, layer.bias)])
    >>> for _ in range(200):
    ...     layer.zero_grad()
    ...     (layer(x)[:, 0] - x[:, 0] + x[:, 1] - 2).square().mean().backward()
    ...     optimiser.step(0.1)
    >>> (layer(x)[:, 0] - x[:, 0] + x[:, 1] - 2).abs().max().item() < 0.2
    True
    """

    def __init__(self, layers: Sequence[tuple[torch.nn.Parameter, torch.nn.Parameter]], *,
                 betas: tuple[float, float] = (0.9, 0.95), memory: float = 0.95, every: int = 10) -> None:
        self.layers, self.betas, self.memory, self.every = list(layers), betas, memory, every
        self.steps = 0
        self.states: list[dict[str, torch.Tensor]] = [{} for _ in self.layers]

    def step(self, rate: float) -> None:
        """Take one step with the gradients that the parameters hold."""
        def one(i: int) -> None:
            with torch.no_grad():  # it belongs to a thread
                self._step(*self.layers[i], self.states[i], rate)

        # the last layers of a dense network are the largest: they go first, so that none is left over at the end
        with ThreadPoolExecutor(available_cores()) as pool:
            list(pool.map(one, reversed(range(len(self.layers)))))
        self.steps += 1

    def _step(self, weight: torch.Tensor, bias: torch.Tensor, state: dict[str, torch.Tensor], rate: float) -> None:
        gradient = torch.cat([weight.grad.flatten(1), bias.grad[:, None]], 1)
        by_rows = gradient.shape[1] > LIMIT
        gradient = gradient.t().contiguous() if by_rows else gradient
        square = gradient.t() @ gradient
        if not state:
            state |= {"covariance": square, "basis": torch.linalg.eigh(square)[1].contiguous(),
                      "mean": torch.zeros_like(gradient), "square": torch.zeros_like(gradient)}
            return
        beta, gamma = self.betas
        state["covariance"].lerp_(square, 1 - self.memory)
        state["mean"].lerp_(gradient, 1 - beta)
        turned = gradient @ state["basis"]
        state["square"].mul_(gamma).addcmul_(turned, turned, value=1 - gamma)
        mean = (state["mean"] @ state["basis"]) / (1 - beta**self.steps)
        spread = (state["square"] / (1 - gamma**self.steps)).sqrt_().add_(EPS)
        change = (mean / spread) @ state["basis"].t()
        change = change.t() if by_rows else change
        weight.sub_(rate * change[:, :-1].reshape(weight.shape))
        bias.sub_(rate * change[:, -1])
        if self.steps % self.every == 0:
            self._turn(state)

    @staticmethod
    def _turn(state: dict[str, torch.Tensor]) -> None:
        """Bring the basis nearer to the eigenvectors, and the running squares into the same order."""
        product = state["covariance"] @ state["basis"]
        order = (product * state["basis"]).sum(0).argsort(descending=True, stable=True)
        state["square"] = state["square"][:, order].contiguous()
        state["basis"] = torch.linalg.qr(product[:, order])[0].contiguous()

    def arrays(self) -> dict[str, np.ndarray]:
        """Return the whole state as plain arrays, for a checkpoint."""
        out = {f"{name}{i}": value.numpy() for i, state in enumerate(self.states) for name, value in state.items()}
        return out | {"steps": np.array(self.steps)}

    def load(self, arrays: dict[str, Any]) -> None:
        """Take over what `arrays` gave; in memory that torch lays out, so that sums come out the same to the bit."""
        self.steps = int(arrays["steps"])
        self.states = [{name: torch.tensor(arrays[f"{name}{i}"]) for name in
                        ("covariance", "basis", "mean", "square") if f"{name}{i}" in arrays}
                       for i in range(len(self.layers))]
