"""Giving up root: the process becomes an unprivileged account before it listens, parses or opens anything.

Started as root, `become` claims the directories for the account, makes what lies below closed directories (/root)
reachable, gives everything up, and executes itself again as the account: no memory, descriptor or environment of root's
is left. Started as anyone else it changes nothing. What only the caller can read (public keys in root's home, a file
named on the command line) is collected before, and handed over as bytes.
"""

from __future__ import annotations

import ctypes
import os
import pwd
import shutil
import subprocess
import sys
from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import NoReturn

from gateway import reach, state
from gateway.config import SYSTEM_CONFIG_FILE, Config
from gateway.errors import StartRefused
from gateway.reach import Need
from gateway.state import Owner

HANDOVER_VARIABLE = "_HOMEPORT_HANDOVER_FD"
HANDOVER_MAX_BYTES = 1024 * 1024
_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
# Of root's environment only what the gateway or systemd's protocol needs; sudo's, ssh-agent's and the rest stay behind.
_ENVIRONMENT_KEPT = (
    "DATABASE_URL", "LANG", "TERM", "COLORTERM", "NO_COLOR", "TZ", "CI", "NOTIFY_SOCKET", "WATCHDOG_USEC",
    "WATCHDOG_PID", "LISTEN_FDS", "LISTEN_PID", "LISTEN_FDNAMES", "CREDENTIALS_DIRECTORY", "RUNTIME_DIRECTORY",
    "STATE_DIRECTORY", "JOURNAL_STREAM", "INVOCATION_ID", "SSL_CERT_FILE", "SSL_CERT_DIR", "GIT_SSL_CAINFO",
    "http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY",
)  # fmt: skip
_ENVIRONMENT_KEPT_PREFIXES = ("HOMEPORT_", "LC_")
_USERADD_SECONDS = 30

_PR_SET_NO_NEW_PRIVS, _PR_CAPBSET_DROP, _PR_CAPBSET_READ = 38, 24, 23  # linux/prctl.h
_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL = 47, 4
_CAPABILITY_MAX = 63


@dataclass(frozen=True, slots=True)
class Account:
    """Whom the process becomes."""

    name: str
    owner: Owner
    home: str


def become(config: Config, collect: Callable[[], bytes] = bytes) -> bytes:
    """Be the account that owns the state, for good, and return what `collect` found as the caller.

    As root this executes the program again, as the account; there it returns. Call it first thing after loading the
    settings, before any thread or connection exists. Raises StartRefused with the fix.
    """
    if os.geteuid() == 0:
        _leave_root(config, collect)
    if HANDOVER_VARIABLE in os.environ:
        return _received_handover()
    return collect()


def _leave_root(config: Config, collect: Callable[[], bytes]) -> NoReturn:
    account = account_for(config)
    # First of all: this refuses a state directory that is not ours, before anything is written there.
    places = state.claim(config, account.owner)
    _refuse_unreadable(account)
    covers = reach.plan(needs_of(places), account.owner)
    environment = cleaned_environment(os.environ, account)
    # The defaults depend on who asks, so both are said now.
    environment["HOMEPORT_STATE_DIR"] = str(places.state_dir)
    environment["HOMEPORT_RUNTIME_DIR"] = str(places.runtime_dir)
    if named := _config_file():
        environment["HOMEPORT_CONFIG"] = str(named)
    fd = _handover_fd(collect())
    environment[HANDOVER_VARIABLE] = str(fd)
    sys.stdout.flush()
    sys.stderr.flush()
    if covers:
        reach.enter(covers)
    os.chdir("/")
    _keep_only({fd})
    drop(account.owner)
    _start_again(environment)


def account_for(config: Config) -> Account:
    """The owner of a state that somebody has already; else the account in the settings, made if it is missing."""
    try:
        uid = Path(os.path.realpath(config.state_dir)).stat().st_uid
    except OSError:
        uid = 0
    if uid != 0:
        return _account(_by_uid(uid))
    try:
        entry = pwd.getpwnam(config.account)
    except KeyError:
        entry = _add_account(config.account)
    if entry.pw_uid == 0:
        raise StartRefused(f"the account {config.account} is root itself; name an unprivileged one in HOMEPORT_ACCOUNT")
    return _account(entry)


