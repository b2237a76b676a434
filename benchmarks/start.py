"""How soon a fresh process has its first result."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import dataclass, field

from .common import Options, Spread, Table, head

__all__ = ["Row", "tables"]

#: what is measured: name -> (imports, first call). Each runs in processes of its own
CASES = {
    "networks.evaluate(device='cpu')": (
        "from hrtem_dask.networks import evaluate",
        "out = evaluate(weights, image, device='cpu')",
    ),
    "networks.evaluate(), PyTorch among the imports": (
        "import torch; from hrtem_dask.networks import evaluate",
        "out = evaluate(weights, image)",
    ),
    "networks.evaluate(), PyTorch not among the imports": (
        "from hrtem_dask.networks import evaluate",
        "out = evaluate(weights, image)",
    ),
    "segment(...).compute(), PyTorch among the imports": (
        "import torch; from hrtem_dask import load_model, segment; from hrtem_dask.core.calibration import make_movie",
        "out = segment(make_movie(image, pixel_size=0.5), load_model('au-particles')).compute()",
    ),
}
MOST_REPEATS = 3
SCRIPT = """
import time
started = time.perf_counter()
import json, numpy
{imports}
imported = time.perf_counter() - started
from hrtem_dask.networks import load_model
image = numpy.random.default_rng(0).standard_normal((1, {side}, {side}), dtype=numpy.float32)
times = []
for _ in range(2):
    started = time.perf_counter()
    weights = load_model("au-particles").weights
    {call}
    times.append(time.perf_counter() - started)
print(json.dumps([imported, *times]))
"""


@dataclass(frozen=True)
class Row:
    """One first call."""

    what: str = field(metadata=head("first call"))
    imports: Spread = field(metadata=head("imports, s: min / median / max"))
    first: Spread = field(metadata=head("imports done to first result, s: min / median / max"))
    second: Spread = field(metadata=head("second result, s"))


def tables(options: Options) -> list[Table]:
    """Measure every case in fresh processes, one after the other."""
    side = options.size(1024, 128)
    rows = []
    for what, (imports, call) in CASES.items():
        script = SCRIPT.format(imports=imports, call=call, side=side)
        times = [_times(script) for _ in range(min(MOST_REPEATS, options.repeats))]
        rows.append(Row(what, *(Spread.of(column) for column in zip(*times, strict=True))))
    return [Table("A fresh process", rows, [
        f"The shipped network au-particles, loaded from disk within the time, on {side} x {side} pixels. Files are in "
        "the system's cache after the first process. 'auto' looks for a GPU first, for which it needs PyTorch: where "
        "that was not imported before, the first call does it.",
    ])]


def _times(script: str) -> list[float]:
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    if done.returncode:
        raise RuntimeError(f"the process ended with {done.returncode}: {done.stderr.strip()}")
    return json.loads(done.stdout.strip().splitlines()[-1])
