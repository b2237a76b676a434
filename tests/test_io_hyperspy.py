"""Opening signals of HyperSpy and the files that it writes."""

from __future__ import annotations

import numpy as np
import pytest
import zarr

from hrtem_dask import open_movie
from hrtem_dask.core.calibration import pixel_size_of


def test_hyperspy_signals(stack):
    hs = pytest.importorskip("hyperspy.api")
    signal = hs.signals.Signal2D(stack)
    for axis, scale in (("y", 0.05), ("x", 0.05)):
        axis = signal.axes_manager.signal_axes[1 if axis == "y" else 0]
        axis.scale, axis.units = scale, "nm"
    navigation = signal.axes_manager.navigation_axes[0]
    navigation.name, navigation.scale, navigation.units = "Time", 0.2, "s"
    for source in (signal, signal.as_lazy()):
        movie = open_movie(source)
        assert movie.shape == stack.shape
        assert pixel_size_of(movie) == pytest.approx((0.5, 0.5))
        np.testing.assert_allclose(movie.time, np.arange(6) * 0.2)
        np.testing.assert_array_equal(movie.values, stack)
    assert open_movie(hs.signals.Signal2D(stack[0])).shape == (1, 20, 30)
    assert "y" not in open_movie(hs.signals.Signal2D(stack)).coords


def write_zspy(path, stack):
    """Lay out a store as HyperSpy does: the writer of RosettaSciIO 0.15 does not run on Zarr 3."""
    root = zarr.open_group(str(path), mode="w", zarr_format=2)
    root.attrs.update({"file_format": "ZSpy", "file_format_version": "3.3"})
    experiment = root.create_group("Experiments/__unnamed__")
    experiment.create_array("data", shape=stack.shape, chunks=(1, *stack.shape[1:]), dtype=stack.dtype)[:] = stack
    for i, (name, size) in enumerate(zip("tyx", stack.shape, strict=True)):
        axis = experiment.create_group(f"axis-{i}")
        axis.attrs.update({"_type": "UniformDataAxis", "name": name, "size": size, "navigate": name == "t",
                           "units": "s" if name == "t" else "pm", "scale": 0.5 if name == "t" else 60.0, "offset": 0.0,
                           "index_in_array": i, "is_binned": False})  # fmt: skip
    metadata = experiment.create_group("metadata")
    metadata.create_group("General").attrs["title"] = ""
    metadata.create_group("Signal").attrs["signal_type"] = ""
    experiment.create_group("original_metadata")


@pytest.mark.parametrize("suffix", [".hspy", ".zspy", ".hdf5"])
def test_hyperspy_files(tmp_path, stack, suffix):
    hs = pytest.importorskip("hyperspy.api")
    path = tmp_path / f"a{suffix}"
    if suffix == ".zspy":
        write_zspy(path, stack)
    else:
        signal = hs.signals.Signal2D(stack)
        for axis in signal.axes_manager.signal_axes:
            axis.scale, axis.units = 60.0, "pm"
        signal.save(tmp_path / "a.hspy")
        (tmp_path / "a.hspy").rename(path)
    for source in (path, tmp_path):
        movie = open_movie(source, chunks=2)
        assert pixel_size_of(movie) == pytest.approx((0.6, 0.6))
        np.testing.assert_array_equal(movie.values, stack)
