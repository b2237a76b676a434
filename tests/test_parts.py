"""Images that do not fit: fewer at once, in parts, and in the end a message that helps."""

from __future__ import annotations

import logging
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import hrtem_dask
from hrtem_dask.kernels import parts
from hrtem_dask.kernels.msdnet import compiled, reference, torch_planes
from hrtem_dask.kernels.msdnet.weights import PADDINGS, MSDWeights
from hrtem_dask.kernels.parts import evaluate_in_batches, evaluate_in_parts
from hrtem_dask.networks import evaluation
from hrtem_dask.networks.evaluation import evaluate, evaluate_many

ALL = (True, True, True, True)


def draw(depth=4, dilations=(1, 2, 3), c_in=1, c_out=2, padding="zeros", whole=False, seed=0):
    """Random weights; small whole numbers make every sum exact, in any order."""
    rng = np.random.default_rng(seed)

    def array(*shape):
        values = rng.integers(-2, 3, shape) if whole else rng.normal(size=shape) / 3
        return values.astype(np.float32)

    return MSDWeights(tuple(array(1, c_in + i, 3, 3) for i in range(depth)), tuple(array(1) for _ in range(depth)),
                      array(c_out, c_in + depth), array(c_out), dilations, padding)


def at_most(pixels, run):
    """An evaluation that lacks memory for more pixels; keeps the sizes that it was asked for."""
    asked = []

    def limited(image, edges):
        asked.append(image.shape[-2:])
        if image[0].size > pixels:
            raise MemoryError
        return run(image, edges)

    limited.asked = asked
    return limited


@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_parts_are_the_whole_for_any_size_and_limit(data):
    """A sum over the neighbours with ones beyond true edges and rubbish beyond the others."""
    ny, nx, reach = data.draw(st.integers(1, 60)), data.draw(st.integers(1, 60)), data.draw(st.integers(0, 4))
    edges = data.draw(st.tuples(*[st.booleans()] * 4))
    smallest = data.draw(st.integers(1, 8))
    image = np.random.default_rng(ny * nx).integers(0, 99, (1, ny, nx)).astype(float)

    def run(tile, sides):
        padded = np.pad(tile[0], reach, constant_values=1)
        for k, (side, where) in enumerate(zip(sides, np.s_[:reach, padded.shape[0] - reach:], strict=False)):
            if not side:
                padded[where] = 1e9 + k
        for side, where in zip(sides[2:], np.s_[:reach, padded.shape[1] - reach:], strict=True):
            if not side:
                padded[:, where] = 1e6
        n, m = tile.shape[1:]
        return sum(padded[a:a + n, b:b + m] for a in range(2 * reach + 1) for b in range(2 * reach + 1))[None]

    fits = (smallest + 2 * reach) ** 2
    limit = data.draw(st.integers(fits, max(fits, 2 * ny * nx)))
    limited = at_most(limit, run)
    try:
        found = evaluate_in_parts(limited, image, edges, reach, smallest=smallest)
    except MemoryError:  # only where halos leave nothing to gain
        assert limited.asked[-1][0] * limited.asked[-1][1] > limit
        return
    np.testing.assert_array_equal(found, run(image, edges))
    assert max(a * b for a, b in limited.asked) <= ny * nx


@pytest.mark.parametrize("padding", PADDINGS)
def test_with_the_receptive_radius_parts_are_exact_in_the_reference(padding):
    weights = draw(padding=padding, whole=True)
    image = np.random.default_rng(1).integers(0, 9, (1, 90, 61)).astype(np.float32)
    limited = at_most(2500, lambda tile, edges: reference.evaluate(weights, tile))
    found = evaluate_in_parts(limited, image, ALL, weights.receptive_radius, smallest=8)
    assert len(limited.asked) > 4
    np.testing.assert_array_equal(found, reference.evaluate(weights, image))
    assert np.ptp(found) > 100


