"""Where everything lies on disk: the state and runtime directories, made and checked before anything uses them.

The state directory lasts (database, keys, workspaces); the runtime directory holds sockets and spools, and may vanish
with a reboot. Both belong to one account and to nobody else (0700). Which runtime directory goes with a state is
recorded in the state, so that the next gateway and the command line find the same sockets. Nothing here opens the
database or knows what a keeper is.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import hashlib
import os
import stat
import tempfile
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from gateway.errors import StartRefused

SOCKET_PATH_MAX_BYTES = 107  # sun_path is 108 bytes with its final zero (unix(7))
_LONGEST_SOCKET = "keepers/01932b7e-8f3c-7c4e-9d31-5a1f0c8e2b77/keeper.sock"
RUNTIME_RECORD = "runtime-dir"  # in the state: the path of its runtime directory
STATE_RECORD = "state-dir"  # in the runtime directory: the path of its state
# Client-side files of `homeport run` (key, known_hosts); root's own when root is the caller.
TRIAL_FOLDER = "trial"
_FOLDERS = ("keys", "workspaces", "recordings", "backups", "archive")
# One of these in a directory says that it is ours.
_STATE_NAMES = (RUNTIME_RECORD, "homeport.db", "gateway.lock", TRIAL_FOLDER, *_FOLDERS)
_RUNTIME_NAMES = (STATE_RECORD, "control.sock", "keepers", "spools", "gateways")
# What a file system's own root may hold when it is mounted as the state.
_FOREIGN_BUT_HARMLESS = {"lost+found"}


class StateSettings(Protocol):
    """What this module needs of the settings (config.py)."""

    @property
    def state_dir(self) -> Path: ...
    @property
    def runtime_dir(self) -> Path | None: ...


@dataclass(frozen=True, slots=True)
class Owner:
    """The account that both directories belong to."""

    uid: int
    gid: int

    @classmethod
    def current(cls) -> Owner:
        return cls(os.geteuid(), os.getegid())


@dataclass(frozen=True, slots=True)
class Places:
    """The paths of one gateway. All exist after `prepare`, except the files and sockets."""

    state_dir: Path
    runtime_dir: Path

    @property
    def database(self) -> Path:
        return self.state_dir / "homeport.db"

    @property
    def keys_dir(self) -> Path:
        return self.state_dir / "keys"

    @property
    def workspaces_dir(self) -> Path:
        return self.state_dir / "workspaces"

    @property
    def recordings_dir(self) -> Path:
        return self.state_dir / "recordings"

    @property
    def backups_dir(self) -> Path:
        return self.state_dir / "backups"

    @property
    def archive_dir(self) -> Path:
        return self.state_dir / "archive"

    @property
    def known_hosts(self) -> Path:
        return self.state_dir / "known_hosts"

    @property
    def state_lock(self) -> Path:
        return self.state_dir / "gateway.lock"

    @property
    def control_socket(self) -> Path:
        return self.runtime_dir / "control.sock"

    @property
    def keepers_dir(self) -> Path:
        return self.runtime_dir / "keepers"

    @property
    def spools_dir(self) -> Path:
        return self.runtime_dir / "spools"

    @property
    def gateways_dir(self) -> Path:
        return self.runtime_dir / "gateways"


def prepare(settings: StateSettings, *, environment: Mapping[str, str] | None = None) -> Places:
    """Have everything there, this process's own and closed to others. Doing it again changes nothing.

    Raises StartRefused with the fix.
    """
    owner = Owner.current()
    places = claim(settings, owner, environment=environment)
    folders = [places.state_dir / name for name in _FOLDERS] + [
        places.keepers_dir,
        places.spools_dir,
        places.gateways_dir,
    ]
    with _refusing("state", places.state_dir, "HOMEPORT_STATE_DIR"):
        for folder in folders:
            folder.mkdir(mode=0o700, exist_ok=True)
        _write_record(places.runtime_dir / STATE_RECORD, str(places.state_dir))
        _write_record(places.state_dir / RUNTIME_RECORD, str(places.runtime_dir))
    return places


def claim(settings: StateSettings, owner: Owner, *, environment: Mapping[str, str] | None = None) -> Places:
    """Have the two directories there and `owner`'s. Root does only this much for an account; what lies in them is
    made by the account itself, because root must not write where somebody else can plant links."""
    environment = os.environ if environment is None else environment
    state_dir = own_state_dir(settings, owner)
    return Places(state_dir, _runtime_dir(settings, state_dir, owner, environment))


def own_state_dir(settings: StateSettings, owner: Owner) -> Path:
    """Only the first half of `claim`."""
    state_dir = Path(os.path.realpath(settings.state_dir))
    _own_folder(state_dir, owner, "state", ours=_STATE_NAMES, setting="HOMEPORT_STATE_DIR")
    return state_dir


def find(settings: StateSettings) -> Places | None:
    """The places of a state that was prepared before, without changing anything; None if there is no such state.

    Raises StartRefused if it belongs to another account.
    """
    state_dir = Path(os.path.realpath(settings.state_dir))
    if not state_dir.is_dir():
        return None
    if not os.access(state_dir, os.R_OK | os.X_OK):
        raise StartRefused(f"the state {state_dir} belongs to another account; run this as that account, or as root")
    runtime_dir = settings.runtime_dir or _read_record(state_dir / RUNTIME_RECORD)
    return Places(state_dir, runtime_dir) if runtime_dir else None


# --------------------------------------------------------------------------------------- one gateway per state


class StateLock:
    """Held by the process that may write to a state: one gateway, or one command without a gateway.

    The kernel frees it when the process ends, however it ends. The file stays; it names the last holder. In a reload
    the old gateway passes on its open file (`inherited_fd`): both hold the one lock, and it is never free in between.
    """

    def __init__(self, path: Path, *, inherited_fd: int = -1) -> None:
        self._path = path
        self._fd = inherited_fd

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take it at once or raise StartRefused naming the holder. What was inherited is held already."""
        if self._fd >= 0:
            self._check_inherited()
            return
        fd = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            os.close(fd)
            holder = self.holder_pid()
            who = f"process {holder}" if holder else "another process"
            raise StartRefused(
                f"the state {self._path.parent} is in use by {who}; stop that one first (homeport stop), or give this"
                " one a state of its own with HOMEPORT_STATE_DIR"
            ) from None
        self._fd = fd
        self.sign()

    def sign(self) -> None:
        """Write into the file that we are the holder. One write: a reader never finds the file empty."""
        os.pwrite(self._fd, f"{os.getpid():<20}\n".encode(), 0)

    def fileno(self) -> int:
        """To pass on."""
        return self._fd

    def release(self) -> None:
        """Let go by closing, never by unlocking: that would free it for a successor that has the same open file, too.
        Twice is harmless."""
        if self._fd >= 0:
            os.close(self._fd)
            self._fd = -1

    def _check_inherited(self) -> None:
        try:
            is_ours = os.path.samestat(os.fstat(self._fd), self._path.stat())
        except OSError:
            is_ours = False
        if not is_ours:
            raise StartRefused(
                f"a reload keeps the state, and the settings name another now: {self._path.parent}; stop the gateway "
                "and start it to change that"
            )

    def holder_pid(self) -> int | None:
        """The pid in the file: who holds the lock, or held it last."""
        try:
            return int(self._path.read_text().strip())
        except (OSError, ValueError):
            return None


