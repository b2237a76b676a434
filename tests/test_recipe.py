"""Recipes: units, what they refuse and how they say it, fitted MTFs, descriptions."""

from __future__ import annotations

import json

import pytest
import yaml
from click.testing import CliRunner
from hypothesis import given
from hypothesis import strategies as st

from hrtem_dask.cli import main
from hrtem_dask.cli_train import progress
from hrtem_dask.cli_train import simulate as simulate_command
from hrtem_dask.core.errors import InputError, MissingInputError
from hrtem_dask.detector import MTF
from hrtem_dask.simulate.keys import Span, in_units
from hrtem_dask.simulate.lattices import parse_zone_axis
from hrtem_dask.simulate.matter import words
from hrtem_dask.simulate.recipe import SECTIONS, _Loader, crystals_of, describe_recipe, load_recipe, shipped_recipes


def recipe(**sections):
    return load_recipe({"name": "a", **sections})


@pytest.mark.parametrize(("value", "units", "expected"), [
    ("30 nm", "angstrom", 300), ("30 Å", "angstrom", 30), ("-2.5e1 angstrom", "angstrom", -25),
    ("1e3", "angstrom", 1e3),
    ("5 um", "millimetre", 0.005), ("200 keV", "kV", 200), ("80000 V", "kV", 80), ("0.5 mrad", "milliradian", 0.5),
    ("1e-4 rad", "milliradian", 0.1), ("7 1/nm", "1/angstrom", 0.7), ("7 nm^-1", "1/angstrom", 0.7),
    ("100 e/nm^2", "electrons/angstrom^2", 1), ("20 e/Å²", "electrons/angstrom^2", 20), ("5 %", "1", 0.05),
    ("60 degree", "degree", 60), ("0.3 nyquist", "nyquist", 0.3),
])
def test_units_are_converted(value, units, expected):
    assert in_units(value, units, "here") == pytest.approx(expected)


@pytest.mark.parametrize(("value", "units"), [
    ("3 s", "angstrom"), ("3 1/nm", "angstrom"), ("3 nm", "1/angstrom"), ("3 e/nm", "electrons/angstrom^2"),
    ("3 nm", "kV"), ("3 mm", "1"), ("3 furlongs", "millimetre"), ("3 nm^2", "angstrom"),
])
def test_units_that_do_not_fit_are_refused(value, units):
    with pytest.raises(InputError, match="whose unit"):
        in_units(value, units, "here")


@given(st.floats(-1e6, 1e6))
def test_a_number_is_itself_in_its_own_unit(x):
    assert in_units(x, "angstrom", "here") == x
    assert in_units(f"{x!r} angstrom", "angstrom", "here") == pytest.approx(x)


@pytest.mark.parametrize(("sections", "message"), [
    ({"imaging": {"defocus": ["10 s", "20 s"]}}, r"imaging.defocus is '10 s', whose unit 's'.*\[angstrom\]"),
    ({"field": {"energy": "300 nm"}}, r"field.energy is '300 nm'"),
    ({"imaging": {"dose": [200, 20]}}, "empty range"),
    ({"imaging": {"dose": [20, float("nan")]}}, "low not above high"),
    ({"imaging": {"series": 2.5}}, "whole number"),
    ({"imaging": {"series": 0}}, "whole number from 1"),
    ({"imaging": {"mtf": 3}}, "imaging.mtf is 3"),
    ({"imaging": {"como": [0, 1]}}, "did you mean 'coma'"),
    ({"sheet": {"material": "MoS3"}}, "did you mean 'MoS2'"),
    ({"field": {"box": 60}}, r"largest particle is 97.9796 angstrom.*field of 60"),
    ({"imaging": {"pixel_size": [0.5, 1.1]}}, r"imaging.pixel_size reaches 1.1.*Au: d = 2.040 angstrom. Expected less "
                                             r"than 1.020"),
    ({"imaging": {"pixel_size": [0.5, 1.2]}}, r"Au: d = 2.356, 2.040 angstrom"),
    ({"field": {"wave_sampling": 0.75}}, r"field.wave_sampling reaches 0.75.*keeps 2/3.*d = 2.25.*Au: d = 2.040"),
    ({"field": {"stored_sampling": 1.1}}, r"field.stored_sampling reaches 1.1.*d = 2.2 .*2.040"),
    ({"support": {"kind": "CeO2"}, "particles": {"number": [0, 0]}, "imaging": {"pixel_size": [0.5, 1.4]}},
     r"CeO2: d = 2.70"),
    ({"sheet": {"material": "MoS2"}, "particles": {"empty_fraction": 1}, "imaging": {"pixel_size": [0.1, 0.8]}},
     r"MoS2 sheet: d = 1.580"),
])
def test_what_is_wrong_is_said(sections, message):
    with pytest.raises(InputError, match=message):
        recipe(**sections)