def needs_of(places: state.Places) -> list[Need]:
    """Everything the gateway must reach as the account: its code, its interpreter, its settings, its state."""
    clone = Path(__file__).resolve().parent.parent
    paths = {Path(sys.prefix), Path(sys.base_prefix), Path(sys.executable), Path(os.path.realpath(sys.executable))}
    # `dev` is only looked for: it tells a clone from an installed package.
    paths |= {clone / name for name in ("gateway", "models", "migrations", "admin_http", "dev")}
    # Only package folders: the first entry of sys.path may be whatever directory the caller stood in.
    paths |= {Path(entry) for entry in sys.path if Path(entry).name in ("site-packages", "dist-packages")}
    if named := _config_file():
        paths.add(named)
    needs = [Need(path) for path in sorted(paths)]
    return [*needs, Need(places.state_dir, is_writable=True), Need(places.runtime_dir, is_writable=True)]


def cleaned_environment(environment: Mapping[str, str], account: Account) -> dict[str, str]:
    """Root's environment, reduced to what may go on."""
    kept = {
        name: value
        for name, value in environment.items()
        if name in _ENVIRONMENT_KEPT or name.startswith(_ENVIRONMENT_KEPT_PREFIXES)
    }
    return kept | {"HOME": account.home, "USER": account.name, "LOGNAME": account.name, "PATH": _PATH}


def drop(owner: Owner) -> None:
    """Be `owner` for good: no group, capability or later exec gives anything back."""
    for capability in range(_CAPABILITY_MAX + 1):
        if _libc.prctl(_PR_CAPBSET_READ, capability, 0, 0, 0) != 1:
            continue
        # Containers may withhold CAP_SETPCAP; no_new_privs below already keeps the bounding set from mattering.
        _libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)
    _libc.prctl(_PR_CAP_AMBIENT, _PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0)
    try:
        os.setgroups([])
        os.setresgid(owner.gid, owner.gid, owner.gid)
        os.setresuid(owner.uid, owner.uid, owner.uid)
    except OSError as error:
        raise StartRefused(
            f"cannot become uid {owner.uid}: {error.strerror}; the container maps too few accounts or lacks CAP_SETUID."
            " Start the gateway as an ordinary user instead"
        ) from None
    if _libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0:
        raise StartRefused("the kernel refused no_new_privs; Linux 3.5 or newer is needed")
    _clear_inheritable()
    if 0 in os.getresuid() or 0 in os.getresgid():
        raise StartRefused("root could not be given up entirely; start the gateway as an ordinary user instead")


# ---------------------------------------------------------------------------------------------------- details

_libc = ctypes.CDLL(None, use_errno=True)


class _CapHeader(ctypes.Structure):
    _fields_ = (("version", ctypes.c_uint32), ("pid", ctypes.c_int))


class _CapData(ctypes.Structure):
    _fields_ = (("effective", ctypes.c_uint32), ("permitted", ctypes.c_uint32), ("inheritable", ctypes.c_uint32))


def _clear_inheritable() -> None:
    """setresuid empties the effective and permitted sets, but not the inheritable one (capabilities(7))."""
    header = _CapHeader(0x20080522, 0)  # version 3, this process
    _libc.capset(ctypes.byref(header), ctypes.byref((_CapData * 2)()))


def _account(entry: pwd.struct_passwd) -> Account:
    return Account(entry.pw_name, Owner(entry.pw_uid, entry.pw_gid), entry.pw_dir or "/")


def _by_uid(uid: int) -> pwd.struct_passwd:
    try:
        return pwd.getpwuid(uid)
    except KeyError:
        raise StartRefused(
            f"the state belongs to uid {uid}, which has no account here; chown it to an account that exists"
        ) from None