# -------------------------------------------------------------------------------------- the runtime directory


def _runtime_dir(settings: StateSettings, state_dir: Path, owner: Owner, environment: Mapping[str, str]) -> Path:
    """The first of these that can be used: the one named, systemd's, the recorded one, the usual one, one in /tmp."""
    if settings.runtime_dir is not None:
        return _named_runtime_dir(Path(os.path.realpath(settings.runtime_dir)), state_dir, owner)
    from_systemd = environment.get("RUNTIME_DIRECTORY", "").split(":")[0]
    recorded = _read_record(state_dir / RUNTIME_RECORD)
    usual = _usual_runtime_dir(settings, state_dir, owner, environment)
    if from_systemd and _fits(Path(from_systemd)) and not _belongs_to_another(Path(from_systemd), state_dir):
        return _owned_runtime_dir(Path(from_systemd), owner)
    # The recorded one comes before the usual one: running keepers are there, wherever this process was started from.
    if recorded is not None and _is_trustworthy(recorded, owner) and not _belongs_to_another(recorded, state_dir):
        return recorded
    if usual is not None and _fits(usual) and not _belongs_to_another(usual, state_dir):
        return _owned_runtime_dir(usual, owner)
    # XDG_RUNTIME_DIR is missing or too deep. mkdtemp makes it 0700 under a name nobody can have prepared.
    private = Path(tempfile.mkdtemp(prefix="homeport-", dir="/tmp"))
    if owner.uid != os.geteuid():
        os.chown(private, owner.uid, owner.gid)
    return private