@pytest.mark.parametrize(("sections", "message"), [
    ({"field": []}, r"field is \[\]; expected keys such as \['box'.*or no line 'field' at all"),
    ({"film": 0}, "film is 0; expected keys"),
    ({"imaging": False}, "imaging is False; expected keys"),
    ({"film": "none"}, "film is 'none'; expected keys"),
    ({"particles": {"number": [1.5, 3]}}, r"particles.number is \[1.5, 3\]; expected whole numbers, such as \[1, 4\]"),
    ({"particles": {"steps": {"low": 0, "high": 0.5}}}, "particles.steps is .* expected whole numbers"),
    ({"support": {"grains": [1, 2.5]}}, "support.grains .* expected whole numbers"),
    ({"imaging": {"hot_pixels": 0.5}}, "imaging.hot_pixels .* expected whole numbers"),
    ({"particles": {"zone_axis": 1}}, r"particles.zone_axis: .*'1'.* leading zeros .*three digits in quotes"),
    ({"particles": {"zone_axis": [1, 1]}}, "particles.zone_axis: .*three digits in quotes"),
    ({"support": {"zone_axis": 1.1}}, "support.zone_axis is 1.1; expected a text in quotes"),
    ({"support": {"kind": None}}, "support.kind is None; YAML reads .* an empty value as no text"),
    ({"particles": {"species": False}}, "particles.species is False; YAML reads no"),
    ({"support": {"kind": "ceo2"}}, "did you mean 'CeO2'"),
    ({"particles": {"species": "au"}}, "did you mean 'Au'"),
    ({"film": {"thickness": "20-30"}}, r"film.thickness is '20-30'.*or two of them as \[low, high\]"),
    ({"film": {"thickness": [10, 20, 30]}}, r"expected \[low, high\] within 1 to 2000 \[angstrom\].*or one number"),
    ({"film": {"thickness": True}}, "film.thickness is True"),
])
def test_what_looks_right_and_is_not_is_said_too(sections, message):
    with pytest.raises(InputError, match=message):
        recipe(**sections)


@pytest.mark.parametrize(("written", "read"), [
    ("110", "110"), ("[1, 1, 0]", "110"), ("[1, -1, 0]", "1-10"), ("[110, 100]", "110, 100"), ("-110", "-110"),
    ("[[1, 1, 0], any]", "110, any"), ("<110>", "<110>"), ("[110, any]", "110, any")])
def test_zone_axes_need_no_quotes_where_nothing_is_lost(tmp_path, written, read):
    file = tmp_path / "axes.yaml"
    file.write_text(f"name: axes\nparticles: {{zone_axis: {written}, species: [Au, Pt]}}\n"
                    f"support: {{kind: [CeO2, none], zone_axis: {written}}}\n")
    loaded = load_recipe(file)
    assert (loaded.particles.zone_axis, loaded.support.zone_axis) == (read, read)
    assert (loaded.particles.species, loaded.support.kind) == ("Au, Pt", "CeO2, none")
    assert all(parse_zone_axis(axis) in (None, (1, 1, 0), (1, -1, 0), (1, 0, 0), (-1, 1, 0)) for axis in words(read))


def test_one_number_is_a_range_of_one_and_an_empty_section_its_defaults(tmp_path):
    (tmp_path / "a.yaml").write_text("name: a\nfilm:\nparticles: {number: 3, diameter: 2 nm}\n"
                                     "imaging: {dose: 2000 e/nm2}\n")
    loaded = load_recipe(tmp_path / "a.yaml")
    assert loaded.film == load_recipe({"name": "a"}).film
    assert (loaded.particles.number.low, loaded.particles.number.high) == (3, 3)
    assert (loaded.particles.diameter.low, loaded.particles.diameter.high) == (20, 20)
    assert loaded.imaging.dose.high == pytest.approx(20)


@pytest.mark.parametrize(("text", "message"), [
    (b"name: a\nfilm: {density: 0.09}\nfilm: {density: 0.05}\n", "'film' stands there twice"),
    (b"name: a\nfilm: {density: 0.09, density: 0.05}\n", "'density' stands there twice"),
    (b"\xff\xfe\x80", "not valid YAML"), (b"name: a\nfilm:\n\tdensity: 1\n", "not valid YAML"),
    (b"", "holds nothing"), (b"- a\n", "holds list"), (b"film: {}\n", "name is None")])
def test_files_that_are_no_recipes(tmp_path, text, message):
    (tmp_path / "bad.yaml").write_bytes(text)
    said = CliRunner().invoke(main, ["simulate", str(tmp_path / "bad.yaml"), "--describe"])
    assert said.exit_code == 4
    assert message in " ".join(said.output.split())


