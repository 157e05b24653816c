"""Other people's software in environments of its own, for tests and benchmarks that speak to it or measure against it.

An environment is made once under `build/peers/<name>` and used again as long as its requirements are the same ones.
"""

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[3]
PEERS = ROOT / "build" / "peers"
INSTALL_TIMEOUT_S = 900.0


class PeerError(RuntimeError):
    """The peer cannot be installed here; the message says why."""


def peer(name: str, *requirements: str) -> Path:
    """The Python of the environment `name` that holds `requirements`; raises PeerError.

    The requirements name exact versions: an environment is never brought up to date, only made anew.
    """
    folder, wanted = PEERS / name, "\n".join(sorted(requirements))
    python, note = folder / "bin" / "python", folder / "requirements.txt"
    with _alone(name):
        if note.exists() and note.read_text(encoding="utf-8") == wanted and python.exists():
            return python
        shutil.rmtree(folder, ignore_errors=True)
        _uv("venv", "--python", sys.executable, str(folder))
        _uv("pip", "install", "--python", str(python), *requirements)
        note.write_text(wanted, encoding="utf-8")
    return python


@contextmanager
def _alone(name: str) -> Iterator[None]:
    """Only one process at a time installs a peer: tests and benchmarks may ask for it together."""
    PEERS.mkdir(parents=True, exist_ok=True)
    with (PEERS / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        yield


def _uv(*arguments: str) -> None:
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        raise PeerError("uv is not installed")
    command = [uv, "--quiet", "--no-config", *arguments]
    try:
        done = subprocess.run(
            command, env=_environment(os.environ), capture_output=True, text=True, timeout=INSTALL_TIMEOUT_S,
            check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise PeerError(f"not installed within {INSTALL_TIMEOUT_S:g} s") from None
    if done.returncode:
        raise PeerError(f"uv {arguments[0]} failed: {done.stderr.strip()[-500:]}")


def _environment(ours: Mapping[str, str]) -> dict[str, str]:
    """The environment for uv, which reads neither pip's settings nor the system's certificates by itself."""
    known = {"UV_SYSTEM_CERTS": "true", "UV_NO_PROGRESS": "true", "UV_LINK_MODE": "copy"}
    for theirs, pip in (("UV_DEFAULT_INDEX", "PIP_INDEX_URL"), ("UV_INDEX", "PIP_EXTRA_INDEX_URL"),
                        ("UV_FIND_LINKS", "PIP_FIND_LINKS"), ("SSL_CERT_FILE", "PIP_CERT")):  # fmt: skip
        if ours.get(pip):
            known[theirs] = ours[pip]
    return {**known, **ours}