@pytest.mark.skipif(not compiled.instruction_sets(), reason=compiled.why_not() or "built")
@pytest.mark.parametrize("padding", PADDINGS)
@pytest.mark.parametrize("threads", [1, 3])
def test_with_the_receptive_radius_parts_are_exact_in_the_compiled_evaluation(padding, threads):
    weights = draw(depth=25, dilations=tuple(range(1, 11)), c_in=2, padding=padding)
    image = np.random.default_rng(1).normal(size=(2, 701, 530)).astype(np.float32)
    limited = at_most(220_000, lambda tile, edges: compiled.evaluate(weights, tile, threads=threads))
    found = evaluate_in_parts(limited, image, ALL, weights.receptive_radius)
    assert len(limited.asked) > 3
    np.testing.assert_array_equal(found, compiled.evaluate(weights, image))


@pytest.mark.parametrize("backend", ["auto", "torch", "reference"])
def test_evaluate_helps_itself(monkeypatch, backend):
    weights = draw(depth=6, padding="reflect")
    image = np.random.default_rng(2).normal(size=(1, 300, 170)).astype(np.float32)
    expected = evaluate(weights, image, backend=backend)
    chosen = evaluation._backend(backend, "cpu")
    asked = []

    def limited(weights, tile, device, edges):
        asked.append((tile.shape[1:], edges))
        if tile.size > 30_000:
            raise MemoryError
        return chosen.run(weights, tile, device, edges)

    monkeypatch.setitem(evaluation.BACKENDS, chosen.name, evaluation.Backend(
        chosen.name, limited, chosen.speed, chosen.available))
    found = evaluate(weights, image, backend=backend)
    np.testing.assert_allclose(found, expected, rtol=0, atol=1e-5 if backend == "torch" else 0)
    assert asked == [((300, 170), ALL), ((162, 170), (True, False, True, True)),
                     ((162, 170), (False, True, True, True))]
    asked.clear()
    evaluate(weights, image, backend=backend, halo=3, edges=(False, True, True, False))
    assert asked[1:] == [((153, 170), (False, False, True, False)), ((153, 170), (False, True, True, False))]


def test_what_cannot_fit_says_what_was_found_and_what_to_do():
    image = np.zeros((1, 500, 300), np.float32)
    message = (r"an image of 500 x 300 pixels: its smallest part with a halo of 30, 155 x 105 pixels, takes 51 planes, "
               r"3.32 MB; 2 MB are available \(no more\)\. Use a smaller tile= or halo=, fewer threads a worker, or "
               r"more memory a worker")

    def never(tile, edges):
        raise MemoryError("no more")

    with pytest.raises(MemoryError, match=message):
        evaluate_in_parts(never, image, ALL, 30, planes=51, available=lambda: 2_000_000)
    with pytest.raises(MemoryError, match="300 x 300 pixels, takes"):  # halos that cover all leave nothing to cut
        evaluate_in_parts(never, image[:, :300], ALL, 400, planes=51)
    with pytest.raises(RuntimeError, match="something else"):
        evaluate_in_parts(lambda tile, edges: (_ for _ in ()).throw(RuntimeError("something else")), image, ALL, 30)


def test_it_halves_before_the_memory_is_gone_and_says_so_once(caplog):
    parts._say_once.cache_clear()
    image = np.random.default_rng(0).normal(size=(1, 256, 256))
    free = 4 * 50 * 256 * 150
    asked = []

    def run(tile, edges):
        asked.append(tile.shape[1:])
        return tile

    with caplog.at_level(logging.WARNING):
        for _ in range(3):
            np.testing.assert_array_equal(
                evaluate_in_parts(run, image, ALL, 8, planes=50, available=lambda: free), image)
    assert asked == 3 * [(136, 256), (136, 256)]
    assert len(caplog.records) == 1
    assert "256 x 256" in caplog.text
    assert "halved" in caplog.text
    # what is measured as free can be wrong: the smallest part is tried all the same
    np.testing.assert_array_equal(evaluate_in_parts(run, image, ALL, 8, planes=50, available=lambda: 0), image)


