"""The benchmarks run, compare like with like, and say what they leave out; no time is asserted."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import numpy as np
import pytest

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from benchmarks import common, gigapixel_tables, graphs, kernel, peers, scaling, start, tiling
from benchmarks.__main__ import main, reports
from hrtem_dask.kernels.msdnet import compiled, reference

there = pytest.mark.skipif(not compiled.instruction_sets(), reason=compiled.why_not() or "built")


def cells(text: str, heading: str) -> list[list[str]]:
    """Rows of the first table below a heading of a Markdown file, its own heading first."""
    lines = text.split(f"## {heading}\n", 1)[1].splitlines()
    start_of = next(i for i, line in enumerate(lines) if line.startswith("|"))
    rows = []
    for line in lines[start_of:]:
        if not line.startswith("|"):
            break
        rows.append([c.strip() for c in line.strip("|").split("|")])
    return rows[:1] + rows[2:]


def spread(text: str) -> tuple[float, float, float]:
    low, median, high = (float(v.replace(",", "")) for v in text.split(" / "))
    assert low <= median <= high
    return low, median, high


@pytest.fixture
def lonely(monkeypatch):
    """A machine without any of the peers except PyTorch."""
    found = peers.find_spec
    monkeypatch.setattr(peers, "find_spec",
                        lambda name: None if name in ("onnx", "onnxruntime", "openvino") else found(name))


@there
def test_the_command_writes_one_markdown_file(tmp_path, monkeypatch, lonely):
    monkeypatch.setattr(start, "CASES", dict(list(start.CASES.items())[:1]))
    out = main(["kernel", "graph", "start", "--quick", "--repeats", "2", "--threads", "1",
                "--out", str(tmp_path / "new" / "results.md")])
    text = out.read_text()
    assert "python -m benchmarks kernel graph start --quick" in text
    assert "Quick run" in text
    assert "instruction sets" in text
    assert re.search(r"numpy \d+\.\d+", text)

    head, *rows = cells(text, "kernel")
    ratio, error, form = head.index("compiled is faster by: min / median / max"), head.index("max relative error"), 3
    assert [r[2] for r in rows] == ["hrtem_dask, compiled", "hrtem_dask, torch"] + 2 * ["PyTorch, torch.cat"]
    assert {r[form] for r in rows[2:]} == {"MSDNet.forward", "padded by conv2d"}
    assert rows[0][ratio] == "–"
    assert all(spread(r[ratio])[0] > 0 for r in rows[1:])
    assert all(float(r[error]) < 2e-6 for r in rows)
    for peer in ("onnxruntime", "OpenVINO"):
        assert re.search(rf"^- {peer}.* is left out: .*not installed", text, re.MULTILINE), peer

    head, *rows = cells(text, "graph")
    assert [r[0] for r in rows] == ["1 x 4096 x 4096", "1 x 2048 x 2048", "1 x 1024 x 1024"]
    assert all(spread(r[2])[1] <= spread(r[3])[1] for r in rows)
    # a task for each tile at least
    assert all(float(r[4]) >= float(r[1]) > 1 for r in rows)

    head, *rows = cells(text, "start")
    assert len(rows) == 1
    assert all(spread(v)[0] > 0 for v in rows[0][1:])


def test_unknown_names_are_refused(tmp_path, capsys):
    with pytest.raises(SystemExit):
        main(["kernels", "--out", str(tmp_path / "r.md")])
    assert "kernel, tiling, scaling" in capsys.readouterr().err
    assert not list(tmp_path.iterdir())


def test_the_long_one_is_not_part_of_a_quick_run(tmp_path, monkeypatch):
    seen = []
    monkeypatch.setattr("benchmarks.__main__.reports", lambda names, *_: seen.append(list(names)) or [""])
    main(["--quick", "--out", str(tmp_path / "r.md")])
    main(["--out", str(tmp_path / "r.md")])
    assert "gigapixel" not in seen[0]
    assert "gigapixel" in seen[1]


def test_pairs_are_timed_in_turn():
    calls = []
    pairs = common.paired(lambda: calls.append("a"), lambda: calls.append("b"), 3, least=0)
    assert calls == ["a", "b"] * 3
    assert 0 < pairs.ratio.low <= pairs.ratio.median <= pairs.ratio.high


def test_pairs_count_what_a_call_does(monkeypatch):
    times = iter([8.0, 2.0, 8.0, 6.0])
    monkeypatch.setattr(common, "timed", lambda call, least: next(times))
    pairs = common.paired(lambda: None, lambda: None, 2, per=(4.0, 1.0))
    assert pairs.ratio == common.Spread(1.0, 2.0, 3.0)
    assert pairs.a.median == 2.0
    assert pairs.b.median == 4.0


def test_numbers_read_well():
    assert [common.three_digits(v) for v in (0.0, 3e-7, 0.0123, 1.0, 17.46, 123.4, 45678.0)] == [
        "0", "3.0e-07", "0.0123", "1.00", "17.5", "123", "45,678"]


@pytest.mark.parametrize("form", graphs.FORMS)
@pytest.mark.parametrize("depth", [3, 10, 27])
def test_both_graphs_are_the_network(form, depth):
    onnx = pytest.importorskip("onnx")
    runtime = pytest.importorskip("onnxruntime")
    weights = common.draw(depth)
    content = graphs.onnx_bytes(weights, form)
    onnx.checker.check_model(onnx.load_from_string(content), full_check=True)
    session = runtime.InferenceSession(content, providers=["CPUExecutionProvider"])
    image = np.random.default_rng(0).normal(size=(1, 23, 31)).astype(np.float32)
    found = session.run(None, {"image": image[None]})[0][0]
    expected = reference.evaluate(weights, image)
    assert np.abs(found - expected).max() <= 2e-6 * np.abs(expected).max()


@pytest.mark.parametrize("apart", [False, True])
@pytest.mark.parametrize("peer", peers.PEERS, ids=lambda p: p.name)
def test_every_peer_gives_the_reference_in_every_way(peer, apart):
    if peers.absent(peer):
        pytest.skip(peers.absent(peer))
    weights = common.draw(12)
    images = [np.random.default_rng(i).normal(size=(1, 1, 20, 20)).astype(np.float32) for i in range(2)]
    for form in peer.forms:
        with peer.open(weights, form, (1, 1, 20, 20), 2, apart) as run:
            # what a runtime hands out may be its own buffer
            found = [np.array(o) for o in run(images)] if apart else [np.array(run(i)) for i in images]
        for image, logits in zip(images, found, strict=True):
            expected = reference.evaluate(weights, image[0])
            assert np.abs(logits[0] - expected).max() <= 2e-6 * np.abs(expected).max(), form


@there
def test_a_wrong_answer_is_not_timed(monkeypatch):
    def wrong(*_):
        raise AssertionError("timed")

    monkeypatch.setattr(peers, "best_way", wrong)
    monkeypatch.setattr(kernel, "_answer", lambda *_: np.ones((2, *kernel.CHECKED), np.float32))
    options = common.Options(threads=1, repeats=1, quick=True)
    with pytest.raises(RuntimeError, match="another answer"):
        kernel._setting(common.draw(3), 64, 1, None, [peers.PEERS[0]], options)


def test_the_best_way_is_the_fastest_and_the_search_ends_when_it_is_lost(monkeypatch):
    rates = {128: 5e5, 256: 1e6, 512: 6e5, 1024: 1e7}
    monkeypatch.setattr(peers, "_rate", lambda peer, weights, form, way, threads: rates[way.side])
    best, tried = peers.best_way(peers.PEERS[0], common.draw(3), "", 2, 1024)
    assert best == peers.Way(256, 1)
    assert {w.side for w in tried} == {128, 256, 512}
    assert any(w.apart for w in tried)


def test_what_would_take_too_long_is_not_tried(monkeypatch):
    monkeypatch.setattr(peers, "_rate", lambda peer, weights, form, way, threads: 1024**2 / peers.TOO_LONG)
    _, tried = peers.best_way(peers.PEERS[0], common.draw(3), "", 1, 1024)
    assert {w.side for w in tried} == {128, 256, 512}


def test_the_summary_takes_the_better_runtime_of_each_setting():
    def row(what, form, rate, threads=2):
        ratio = common.Spread(9 / rate, 10 / rate, 11 / rate)
        return kernel.Row(50, threads, what, form, "way", rate, None, None, ratio, 0.0)

    first, second = graphs.FORMS
    lines = kernel._summary([
        row("PyTorch, torch.cat", "MSDNet.forward", 50.0), row("hrtem_dask, compiled", None, 100.0),
        row(peers.RUNTIMES[0], first, 1.0), row(peers.RUNTIMES[1], first, 2.0),
        row(peers.RUNTIMES[0], second, 4.0), row(peers.RUNTIMES[0], first, 8.0, threads=1),
    ])
    assert ["4.50 / 5.00 / 5.50" in lines[0], "2.25 / 2.50 / 2.75" in lines[1]] == [True, True]
    assert "graph as exported" in lines[0]
    assert peers.RUNTIMES[1] in lines[0]
    assert peers.RUNTIMES[0] in lines[1]
    assert all("1 thread" in line for line in lines[2:])


@pytest.mark.parametrize(("tile", "side", "windows"), [(512, 1024, 3), (256, 1024, 7), (1024, 1024, 1), (300, 500, 3)])
def test_the_part_that_a_halo_leaves(tile, side, windows):
    # place windows of this side one after the other, each keeping what is a halo away from its inner sides
    kept, count = 0, 0
    while kept < side:
        first, count = max(0, kept - kernel.HALO), count + 1
        last = first + tile
        kept = side if last >= side else last - kernel.HALO
    assert count == windows
    assert kernel.kept(tile, side) == pytest.approx(min(1.0, side**2 / (windows * tile) ** 2))


def test_tiling_and_scaling_run_small(monkeypatch):
    monkeypatch.setattr(tiling, "CASES", ({"tile": 128, "halo": "exact"}, {"tile": 128, "window": "hamming"}))
    monkeypatch.setattr(scaling, "SCALES", (1.0,))
    *_, text = reports(["tiling", "scaling"], common.Options(threads=1, repeats=1, quick=True), "here")
    head, *rows = cells(text, "tiling")
    assert rows[0][1:3] == ["128", "10"]
    assert rows[0][head.index("evaluations")] == "9"
    tiles = 320 / 128  # halos of 10 pixels inside of the frame, on both sides of two cuts
    assert float(rows[0][head.index("pixels evaluated / pixels of the frame")]) == pytest.approx(
        ((tiles * 128 + 4 * 10) / 320) ** 2, rel=0.01)
    head, *rows = cells(text, "scaling")
    assert rows[0][1] == "1"
    assert spread(rows[0][head.index("`segment` / bare: min / median / max")])[0] > 0


def test_frames_that_the_disk_cannot_hold_are_left_out(monkeypatch):
    monkeypatch.setattr(gigapixel_tables, "SIDES", (10**9,))
    [table] = gigapixel_tables.tables(common.Options(threads=1, repeats=1))
    assert not table.rows
    assert "left out" in table.markdown()