def _add_account(name: str) -> pwd.struct_passwd:
    """Make a system account that nobody can log in to."""
    shell = shutil.which("nologin", path=_PATH) or "/bin/false"
    if useradd := shutil.which("useradd", path=_PATH):
        command = [useradd, "--system", "--user-group", "--no-create-home", "--shell", shell]
        command += ["--home-dir", "/var/lib/homeport", "--comment", "Homeport gateway", name]
    else:  # busybox
        command = ["adduser", "-S", "-D", "-H", "-h", "/var/lib/homeport", "-s", shell, name]
    try:
        done = subprocess.run(  # the event loop does not exist yet
            command, stdin=subprocess.DEVNULL, capture_output=True, timeout=_USERADD_SECONDS, check=False
        )
        said = done.stderr.decode(errors="replace").strip()
    except (OSError, subprocess.TimeoutExpired) as error:
        said = str(error)
    try:
        return pwd.getpwnam(name)
    except KeyError:
        raise StartRefused(
            f"the gateway does not run as root, and the account {name} could not be made ({said}); make it"
            f" (useradd --system {name}), name another in HOMEPORT_ACCOUNT, or start as an ordinary user"
        ) from None


def _config_file() -> Path | None:
    """The settings file in effect. It is named to the account, which would otherwise pass over one it may not read."""
    named = os.environ.get("HOMEPORT_CONFIG")
    return Path(named).absolute() if named else SYSTEM_CONFIG_FILE if SYSTEM_CONFIG_FILE.exists() else None


def _refuse_unreadable(account: Account) -> None:
    """A clone made under umask 077 is unreadable whatever is mounted where."""
    package = Path(__file__).resolve().parent
    named = _config_file()
    if named and named.is_file() and not reach.may_read(named, account.owner):
        raise StartRefused(
            f"the gateway runs as {account.name}, which may not read {named}; let its group:"
            f" chgrp {account.name} {named} && chmod g+r {named}"
        )
    for path in (package, Path(__file__).resolve(), Path(os.path.realpath(sys.executable))):
        if not reach.may_read(path, account.owner):
            raise StartRefused(
                f"the gateway runs as {account.name}, which may not read {path}; open the code to others:"
                f" chmod -R go+rX {package if path.is_relative_to(package) else path.parent}"
            )


def _received_handover() -> bytes:
    with os.fdopen(int(os.environ.pop(HANDOVER_VARIABLE)), "rb") as file:
        return file.read(HANDOVER_MAX_BYTES)


def _handover_fd(handover: bytes) -> int:
    """An inheritable descriptor from which the next start reads `handover`. In memory: no file in between."""
    assert len(handover) <= HANDOVER_MAX_BYTES
    fd = os.memfd_create("homeport-handover")
    os.write(fd, handover)
    os.lseek(fd, 0, os.SEEK_SET)
    return fd


def _keep_only(fds: Collection[int]) -> None:
    """Have every other descriptor closed by the coming exec: root's terminal stays, root's open files do not."""
    listening = int(os.environ.get("LISTEN_FDS") or 0)  # systemd's sockets, from 3 on (sd_listen_fds(3))
    kept = {*range(3 + listening), *fds}
    for fd in [int(entry.name) for entry in Path("/proc/self/fd").iterdir()]:
        with suppress(OSError):  # the one that listed the directory is closed already
            os.set_inheritable(fd, fd in kept)


def _start_again(environment: dict[str, str]) -> NoReturn:
    # As a module, not by the script's name: that may be relative to a directory we have left. sys.executable keeps the
    # virtual environment, and -P keeps the current directory off the import path.
    try:
        command = [sys.executable, "-P", "-m", "gateway", *sys.argv[1:]]
        os.execve(sys.executable, command, environment)  # noqa: S606 (no shell is what we want)
    except OSError as error:
        raise StartRefused(
            f"{sys.executable} cannot be started without root ({error.strerror}); use a Python that everyone may run"
        ) from None