def test_yaml_merges_keys_and_still_refuses_what_stands_there_twice(tmp_path):
    """A key of its own wins over a merged one, of several merged ones the first; in whatever order they are made."""
    file = tmp_path / "a.yaml"
    file.write_text("name: a\nfilm: {<<: [{density: 0.09}, {density: 0.08, thickness: 20}], absent_fraction: 0.5}\n"
                    "particles: &p {<<: &q {number: 3, diameter: 20}, diameter: 30}\n")
    loaded = load_recipe(file)
    assert (loaded.film.density, loaded.film.thickness.high, loaded.film.absent_fraction) == (0.09, 20, 0.5)
    assert (loaded.particles.number.high, loaded.particles.diameter.high) == (3, 30)
    text = "top: {deep: &b {<<: &a {x: 1}, x: 2}}\nlater: {<<: *b, y: 3}\n"  # `later` is made before `deep` is
    assert yaml.load(text, _Loader) == {"top": {"deep": {"x": 2}}, "later": {"x": 2, "y": 3}}
    for twice in ("a: &a {x: 1}\nb: {<<: *a, <<: *a}", "a: {<<: {x: 1, x: 2}}", "a: {<<: {z: 1}, x: 1, x: 2}"):
        with pytest.raises(yaml.YAMLError, match="stands there twice"):
            yaml.load(twice, _Loader)


def test_images_without_a_lattice_may_be_coarse():
    coarse = {"pixel_size": [0.5, 1.5]}
    assert recipe(imaging=coarse | {"resolve": 0}).imaging.pixel_size.high == 1.5
    assert recipe(imaging={"pixel_size": [0.5, 1.1], "resolve": 1}).imaging.resolve == 1
    with pytest.raises(InputError, match=r"2\.356"):
        recipe(imaging={"pixel_size": [0.5, 1.2], "resolve": 1})
    no_crystal = recipe(particles={"number": [0, 0]}, imaging=coarse)
    assert crystals_of(no_crystal) == {}


def test_shipped_recipes_hold_their_lattices_and_are_described():
    assert {"au-particles", "au-columns", "mos2-columns"} <= set(shipped_recipes())
    for name in shipped_recipes():
        loaded = load_recipe(name)
        assert all(s[0] > 2 * loaded.imaging.pixel_size.high for s in crystals_of(loaded).values())
        assert load_recipe(json.loads(json.dumps(loaded.to_dict()))) == loaded
        text = describe_recipe(loaded)
        for section, kind in SECTIONS.items():
            for key in kind.__dataclass_fields__:
                (line,) = [x for x in text.splitlines() if x.startswith(f"{section}.{key} ")]
                about = kind.__dataclass_fields__[key].metadata["about"]
                assert about, f"{section}.{key} is not explained"
                assert line.endswith(about)


def test_a_fitted_mtf_travels_with_the_recipe(tmp_path):
    fitted = MTF(scale=0.37, power=2.2, floor=0.03)
    fitted.to_json(tmp_path / "mtf.json")
    (tmp_path / "mine.yaml").write_text("name: mine\nimaging: {mtf: mtf.json}\n")
    loaded = load_recipe(tmp_path / "mine.yaml")
    (tmp_path / "mtf.json").unlink()
    assert MTF.from_json(loaded.imaging.mtf)(0.6) == pytest.approx(fitted(0.6))
    assert load_recipe(loaded.to_dict()) == loaded
    assert loaded.digest != load_recipe({"name": "mine"}).digest
    assert loaded.wave_digest == load_recipe({"name": "mine"}).wave_digest
    with pytest.raises(MissingInputError, match=r"mtf\.json"):
        load_recipe(tmp_path / "mine.yaml")
    (tmp_path / "mtf.json").write_text("{}")
    with pytest.raises(InputError, match="format"):
        load_recipe(tmp_path / "mine.yaml")


def test_command_describes_and_asks_for_what_is_missing():
    run = CliRunner()
    said = run.invoke(simulate_command, ["mos2-columns", "--describe"], catch_exceptions=False)
    assert said.exit_code == 0
    assert "imaging.defocus" in said.output
    assert "underfocus" in said.output
    missing = run.invoke(simulate_command, ["au-particles", "--n", "3"])
    assert missing.exit_code == 2
    assert "missing --out, --seed" in missing.output


def test_progress_is_a_bar_on_a_terminal_and_lines_elsewhere(capsys, monkeypatch):
    show = progress("structures", "are there already")
    for done in (3, 4, 10):
        show(done, 10)
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "3 of 10 structures are there already"
    assert lines[-1].startswith("10 of 10 structures, ")
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    show = progress("structures")
    show(5, 10)
    show(10, 10)
    said = capsys.readouterr()
    assert said.out == ""
    assert f"[{'#' * 15}{'.' * 15}] 5 of 10 structures" in said.err
    assert said.err.endswith("\n")


def test_ranges_are_drawn_within_their_ends(rng):
    for span in (Span(3, 7), Span(3, 7, "log"), Span(2, 2)):
        drawn = [span.draw(rng) for _ in range(200)]
        assert span.low <= min(drawn) <= max(drawn) <= span.high + 1e-12
    assert {Span(1, 3).draw_integer(rng) for _ in range(60)} == {1, 2, 3}