def _named_runtime_dir(runtime_dir: Path, state_dir: Path, owner: Owner) -> Path:
    if not _fits(runtime_dir):
        room = SOCKET_PATH_MAX_BYTES - len(f"/{_LONGEST_SOCKET}")
        raise StartRefused(
            f"HOMEPORT_RUNTIME_DIR = {runtime_dir} is {len(os.fsencode(runtime_dir))} bytes long, and socket paths"
            f" allow {room}; name a shorter one, or leave the setting out and a short one is made"
        )
    if _belongs_to_another(runtime_dir, state_dir):
        raise StartRefused(
            f"HOMEPORT_RUNTIME_DIR = {runtime_dir} belongs to the state {_read_record(runtime_dir / STATE_RECORD)};"
            " two gateways cannot share one: name another, or leave the setting out"
        )
    return _owned_runtime_dir(runtime_dir, owner)


def _owned_runtime_dir(runtime_dir: Path, owner: Owner) -> Path:
    _own_folder(runtime_dir, owner, "runtime", ours=_RUNTIME_NAMES, setting="HOMEPORT_RUNTIME_DIR")
    return runtime_dir


def _usual_runtime_dir(
    settings: StateSettings, state_dir: Path, owner: Owner, environment: Mapping[str, str]
) -> Path | None:
    if os.geteuid() == 0:
        base, usual_state = Path("/run"), Path("/var/lib/homeport")
    else:
        # After `su`, XDG_RUNTIME_DIR may still be somebody else's.
        base = Path(environment.get("XDG_RUNTIME_DIR") or "/nonexistent")
        if not (base.is_absolute() and base.is_dir() and base.stat().st_uid == owner.uid):
            return None
        home = environment.get("HOME") or "/nonexistent"
        usual_state = Path(environment.get("XDG_STATE_HOME") or f"{home}/.local/state") / "homeport"
    if state_dir == Path(os.path.realpath(usual_state)):
        return base / "homeport"
    # Any other state has a runtime directory of its own, the same one at every start.
    return base / f"homeport-{hashlib.sha256(os.fsencode(state_dir)).hexdigest()[:8]}"


def _fits(runtime_dir: Path) -> bool:
    return len(os.fsencode(runtime_dir / _LONGEST_SOCKET)) <= SOCKET_PATH_MAX_BYTES


def _is_trustworthy(folder: Path, owner: Owner) -> bool:
    """A folder from an earlier start may be used again only if it is still the owner's alone, and no link."""
    try:
        found = folder.lstat()
    except OSError:
        return False
    return stat.S_ISDIR(found.st_mode) and found.st_uid == owner.uid and not found.st_mode & 0o077 and _fits(folder)


def _belongs_to_another(runtime_dir: Path, state_dir: Path) -> bool:
    """Whether another state, which still exists, has this runtime directory."""
    other = _read_record(runtime_dir / STATE_RECORD)
    return other is not None and other != state_dir and other.is_dir()


# ------------------------------------------------------------------------------------------ folders and records


