"""Imports point one way: core ← edges ← wiring; every outside library has one home (ARCHITECTURE.md)."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
EDGES = {"ssh", "launchers", "recording", "workspaces", "store", "lobby", "upkeep", "keeper"}
# Knows all parts and is known by none of them.
WIRING = {"api", "app", "cli", "direct", "doors", "check", "replacement", "services", "trial", "__main__"}
NOT_CORE = WIRING | {"__init__"}
# Who may import what; a name that is missing here is nobody's.
LIBRARIES = {
    "asyncssh": {"gateway/ssh"},
    "tortoise": {"gateway/store", "models", "migrations"},
    "aerich": {"gateway/store", "models", "migrations"},
    "aiosqlite": {"gateway/store"},
    "models": {"gateway/store", "models", "migrations"},
    "migrations": {"gateway/store"},
    "aiohttp": {"admin_http", "gateway/workspaces/github.py"},
    "multidict": {"admin_http"},
    "admin_http": {"gateway/api.py", "gateway/doors.py", "admin_http"},
    "prometheus_client": {"admin_http", "gateway/upkeep"},
    "aiocron": {"gateway/upkeep"},
    "cronsim": {"gateway/upkeep", "gateway/config.py"},
    "psutil": {"gateway/upkeep"},
    "zstandard": {"gateway/recording", "gateway/workspaces/archive_file.py"},
    "pyghostty": {"gateway/recording/screen/ghostty.py"},
    "cryptography": {"gateway/ssh", "gateway/caller_keys.py", "gateway/github/vault.py"},
    "pydantic": {"gateway/config.py", "admin_http"},
    "pydantic_core": {"admin_http"},
    "rich": {"gateway/lobby/painting.py"},
    "prompt_toolkit": {"gateway/lobby/picker.py"},
}
# What an edge may need of another edge's: only values, never behaviour, and only with a reason.
BETWEEN_EDGES: set[tuple[str, str]] = {
    ("launchers", "gateway.keeper"),  # where the folder lies that is bound into a workspace
    ("launchers", "gateway.keeper.protocol"),  # the two ends of one conversation share its words
    ("recording", "gateway.keeper.seccomp"),  # one way to make a system call filter; it knows nothing of keepers
}


def modules() -> list[Path]:
    found = [path for top in ("gateway", "models", "migrations", "admin_http") for path in (ROOT / top).rglob("*.py")]
    return sorted(path.relative_to(ROOT) for path in found)


def imported_by(path: Path) -> Iterator[str]:
    """Full names of every module that the file imports, also inside functions and for types only."""
    for node in ast.walk(ast.parse((ROOT / path).read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = node.module or ""
            if node.level:
                package = ".".join(path.parent.parts[: len(path.parent.parts) - node.level + 1])
                base = f"{package}.{base}".rstrip(".")
            # `from gateway import state` names a module as well.
            yield from sorted({_module(base, alias.name) for alias in node.names})


def _module(base: str, name: str) -> str:
    path = ROOT / base.replace(".", "/")
    return f"{base}.{name}" if (path / f"{name}.py").exists() or (path / name).is_dir() else base


def edge_of(name: str) -> str | None:
    parts = name.split(".")
    return parts[1] if len(parts) > 1 and parts[0] == "gateway" and parts[1] in EDGES else None


def is_at(path: Path, places: set[str]) -> bool:
    return any(path == Path(place) or Path(place) in path.parents for place in places)


@pytest.mark.parametrize("path", modules(), ids=str)
def test_libraries_are_imported_only_where_they_live(path: Path) -> None:
    for name in imported_by(path):
        top = name.split(".")[0]
        if top not in sys.stdlib_module_names and top != "gateway":
            assert top in LIBRARIES, f"{path} imports {name}, which has no home in LIBRARIES"
            assert is_at(path, LIBRARIES[top]), f"{path} imports {name}; only {sorted(LIBRARIES[top])} may"


@pytest.mark.parametrize("path", [path for path in modules() if path.parts[0] == "gateway"], ids=str)
def test_imports_point_from_the_wiring_to_the_edges_to_the_core(path: Path) -> None:
    own_edge = path.parts[1] if path.parts[1] in EDGES else None
    is_wiring = own_edge is None and path.stem in WIRING
    for name in imported_by(path):
        parts = name.split(".")
        if is_wiring or parts[0] != "gateway" or len(parts) < 2:
            continue
        assert parts[1] not in WIRING, f"{path} imports {name}, which only the wiring may"
        edge = edge_of(name)
        if edge is not None and edge != own_edge:
            where = "the core" if own_edge is None else f"the edge {own_edge}"
            allowed = any(own_edge == who and name == what for who, what in BETWEEN_EDGES)
            assert allowed, f"{path} is in {where} and imports {name}"


@pytest.mark.parametrize("path", [path for path in modules() if path.parts[:2] == ("gateway", "keeper")], ids=str)
def test_the_keeper_imports_the_standard_library_and_itself(path: Path) -> None:
    """It runs inside the workspace, where nothing else of ours is."""
    for name in imported_by(path):
        top = name.split(".")[0]
        assert (
            top in sys.stdlib_module_names
            or name.startswith("gateway.keeper")
            or top in {sibling.stem for sibling in (ROOT / path).parent.glob("*.py")}
        ), f"{path} imports {name}"


@pytest.mark.parametrize("library", ["asyncssh", "tortoise", "aiohttp"])
def test_the_core_loads_without_the_edges_libraries(library: str) -> None:
    core = [path for path in modules() if path.parts[0] == "gateway" and path.parts[1] not in EDGES]
    names = ", ".join(sorted(".".join(path.with_suffix("").parts) for path in core if path.stem not in NOT_CORE))
    code = f"import sys; import {names}; assert {library!r} not in sys.modules"
    subprocess.run([sys.executable, "-c", code], check=True, cwd=ROOT)


def test_the_rules_name_only_what_exists() -> None:
    for place in {place for places in LIBRARIES.values() for place in places} | {f"gateway/{edge}" for edge in EDGES}:
        assert (ROOT / place).exists(), place
