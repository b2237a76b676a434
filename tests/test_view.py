"""Layers for napari: lazy, calibrated so that places in tables lie on their pixels, and drawn by napari itself."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dask
import dask.array as da
import numpy as np
import pandas as pd
import pytest
import xarray as xr
from campaign_scenes import PIXEL, movie, save_dark_model
from click.testing import CliRunner

from hrtem_dask import view_layers
from hrtem_dask.campaign import run_campaign
from hrtem_dask.cli import main
from hrtem_dask.core.calibration import make_movie
from hrtem_dask.core.errors import InputError
from hrtem_dask.io.store import write_movie


def refuse(*_: Any, **__: Any) -> None:
    raise AssertionError("something was computed")


def lazy(n: int = 5, *, frame: Any = None, pixel_size: float | None = 0.25, defocus: Any = None) -> xr.DataArray:
    """A movie that raises when one of its pixels is read."""
    shape = (n, 40, 60) if defocus is None else (n, len(defocus), 40, 60)
    data = da.map_blocks(refuse, chunks=tuple((1,) * s if k == 0 else (s,) for k, s in enumerate(shape)),
                         dtype=np.uint16, meta=np.empty((0,) * len(shape), np.uint16))
    return make_movie(data, pixel_size=pixel_size, frame=frame, defocus=defocus)


def table(frames: Any = (0, 1, 4)) -> pd.DataFrame:
    frames = np.asarray(frames)
    return pd.DataFrame({"frame": frames, "y": 1.0 + frames, "x": 2.0 + frames, "track": 7,
                         "probability": np.linspace(0.5, 1, len(frames))})


def drift(n: int = 5) -> pd.DataFrame:
    """The particle moves by 0.5 angstrom a frame along y and turns by 0.1 radian; frame 3 is not registered."""
    out = pd.DataFrame({"frame": np.arange(n), "epoch": 0, "drift_y": 0.5 * np.arange(n), "drift_x": 0.0,
                        "rotation": 0.1 * np.arange(n), "centre_y": 5.0, "centre_x": 5.0})
    out.loc[3, ["drift_y", "drift_x", "rotation"]] = np.nan
    return out


def by_name(layers: list) -> dict[str, tuple[Any, dict, str]]:
    return {options["name"]: (data, options, kind) for data, options, kind in layers}


def test_nothing_is_computed() -> None:
    seen = lazy()
    probability = xr.concat([seen, seen], "class").transpose("frame", "class", "y", "x").assign_coords(
        {"class": ["background", "column"]}).astype(np.float32)
    with dask.config.set(scheduler=refuse):
        layers = by_name(view_layers(movie=seen, probability=probability, labels=seen.astype(int), columns=table()))
    assert list(layers) == ["movie", "probability column", "particle labels", "columns", "column tracks"]
    for name in ("movie", "probability column", "particle labels"):
        assert isinstance(layers[name][0], da.Array)
        assert layers[name][0].shape == (5, 40, 60)


def test_places_lie_on_their_pixels() -> None:
    part = lazy(6, frame=np.arange(10, 22, 2)).isel(y=slice(8, None), x=slice(4, None, 2))
    rows = table([12, 13, 20])  # frame 13 is not in the movie
    layers = by_name(view_layers(movie=part, columns=rows))
    _, options, _ = layers["movie"]
    points = layers["columns"][0]
    pixel = (points - options["translate"]) / options["scale"]
    assert pixel[:, 0].tolist() == [1.0, 5.0]
    for place, row in zip(pixel, rows.iloc[[0, 2]].itertuples(), strict=True):
        here = part.isel(frame=int(place[0]))
        assert int(here.frame) == row.frame
        assert float(here.y[0]) + place[1] * 0.25 == pytest.approx(row.y)
        assert float(here.x[0]) + place[2] * 0.5 == pytest.approx(row.x)
    assert layers["columns"][1]["features"]["probability"].tolist() == [0.5, 1.0]


def test_uneven_frames_are_counted() -> None:
    layers = by_name(view_layers(movie=lazy(4, frame=[0, 1, 4, 9]), columns=table([1, 4, 5])))
    _, options, _ = layers["movie"]
    assert options["scale"][0] == 1
    assert options["metadata"]["frame"] == [0, 1, 4, 9]
    assert layers["columns"][0][:, 0].tolist() == [1.0, 2.0]
    backwards = by_name(view_layers(movie=lazy(4, frame=[9, 4, 1, 0]), columns=table([1, 4, 5])))
    assert backwards["columns"][0][:, 0].tolist() == [2.0, 1.0]


def test_a_focal_series_has_its_defocus_in_front() -> None:
    data, options, _ = view_layers(movie=lazy(defocus=[-50.0, 0.0, 50.0]))[0]
    assert data.shape == (3, 5, 40, 60)
    assert options["axis_labels"] == ("defocus", "frame", "y", "x")
    assert options["scale"] == (1.0, 1.0, 0.25, 0.25)


def test_tracks_are_sorted_and_leave_out_what_is_on_none() -> None:
    rows = table([4, 0, 1])
    rows.loc[2, "track"] = -1
    data, _, kind = by_name(view_layers(movie=lazy(), columns=rows))["column tracks"]
    assert kind == "tracks"
    assert data[:, :2].tolist() == [[7.0, 0.0], [7.0, 4.0]]


def test_sites_and_events_move_with_the_particle() -> None:
    sites = pd.DataFrame({"site": [0, 1], "epoch": 0, "y": [5.0, 5.0], "x": [5.0, 7.0]})
    events = pd.DataFrame({"frame": [2, 3], "kind": ["hop", "appear"], "y": [5.0, 5.0], "x": [7.0, 7.0]})
    layers = by_name(view_layers(movie=lazy(), sites=sites, events=events, drift=drift()))
    points, options, _ = layers["sites"]
    assert sorted(points[:, 0]) == [0, 0, 1, 1, 2, 2, 4, 4]  # not where the particle was lost
    at = points[(points[:, 0] == 2) & (options["features"]["site"] == 1)][0, 1:]
    assert at == pytest.approx([5 + 1.0 - 2 * np.sin(0.2), 5 + 2 * np.cos(0.2)])
    assert layers["events"][0].tolist() == [pytest.approx([2.0, *at])]
    assert layers["events"][1]["border_color"] == ["orange"]
    # sites of find_sites have a rotation of their own, that of their lattice
    turned = by_name(view_layers(movie=lazy(), sites=sites.assign(rotation=1.0), drift=drift()))["sites"]
    np.testing.assert_array_equal(turned[0], points)
    assert set(turned[1]["features"]["site_rotation"]) == {1.0}
    still = by_name(view_layers(movie=lazy(), sites=sites, events=events))
    assert still["sites (reference)"][0].tolist() == [[5.0, 5.0], [5.0, 7.0]]


def test_without_calibration_and_without_images() -> None:
    _, options, _ = view_layers(movie=lazy(pixel_size=None))[0]
    assert options["scale"] == (1.0, 1.0, 1.0)
    assert options["units"] == ("pixel", "pixel", "pixel")
    points = by_name(view_layers(columns=table()))["columns"][0]
    assert points[:, 0].tolist() == [0.0, 1.0, 4.0]


@pytest.mark.parametrize(("objects", "message"), [
    ({}, "nothing to show"),
    ({"movie": np.zeros((2, 3, 4))}, "DataArrays"),
    ({"movie": lazy(), "labels": lazy(4)}, "same frames"),
    ({"movie": lazy(), "labels": lazy(pixel_size=None)}, "all or none"),
    ({"movie": lazy(), "probability": lazy()}, "class"),
    ({"columns": pd.DataFrame({"frame": [0]})}, "with y and x"),
])
def test_what_cannot_be_shown(objects: dict, message: str) -> None:
    with pytest.raises(InputError, match=message):
        view_layers(**objects)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("view")
    write_movie(folder / "movie.zarr", movie(4))
    run_campaign({"source": str(folder / "movie.zarr"), "out": str(folder / "out"), "model": save_dark_model(folder),
                  "min_area": 50.0})
    return folder / "out"


def test_a_folder_of_results(results: Path) -> None:
    with dask.config.set(scheduler=refuse):
        layers = by_name(view_layers(results))
    assert list(layers) == ["movie", "probability particle", "particle labels", "particles", "particle tracks"]
    assert layers["movie"][1]["scale"] == (1.0, PIXEL, PIXEL)
    labels = layers["particle labels"][0].compute()
    points, options, _ = layers["particles"]
    i = np.rint(points / layers["movie"][1]["scale"]).astype(int)
    assert (labels[tuple(i.T)] == options["features"]["particle"]).all()  # each centroid lies in its particle
    table(range(4)).to_parquet(results / "columns.parquet")
    assert {"columns", "column tracks"} <= set(by_name(view_layers(results)))
    (results / "columns.parquet").unlink()


def test_napari_takes_the_layers(results: Path) -> None:
    components = pytest.importorskip("napari.components", reason="the extra viewer is not installed")
    viewer = components.ViewerModel()
    sites = pd.DataFrame({"site": [0, 1], "epoch": 0, "y": [5.0, 5.0], "x": [5.0, 7.0]})
    events = pd.DataFrame({"frame": [2, 3], "kind": ["hop", "appear"], "y": [5.0, 5.0], "x": [7.0, 7.0]})
    layers = view_layers(results, columns=table(), sites=sites, events=events, drift=drift())
    for data, options, kind in layers:
        getattr(viewer, f"add_{kind}")(data, **options)
    assert len(viewer.layers) == len(layers) == 9
    viewer.dims.set_point(0, 2)
    points = viewer.layers["particles"]
    image = viewer.layers["movie"]
    for row in points.data[points.data[:, 0] == 2]:
        inside = image.world_to_data(points.data_to_world(row))
        assert inside == pytest.approx([2, row[1] / PIXEL, row[2] / PIXEL])
    assert viewer.dims.range[0].stop == 3


def test_the_command(results: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    added = []

    class Viewer:
        def __init__(self, title: str) -> None:
            self.title, self.dims = title, SimpleNamespace()

        def __getattr__(self, name: str) -> Any:
            return lambda data, **options: added.append((name, options["name"]))

    monkeypatch.setitem(sys.modules, "napari", SimpleNamespace(Viewer=Viewer, run=lambda: added.append("run")))
    monkeypatch.setattr("hrtem_dask.cli_view.find_spec", lambda name: True)
    done = CliRunner().invoke(main, ["view", str(results)])
    assert done.exit_code == 0, done.output
    assert added[0] == ("add_image", "movie")
    assert added[-1] == "run"


@pytest.mark.parametrize("found", [None, True])
def test_the_command_without_napari(results: Path, monkeypatch: pytest.MonkeyPatch, found: Any) -> None:
    monkeypatch.setitem(sys.modules, "napari", None)
    monkeypatch.setattr("hrtem_dask.cli_view.find_spec", lambda name: found)  # found, but it cannot be loaded
    done = CliRunner().invoke(main, ["view", str(results)])
    assert done.exit_code == 2
    assert "pip install 'hrtem-dask[viewer]'" in " ".join(done.output.split())


def test_the_command_without_a_movie(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hrtem_dask.cli_view.find_spec", lambda name: True)
    done = CliRunner().invoke(main, ["view", "no/such/movie.zarr"])
    assert done.exit_code == 4
    assert "no/such/movie.zarr" in done.output