def _own_folder(folder: Path, owner: Owner, what: str, *, ours: Collection[str], setting: str) -> None:
    """Have `folder` there, the owner's alone. A folder that holds other people's things is refused, not taken over:
    root would otherwise give away /var/lib for one wrong letter in a setting."""
    with _refusing(what, folder, setting):
        folder.parent.mkdir(mode=0o755, parents=True, exist_ok=True)
        with contextlib.suppress(FileExistsError):
            folder.mkdir(mode=0o700)
        # Everything below goes through one descriptor: the name may come to mean something else in the meantime.
        fd = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            found = os.fstat(fd)
            names = set(os.listdir(fd))  # noqa: PTH208 (Path takes no descriptor)
            _check_claim(folder, found.st_uid, names, owner, what, ours=ours, setting=setting)
            if found.st_uid != owner.uid:
                _give_away(fd, owner)
            if stat.S_IMODE(found.st_mode) & 0o077:
                os.fchmod(fd, 0o700)
        finally:
            os.close(fd)
        if os.geteuid() == owner.uid:
            _try_to_write(folder)


def _check_claim(
    folder: Path, uid: int, names: set[str], owner: Owner, what: str, *, ours: Collection[str], setting: str
) -> None:
    foreign = names - _FOREIGN_BUT_HARMLESS
    if uid != owner.uid and not (os.geteuid() == 0 and uid == 0):
        raise StartRefused(
            f"the {what} directory {folder} belongs to uid {uid}, and this is uid {owner.uid}; start as its owner, or"
            f" name another directory in {setting}"
        )
    if foreign and not foreign & set(ours):
        raise StartRefused(
            f"the {what} directory {folder} is not empty and holds nothing of Homeport ({min(foreign)!r}, for one);"
            f" name a new or empty directory in {setting}"
        )


def _give_away(folder_fd: int, owner: Owner) -> None:
    """Make root's folder the owner's, with what is in it, except the caller's own trial files. Only ever called while
    the folder is root's: nobody else could have put a link into it."""
    for path, folders, files, fd in os.fwalk(".", dir_fd=folder_fd, follow_symlinks=False):
        if path == "." and TRIAL_FOLDER in folders:
            folders.remove(TRIAL_FOLDER)
        for name in (*folders, *files):
            os.chown(name, owner.uid, owner.gid, dir_fd=fd, follow_symlinks=False)
    os.fchown(folder_fd, owner.uid, owner.gid)


def _try_to_write(folder: Path) -> None:
    """Ask the file system itself: permissions do not tell of a read-only mount or a full quota."""
    with tempfile.TemporaryFile(dir=folder) as probe:
        probe.write(b"\0")


@contextlib.contextmanager
def _refusing(what: str, folder: Path, setting: str) -> Iterator[None]:
    """Turn what the operating system says about a folder into one sentence with the fix."""
    try:
        yield
    except OSError as error:
        reason = (error.strerror or str(error)).lower()
        fix = {
            errno.ENOSPC: "make room there",
            errno.EDQUOT: "make room in the quota",
            errno.EROFS: "it is on a read-only file system",
            errno.ENOTDIR: "a part of the path is a file",
            errno.EEXIST: "a part of the path is a file",
        }.get(error.errno or 0, "make it writable for this account")
        raise StartRefused(
            f"cannot use the {what} directory {folder}: {reason}; {fix}, or name another one in {setting}"
        ) from None


def _read_record(path: Path) -> Path | None:
    """A path from a one-line file. None: missing, out of reach, or not an absolute path."""
    try:
        fd = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return None
    with os.fdopen(fd, "rb") as file:
        text = os.fsdecode(file.read(4096)).removesuffix("\n")
    return Path(text) if text.startswith("/") else None


def _write_record(path: Path, text: str) -> None:
    """Write it whole or not at all; untouched if it says so already."""
    if _read_record(path) == Path(text):
        return
    fd, name = tempfile.mkstemp(prefix=f".{path.name}-", dir=path.parent)
    with os.fdopen(fd, "wb") as file:
        file.write(os.fsencode(text) + b"\n")
    Path(name).replace(path)
