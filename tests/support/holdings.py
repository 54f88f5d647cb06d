"""What a running gateway holds of its machine, counted before and after: nothing may be left over from any client."""

from __future__ import annotations

import os
import re
import urllib.request
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

from tests.support.installed import DEADLINE_SECONDS, InstalledGateway, until
from tests.support.server import Server

_TASKS = re.compile(r"^homeport_event_loop_tasks (\d+)", re.MULTILINE)


@dataclass(frozen=True)
class Holdings:
    """Counted while nobody is logged in and a keeper is up."""

    descriptors: Counter[str]
    keeper_descriptors: Counter[str]
    children: int
    listening: int
    tasks: int

    @classmethod
    def of(cls, server: Server) -> Holdings:
        """After a login of each kind, so that what is made once and kept (a connection pool, a keeper) is there."""
        gateway = server.gateway
        assert gateway is not None
        shell = server.ssh("-tt", "--", "true")
        assert shell.returncode == 0, (shell.stderr, gateway.log.failures())
        assert server.run(["sftp", *server.ssh_options, "-b", "/dev/null", "server"]).returncode == 0
        # The first backup leaves a descriptor for good: SQLite cannot close a file on which it holds locks elsewhere.
        gateway.homeport("backup", "now")
        gateway.until_no_live_row()
        until(lambda: _open_connections(gateway) == 0, "every connection ended")
        return cls._now(gateway)

    @classmethod
    def _now(cls, gateway: InstalledGateway) -> Holdings:
        assert gateway.process is not None
        pid = gateway.process.pid
        return cls(
            descriptors=_descriptors(pid),
            keeper_descriptors=sum((_descriptors(keeper) for keeper in gateway.keeper_pids()), Counter()),
            # Of every thread: keepers are started in one of the pool's.
            children=sum(len(path.read_text().split()) for path in Path(f"/proc/{pid}/task").glob("*/children")),
            listening=_listening(pid),
            tasks=int(_scrape(gateway, _TASKS)),
        )

    def expect_no_more(self, server: Server) -> None:
        """Wait until the gateway holds no more than this; after the last client everything must have gone soon."""
        gateway = server.gateway
        assert gateway is not None
        Holdings.of(server)  # the keeper may have ended in between, for want of work
        until(
            lambda: not self._surplus(Holdings._now(gateway)),
            f"no more than {self}: {self._surplus(Holdings._now(gateway))}",
        )

    def _surplus(self, now: Holdings) -> dict[str, object]:
        counted = {
            "descriptors": now.descriptors - self.descriptors,
            "keeper_descriptors": now.keeper_descriptors - self.keeper_descriptors,
            "children": now.children - self.children,
            "listening": now.listening - self.listening,
            "tasks": now.tasks - self.tasks,
        }
        return {name: more for name, more in counted.items() if (more if isinstance(more, Counter) else more > 0)}


def _descriptors(pid: int) -> Counter[str]:
    """By kind: `socket`, `pipe`, `anon_inode`, or the path (the memory of recordings and the like by its name)."""
    found: Counter[str] = Counter()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            target = os.readlink(f"/proc/{pid}/fd/{fd}")
        except FileNotFoundError:
            continue
        # Its own entry among the gateways is named after the process, which is another one after a restart.
        found[target.partition(":")[0].removesuffix(f"/{pid}")] += 1
    return found


def _listening(pid: int) -> int:
    """Sockets of a process that accept connections, of every family (proc(5): state 0A; flag __SO_ACCEPTCON)."""
    held = set()
    for fd in os.listdir(f"/proc/{pid}/fd"):
        try:
            held.add(os.readlink(f"/proc/{pid}/fd/{fd}"))
        except FileNotFoundError:
            continue
    inodes = []
    for table in ("tcp", "tcp6"):
        rows = [line.split() for line in Path(f"/proc/{pid}/net/{table}").read_text().splitlines()[1:]]
        inodes += [row[9] for row in rows if row[3] == "0A"]
    rows = [line.split() for line in Path(f"/proc/{pid}/net/unix").read_text().splitlines()[1:]]
    inodes += [row[6] for row in rows if int(row[3], 16) & 0x10000]
    return sum(f"socket:[{inode}]" in held for inode in inodes)


def _open_connections(gateway: InstalledGateway) -> int:
    return int(_scrape(gateway, re.compile(r"^homeport_connections_open (\d+)", re.MULTILINE)))


def _scrape(gateway: InstalledGateway, figure: re.Pattern[str]) -> float:
    with urllib.request.urlopen(f"http://127.0.0.1:{gateway.http_port}/metrics", timeout=DEADLINE_SECONDS) as answer:
        found = figure.search(answer.read().decode())
    assert found is not None, f"/metrics has no {figure.pattern}"
    return float(found[1])
