"""The rules of the house: what importing loads, which way imports run, how long modules get."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import hrtem_dask

PACKAGE = Path(hrtem_dask.__file__).parent
MODULES = sorted(PACKAGE.rglob("*.py"))
#: the floors of the house; a module may import from its own floor and from those before it
FLOORS = (("core",), ("kernels",), ("detector", "io", "networks", "simulate"), ("analysis",), ("cluster", "campaign"),
          ("report",), ("cli",))


def floor_of(parts: tuple[str, ...]) -> int | None:
    """Which floor a module of the package lies on; None for the package's own __init__."""
    room = parts[0] if parts else ""
    return next((n for n, rooms in enumerate(FLOORS)
                 if any(room == r or room.startswith(f"{r}_") for r in rooms)), None)


def imported_modules(path: Path) -> list[tuple[str, ...]]:
    """Return the package's modules that a file imports anywhere, as parts below the package."""
    here = path.relative_to(PACKAGE).with_suffix("").parts
    found = []
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.level:
            base = here[: len(here) - node.level]
            module = tuple(node.module.split(".")) if node.module else ()
            found += [base + module] if module else [(*base, alias.name) for alias in node.names]
        elif isinstance(node, ast.ImportFrom) and (node.module or "").startswith("hrtem_dask."):
            found.append(tuple(node.module.split(".")[1:]))
        elif isinstance(node, ast.Import):
            found += [tuple(a.name.split(".")[1:]) for a in node.names if a.name.startswith("hrtem_dask.")]
    return found


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_imports_go_down_only(path: Path) -> None:
    here = path.relative_to(PACKAGE).with_suffix("").parts
    mine = floor_of(here)
    if mine is None:
        return
    above = [".".join(m) for m in imported_modules(path) if (floor_of(m) or 0) > mine]
    assert not above, f"{path.name} is on floor {FLOORS[mine]} and imports upward: {above}"


@pytest.mark.parametrize("path", MODULES, ids=lambda p: str(p.relative_to(PACKAGE)))
def test_modules_stay_short(path: Path) -> None:
    lines = len(path.read_text(encoding="utf-8").splitlines())
    assert lines <= 400, f"{path.name} has {lines} lines; split it"


def test_import_is_light() -> None:
    code = (
        "import sys, hrtem_dask, hrtem_dask.networks, hrtem_dask.simulate;"
        "hrtem_dask.open_movie; hrtem_dask.load_model('au-particles');"
        "print([m for m in ('torch', 'abtem', 'cupy', 'numba.cuda', 'dask_cuda', 'rsciio', 'matplotlib')"
        " if m in sys.modules])"
    )
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_every_public_name_resolves() -> None:
    for name in hrtem_dask.__all__:
        assert getattr(hrtem_dask, name) is not None, name


def test_unknown_name_says_what_there_is() -> None:
    with pytest.raises(AttributeError, match="open_movie"):
        hrtem_dask.no_such_name  # noqa: B018


def test_unsafe_ways_are_not_used() -> None:
    """Unaligned writers corrupt shards silently; unpickling weights runs other people's code."""
    banned = ("da.store(", ".to_zarr(", "pickle.load(", "torch.load(")
    for path in MODULES:
        text = path.read_text(encoding="utf-8")
        assert not [b for b in banned if b in text], f"{path.name} uses a banned call"
