"""What is measured: one table of measures, each filling one or more rows, and how each is taken."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any

from bench import forward
from bench.processes import LoadProcess, Processes, memory_bytes
from bench.servers import Server
from bench.stock import StockClients

PARALLEL = 8
# Terminals that exist before the slope is taken: the first ones pay for the keeper and for caches.
TERMINALS_BEFORE = 10
SETTLE_SECONDS = 0.5
KIBIBYTE = 1024


@dataclass(frozen=True, slots=True)
class Sizes:
    """How much of everything one round takes."""

    connects: int
    sessions: int
    prompts: int
    keystrokes: int
    text_bytes: int
    stream_bytes: int
    sftp_bytes: int
    rate_seconds: float
    terminals: int
    pause_seconds: float = 0.004  # between keystrokes; a person makes longer ones


FULL = Sizes(connects=6, sessions=60, prompts=12, keystrokes=250, text_bytes=16_000_000, stream_bytes=192_000_000,
             sftp_bytes=64 * 2**20, rate_seconds=2.5, terminals=100)  # fmt: skip
QUICK = Sizes(connects=2, sessions=30, prompts=6, keystrokes=120, text_bytes=8_000_000, stream_bytes=96_000_000,
              sftp_bytes=32 * 2**20, rate_seconds=1.2, terminals=100)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Row:
    """One line of the result. `floor`: the least ratio to sshd, where more than 1 means the gateway is better."""

    key: str
    title: str
    unit: str
    is_higher_better: bool = False
    floor: float | None = None


@dataclass(slots=True)
class Bench:
    """What a measure needs at hand."""

    processes: Processes
    stock: StockClients
    sizes: Sizes

    def load(self, server: Server, operation: str, **given: object) -> LoadProcess:
        return LoadProcess(self.processes, operation, {**server.login.as_load(), **given})

    def answer_of(self, server: Server, operation: str, **given: object) -> Any:
        with self.load(server, operation, **given) as load:
            return load.answer()


Samples = dict[str, list[float]]


@dataclass(frozen=True, slots=True)
class Measure:
    """One way to look at a server, and the rows it fills."""

    name: str
    rows: tuple[Row, ...]
    take: Callable[[Bench, Server], Samples]
    rounds_max: int = 99
    wants_fresh: bool = False  # stopped before; the measure starts it


def _connect(bench: Bench, server: Server) -> Samples:
    def samples(*, with_default_kex: bool) -> list[float]:
        times = range(bench.sizes.connects)
        return [bench.stock.connect_and_true_ms(server, with_default_kex=with_default_kex) for _ in times]

    return {"connect": samples(with_default_kex=False), "connect_default": samples(with_default_kex=True)}


def _connect_light(bench: Bench, server: Server) -> Samples:
    return {"connect_light": bench.answer_of(server, "connect", count=bench.sizes.connects * 2)}


def _session(bench: Bench, server: Server) -> Samples:
    return {"session": bench.answer_of(server, "session", count=bench.sizes.sessions)}


def _prompt(bench: Bench, server: Server) -> Samples:
    return {
        "prompt_cold": [bench.stock.prompt_ms(server) for _ in range(bench.sizes.connects)],
        "prompt_open": bench.answer_of(server, "prompt", count=bench.sizes.prompts),
    }


def _come_back(bench: Bench, server: Server) -> Samples:
    answer = bench.answer_of(server, "come-back", count=bench.sizes.prompts * 3, **server.kept_screen)
    return {"come_back_p50": [answer["p50"]], "come_back_p95": [answer["p95"]]}


def _echo(bench: Bench, server: Server) -> Samples:
    taken: Samples = {}
    for where, flood in (("idle", nullcontext()), ("other", bench.stock.flood(server)), ("same", nullcontext())):
        with flood:
            answer = bench.answer_of(server, "echo", count=bench.sizes.keystrokes, with_flood=where == "same",
                                     pause_seconds=bench.sizes.pause_seconds)  # fmt: skip
        for percentile in ("p50", "p99"):
            taken[f"echo_{where}_{percentile}"] = [answer[percentile]]
    return taken


def _terminal(bench: Bench, server: Server) -> Samples:
    size = bench.sizes.text_bytes
    return {
        "terminal_raw": [bench.stock.terminal_output_mbps(server, text_bytes=size, is_raw=True)],
        "terminal_text": [bench.stock.terminal_output_mbps(server, text_bytes=size, is_raw=False)],
    }


def _exec(bench: Bench, server: Server) -> Samples:
    size = bench.sizes.stream_bytes
    return {
        "exec_stdout": [bench.stock.exec_stdout_mbps(server, size_bytes=size)],
        "exec_stdin": [bench.stock.exec_stdin_mbps(server, size_bytes=size)],
    }


def _sftp(bench: Bench, server: Server) -> Samples:
    put, get = bench.stock.sftp_mbps(server, size_bytes=bench.sizes.sftp_bytes)
    return {"sftp_put": [put], "sftp_get": [get]}


def _forward(bench: Bench, server: Server) -> Samples:
    size = bench.sizes.stream_bytes
    target = forward.Target(size)
    try:
        with bench.stock.local_forward(server, target.port) as port:
            return {
                "forward_channel": forward.channel_ms(port, bench.sizes.sessions),
                "forward_ping": [forward.ping_ms(port, bench.sizes.keystrokes)],
                "forward_down": [forward.down_mbps(port, size)],
                "forward_up": [forward.up_mbps(port, size)],
            }
    finally:
        target.close()


def _rate(bench: Bench, server: Server) -> Samples:
    loads = [bench.load(server, "rate", seconds=bench.sizes.rate_seconds) for _ in range(PARALLEL)]
    try:
        for load in loads:
            load.expect("ready")
        for load in loads:
            load.say("go")
        answers = [load.answer() for load in loads]
    finally:
        for load in loads:
            load.__exit__()
    return {"rate": [sum(answer["count"] / answer["seconds"] for answer in answers)]}


def _start(bench: Bench, server: Server) -> Samples:
    with bench.load(server, "first-login") as load:
        load.expect("ready")
        load.say("go")
        started = time.monotonic()
        server.spawn()
        moment = load.answer()["moment"]
    return {"start": [(moment - started) * 1000]}


def _memory(key: str, *, on_one_connection: bool) -> Callable[[Bench, Server], Samples]:
    def take(bench: Bench, server: Server) -> Samples:
        server.start()
        with bench.load(server, "hold", on_one_connection=on_one_connection) as load:
            load.expect("ready")
            before = _settled_memory(server, load, TERMINALS_BEFORE)
            after = _settled_memory(server, load, bench.sizes.terminals)
            load.answer()
        return {key: [(after - before) / bench.sizes.terminals / KIBIBYTE]}

    return take


def _detached(bench: Bench, server: Server) -> Samples:
    """Lasting terminals that nobody looks at, before and after a crash of the server. Theirs are tmux's."""
    server.start()
    login_name = server.login.login_name.partition("+")[0]  # of a shell that lasts
    with bench.load(server, "leave", login_name=login_name, begin=server.kept_screen["begin"]) as load:
        load.expect("ready")
        before = _memory_left(bench, server, load, TERMINALS_BEFORE)
        after = _memory_left(bench, server, load, bench.sizes.terminals)
        load.answer()
    server.crash()
    taken = {"memory_detached": [(after - before) / bench.sizes.terminals / KIBIBYTE]}
    taken["start_detached"] = _start(bench, server)["start"]
    server.stop()
    bench.processes.end_orphans()
    return taken