CODE = """
import resource, sys
import numpy as np
from hrtem_dask.core.machine import available_memory
from hrtem_dask.networks import evaluation, load_model
backend, sight, part = sys.argv[1:]
weights = load_model("au-particles-msd").weights
image = np.random.default_rng(0).normal(size=(1, 1500, 700)).astype(np.float32)
evaluation.evaluate(weights, image[:, :90, :90], device="cpu", backend=backend)  # what is loaded on first use
if sight == "blind":  # only the allocation itself can tell
    evaluation.available_memory = lambda: 2**60
used = [int(line.split()[1]) * 1024 for line in open("/proc/self/status") if line.startswith("VmSize")][0]
spare = int(float(part) * 4 * weights.final.shape[1] * image.size)
before = resource.getrlimit(resource.RLIMIT_AS)
resource.setrlimit(resource.RLIMIT_AS, (used + spare, before[1]))
assert available_memory() <= spare
try:
    found = evaluation.evaluate(weights, image, device="cpu", backend=backend)
except MemoryError as error:
    print("MemoryError:", error)
else:
    resource.setrlimit(resource.RLIMIT_AS, before)
    expected = evaluation.evaluate(weights, image, device="cpu", backend=backend)
    print("equal" if np.array_equal(found, expected) else f"off by {abs(found - expected).max()}")
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs a limit of address space")
@pytest.mark.parametrize(("backend", "sight", "part", "expected"), [
    ("compiled", "blind", 0.98, "^equal"), ("compiled", "seeing", 0.98, "^equal"),
    ("compiled", "blind", 0.02, "^MemoryError: not enough memory to evaluate an image of 1500 x 700 .* fewer threads"),
    ("torch", "blind", 0.98, r"^equal|^off by [0-9.]+e-0[5-9]"),
    ("torch", "blind", 0.02, r"^MemoryError: not enough memory .*DefaultCPUAllocator"),
])
def test_a_real_lack_of_memory(backend, sight, part, expected):
    if not evaluation.BACKENDS[backend].available("cpu"):
        pytest.skip(compiled.why_not())
    run = subprocess.run([sys.executable, "-c", CODE, backend, sight, str(part)], capture_output=True, text=True,
                         env=os.environ | {"OMP_NUM_THREADS": "1", "HRTEM_DASK_TASK_THREADS": "1"}, check=False)
    assert re.search(expected, run.stdout), run.stdout + run.stderr
    assert "halved it" in run.stderr, run.stderr


@settings(max_examples=30, deadline=None)
@given(n=st.integers(1, 20), size=st.integers(1, 20), fits=st.integers(0, 20))
def test_batches_shrink_until_they_fit(n, size, fits):
    images = np.arange(n, dtype=float).reshape(n, 1, 1, 1) * np.ones((1, 2, 3))
    tried, alone = [], []

    def batch(several):
        tried.append(len(several))
        if len(several) > fits:
            raise MemoryError
        return several + 1

    def single(image):
        alone.append(float(image[0, 0, 0]))
        return image + 1

    np.testing.assert_array_equal(evaluate_in_batches(batch, images, size, single), images + 1)
    assert sum(k for k in tried if k <= fits) + len(alone) == n
    assert sum(k > fits for k in tried) <= 5
    if size == 1 or (fits < 2 and n > 1):
        assert alone == list(range(n))


def gpu_with_room_for(monkeypatch, pixels):
    """A CPU that raises as a GPU does; keeps the shapes that it was given."""
    asked = []
    real = torch_planes.evaluate

    def limited(weights, images, **kwargs):
        asked.append(images.shape)
        if images.shape[-1] * images.shape[-2] * (len(images) if images.ndim == 4 else 1) > pixels:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB.\nSee the notes.")
        return real(weights, images, **kwargs)

    monkeypatch.setattr(torch_planes, "evaluate", limited)
    return asked


def test_a_gpu_out_of_memory_halves_the_batch_then_the_tile_then_says_so(monkeypatch, caplog):
    weights = draw(depth=5, dilations=(1, 2))
    images = np.random.default_rng(3).normal(size=(7, 1, 160, 140)).astype(np.float32)
    expected = [reference.evaluate(weights, image) for image in images]
    asked = gpu_with_room_for(monkeypatch, 2 * 160 * 140)
    with caplog.at_level(logging.WARNING):
        found = evaluate_many(weights, images, backend="torch", device="cpu", batch=6)
    np.testing.assert_allclose(found, expected, atol=1e-5)
    assert [shape[0] for shape in asked] == [6, 3, 1, 1, 1, 1, 1, 1, 1]
    assert "6 images at once, going on with 3: CUDA out of memory" in caplog.text
    assert "See the notes" not in caplog.text

    asked = gpu_with_room_for(monkeypatch, 160 * 100)
    found = evaluate_many(weights, images[:2], backend="torch", device="cpu", batch=2)
    np.testing.assert_allclose(found, expected[:2], atol=1e-5)
    assert asked[:4] == [(2, 1, 160, 140), (1, 160, 140), (1, 87, 140), (1, 87, 140)]

    gpu_with_room_for(monkeypatch, 10)
    with pytest.raises(MemoryError, match=r"160 x 140 .* \(CUDA out of memory.*\)\. Use a smaller tile="):
        evaluate_many(weights, images, backend="torch", device="cpu", batch=2)
    with pytest.raises(MemoryError, match="more memory a worker"):
        evaluate(weights, images[0], backend="torch", device="cpu")


@pytest.mark.parametrize(("pixel", "tile", "network", "atol"), [  # torch sums a batch of a U-Net in another order
    (0.5, None, "au-particles-msd", 1e-6), (0.37, 64, "au-particles-msd", 1e-6), (0.5, None, "au-particles", 1e-4)])
def test_segment_gives_a_gpu_the_frames_of_a_task_at_once(monkeypatch, pixel, tile, network, atol):
    import dask.array as da

    from hrtem_dask import segment
    from hrtem_dask.analysis import tiling
    from hrtem_dask.core.calibration import make_movie

    counts = np.random.default_rng(2).poisson(40, (5, 90, 120)).astype(np.uint16)
    lazy = segment(make_movie(da.from_array(counts, chunks=(3, -1, -1)), pixel_size=pixel), network,
                   device="cpu", backend="torch", tile=tile)
    expected = lazy.compute(scheduler="sync")
    given, real = [], tiling.evaluate_many

    def many(weights, images, **kwargs):
        given.append(len(images))
        return real(weights, images, batch=2, **kwargs)

    monkeypatch.setattr(tiling, "evaluate_many", many)
    monkeypatch.setattr(tiling, "_at_once", lambda device, tile: True)
    np.testing.assert_allclose(lazy.compute(scheduler="sync"), expected, rtol=0, atol=atol)
    assert set(given) == {3, 2}
    monkeypatch.undo()
    one = next(iter(tiling_tiles(lazy)))
    assert tiling._at_once("cuda", one)
    assert not tiling._at_once("cpu", one)


def tiling_tiles(lazy):
    """The tiles in the graph of a segmentation."""
    from hrtem_dask.analysis.tiling import SegmentJob

    for task in dict(lazy.data.dask).values():
        for part in getattr(task, "args", ()):
            if isinstance(part, SegmentJob):
                yield part.tile


def test_the_batch_on_a_gpu_is_what_its_free_memory_holds(monkeypatch):
    weights = draw()
    one = torch_planes.image_bytes(weights, (100, 80))
    assert one == 4 * 5 * 106 * 86
    for name, value in (("mem_get_info", (8 * one, 99 * one)), ("memory_reserved", 5 * one), ("memory_allocated", one)):
        monkeypatch.setattr(torch.cuda, name, lambda device, value=value: value)
    assert evaluation._batch_size(weights, (1, 100, 80), "cuda") == int(0.7 * 12)
    assert evaluation._batch_size(weights, (1, 3000, 3000), "cuda") == 1


def test_errors_of_torch_are_translated_in_one_place_and_others_pass(monkeypatch):
    package = Path(hrtem_dask.__file__).parent
    found = [p.name for p in package.rglob("*.py") if re.search(r"except.*OutOfMemoryError", p.read_text("utf-8"))]
    assert found == ["evaluation.py"]

    def broken(*args, **kwargs):
        raise RuntimeError("CUDA error: an illegal memory access was encountered")

    monkeypatch.setattr(torch_planes, "evaluate", broken)
    with pytest.raises(RuntimeError, match="illegal memory access"):
        evaluate(draw(), np.zeros((1, 64, 64)), backend="torch", device="cpu")
