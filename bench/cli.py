"""`bench/compare`: arguments, the order of things, and the end of everything that was started."""

from __future__ import annotations

import argparse
import json
import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from bench.measures import FULL, MEASURES, QUICK, Bench, Measure
from bench.processes import BenchError, Processes
from bench.report import RowResult, as_table
from bench.servers import Gateway, Server, Sshd, find_sshd
from bench.stock import CIPHER, KEY_EXCHANGE, StockClients

# Estimates are high: memory is measured in the first round alone.
FULL_SECONDS, QUICK_SECONDS = 280, 70
# Beyond its time a run does not begin another round; this much later it is broken off.
GRACE_SECONDS = 60


@dataclass(frozen=True, slots=True)
class Plan:
    measures: tuple[Measure, ...]
    rounds: int
    seconds_max: float


def main(arguments: Sequence[str] | None = None) -> int:
    given = _parse(arguments)
    chosen = tuple(measure for measure in MEASURES if not given.only or measure.name in given.only)
    plan = Plan(chosen, given.rounds or (2 if given.quick else 5), QUICK_SECONDS if given.quick else FULL_SECONDS)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGALRM):
        signal.signal(number, _interrupted)
    signal.alarm(int(plan.seconds_max + GRACE_SECONDS))
    try:
        return _compare(given, plan)
    except BenchError as error:
        print(f"homeport: bench: {error}", file=sys.stderr)
        return 1
    except Interrupted as interruption:
        print(f"homeport: bench: {interruption}; everything it had started is ended", file=sys.stderr)
        return 130


class Interrupted(BaseException):
    """Not an Exception: no measurement that failed may swallow it."""


def _interrupted(number: int, _frame: object) -> None:
    signal.signal(number, signal.SIG_IGN)  # once is enough: what is being ended shall end
    why = "took far too long" if number == signal.SIGALRM else f"stopped by {signal.Signals(number).name}"
    raise Interrupted(why)


def _parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="bench/compare",
        description="Measures the gateway beside sshd, in alternation, on loopback. docs/performance.md explains it.",
        epilog="Exit status: 0 measured, 1 something could not be measured, 3 a floor was missed (with --strict).",
    )
    parser.add_argument("--quick", action="store_true", help="less of everything: under a minute")
    parser.add_argument("--rounds", type=int, metavar="N", help="rounds (5; quick: 2); medians are taken over all")
    parser.add_argument("--only", action="append", metavar="NAME", choices=[measure.name for measure in MEASURES],
                        help="only this measure (may be repeated): " + ", ".join(m.name for m in MEASURES))  # fmt: skip
    parser.add_argument("--isolation", default="auto", choices=["auto", "bubblewrap", "none"], help="of the gateway")
    parser.add_argument("--json", action="store_true", help="print one JSON document with every sample")
    parser.add_argument("--strict", action="store_true", help="a missed floor is exit status 3")
    return parser.parse_args(arguments)


def _compare(given: argparse.Namespace, plan: Plan) -> int:
    find_sshd()
    processes = Processes()
    directory = Path(tempfile.mkdtemp(prefix="homeport-bench-"))
    gateway = None
    try:
        directory.chmod(0o755)  # the account that the sessions run as must get through
        key_file = _make_key(directory / "key")
        gateway = Gateway(processes, directory, key_file=key_file, isolation=given.isolation)
        sshd, notes = _prepare(processes, directory, gateway)
        servers: list[Server] = [sshd, gateway]
        bench = Bench(processes, StockClients(processes, directory), QUICK if given.quick else FULL)
        results = _measure(bench, servers, plan, notes)
    finally:
        processes.end_all()
        if gateway is not None:
            gateway.remove()
        shutil.rmtree(directory, ignore_errors=True)
    if given.json:
        print(json.dumps({"setup": notes, "rows": [result.as_json() for result in results]}, indent=1))
    else:
        print("\n".join([*notes, "", as_table(results)]))
    if any(result.failures for result in results):
        return 1
    return 3 if given.strict and any(result.is_met is False for result in results) else 0


def _prepare(processes: Processes, directory: Path, gateway: Gateway) -> tuple[Sshd, list[str]]:
    """Start both for the first time, and say what is compared."""
    _say("starting the gateway and sshd")
    gateway.prepare()
    account = gateway.owner()
    host_key = _make_key(directory / "host_key")
    sshd = Sshd(processes, directory, key_file=gateway.login.key_file, host_key=host_key, account=account)
    sshd.start()
    notes = [
        f"{_sshd_version(sshd.program)} · homeport {version('homeport')}, asyncssh {version('asyncssh')},"
        f" Python {platform.python_version()} · Linux {platform.release()}, {os.cpu_count()} processors",
        f"both: loopback, {CIPHER}, {KEY_EXCHANGE}, ed25519 keys; sessions as {account.pw_name}"
        f" · isolation {gateway.isolation_in_effect()}",
        "ratio: above 1 the gateway is better; in brackets its spread over the rounds",
    ]
    return sshd, notes + ([sshd.note] if sshd.note else [])


def _measure(bench: Bench, servers: Sequence[Server], plan: Plan, notes: list[str]) -> list[RowResult]:
    """All rounds. The order turns round each time, so that neither server always comes second."""
    results = {row.key: RowResult(row) for measure in plan.measures for row in measure.rows}
    for server in servers:
        bench.stock.put_text(server, bench.sizes.text_bytes)
    started = time.monotonic()
    for number in range(plan.rounds):
        passed = time.monotonic() - started
        # The next round takes as long as the ones before.
        if number and passed * (number + 1) / number > plan.seconds_max:
            notes.append(f"stopped after {number} of {plan.rounds} rounds: another would pass {plan.seconds_max} s")
            break
        for measure in plan.measures:
            if number >= measure.rounds_max:
                continue
            _say(f"round {number + 1} of {plan.rounds}: {measure.name}")
            for server in servers if number % 2 == 0 else reversed(servers):
                _take(bench, server, measure, results)
    return list(results.values())


def _take(bench: Bench, server: Server, measure: Measure, results: dict[str, RowResult]) -> None:
    """One measure of one server. A failure is noted, and the others go on."""
    try:
        if measure.wants_fresh:
            server.stop()
        else:
            server.start()
        for key, samples in measure.take(bench, server).items():
            results[key].rounds[server.name].append(samples)
    except (BenchError, OSError, ValueError) as error:
        for row in measure.rows:
            results[row.key].failures[server.name] = str(error)


def _make_key(path: Path) -> Path:
    key = Ed25519PrivateKey.generate()
    path.touch(mode=0o600)
    path.write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    public = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
    path.with_name(path.name + ".pub").write_bytes(public + b" bench\n")
    return path


def _sshd_version(program: str) -> str:
    """`sshd -V` is new; older ones print their version when they meet an unknown option. Both write to stderr."""
    done = subprocess.run([program, "-V"], capture_output=True, timeout=10, check=False)
    words = done.stderr.decode(errors="replace").split(",")[0].splitlines()
    return next((line for line in words if line.startswith("OpenSSH")), "OpenSSH")


def _say(line: str) -> None:
    print(f"homeport: bench: {line}", file=sys.stderr, flush=True)