def _memory_left(bench: Bench, server: Server, load: LoadProcess, more_terminals: int) -> int:
    load.say(str(more_terminals))
    load.expect("left")
    time.sleep(SETTLE_SECONDS)
    every = {process.pid: process for process in (*server.processes(), *bench.processes.orphans())}
    return memory_bytes(every.values())


def _settled_memory(server: Server, load: LoadProcess, more_terminals: int) -> int:
    load.say(str(more_terminals))
    load.expect("held")
    time.sleep(SETTLE_SECONDS)  # both servers tidy up after a login; nothing tells when they are done
    return memory_bytes(server.processes())


def _echo_rows() -> tuple[Row, ...]:
    titles = {"idle": "idle", "other": "flood on another connection", "same": "flood on the same connection"}
    return tuple(
        Row(f"echo_{where}_{percentile}", f"keystroke echo {percentile}, {title}", "ms",
            floor=1 / 3 if (where, percentile) == ("idle", "p50") else None)
        for where, title in titles.items()
        for percentile in ("p50", "p99")
    )  # fmt: skip


MEASURES = (
    Measure("start", (Row("start", "start until the first login is accepted", "ms"),), _start, wants_fresh=True),
    Measure("connect", (
        Row("connect", "connect + `true`, stock ssh, same key exchange", "ms", floor=2.0),
        Row("connect_default", "connect + `true`, stock ssh, its own choice", "ms"),
    ), _connect),
    Measure("connect-light", (
        Row("connect_light", "connect + `true`, light client", "ms", floor=2.0),
    ), _connect_light),
    Measure("session", (Row("session", "new session on an open connection", "ms"),), _session),
    Measure("prompt", (
        Row("prompt_cold", "terminal ready, stock ssh, cold", "ms"),
        Row("prompt_open", "terminal ready, open connection", "ms"),
    ), _prompt),
    Measure("come-back", (
        Row("come_back_p50", "back at a full screen p50 (sshd: tmux)", "ms"),
        Row("come_back_p95", "back at a full screen p95 (sshd: tmux)", "ms"),
    ), _come_back),
    Measure("echo", _echo_rows(), _echo),
    Measure("terminal", (
        Row("terminal_raw", "terminal output, raw", "MB/s", is_higher_better=True, floor=1.0),
        Row("terminal_text", "terminal output, text", "MB/s", is_higher_better=True, floor=1.0),
    ), _terminal),
    Measure("exec", (
        Row("exec_stdout", "exec stdout", "MB/s", is_higher_better=True),
        Row("exec_stdin", "exec stdin", "MB/s", is_higher_better=True),
    ), _exec),
    Measure("sftp", (
        Row("sftp_put", "sftp put", "MB/s", is_higher_better=True),
        Row("sftp_get", "sftp get", "MB/s", is_higher_better=True),
    ), _sftp),
    Measure("forward", (
        Row("forward_channel", "-L, new stream and one byte back", "ms"),
        Row("forward_ping", "-L, one byte there and back", "ms"),
        Row("forward_down", "-L, down", "MB/s", is_higher_better=True),
        Row("forward_up", "-L, up", "MB/s", is_higher_better=True),
    ), _forward),
    Measure("rate", (
        Row("rate", f"connections per second, {PARALLEL} parallel", "/s", is_higher_better=True, floor=2.0),
    ), _rate),
    Measure("memory", (
        Row("memory", "memory per idle terminal, own connection", "KiB", floor=10.0),
    ), _memory("memory", on_one_connection=False), rounds_max=1, wants_fresh=True),
    Measure("memory-shared", (
        Row("memory_shared", "memory per idle terminal, one connection", "KiB"),
    ), _memory("memory_shared", on_one_connection=True), rounds_max=1, wants_fresh=True),
    Measure("detached", (
        Row("memory_detached", "memory per detached terminal (sshd: tmux)", "KiB"),
        Row("start_detached", "start after `kill -9` with all of them until the first login", "ms"),
    ), _detached, rounds_max=1, wants_fresh=True),
)  # fmt: skip
