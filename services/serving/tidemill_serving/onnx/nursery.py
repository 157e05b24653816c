"""`python -m tidemill_serving.onnx.nursery`, which the sandbox starts: a line in, a process, a line out.

A line on stdin is a JSON object: the model's file, the release's feature names, and the limits. For each a child is
forked that limits its own processor time, address space and files, opens the model and tells what it found through a
pipe; this process keeps its wall clock, kills it, and reaps it. Nothing that a child does can reach the next one.
"""

import json
import os
import resource
import select
import signal
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, NamedTuple, NoReturn

from tidemill_engine.onnx import MAXIMUM_BYTES, ModelRefusedError, bitwise, inspect_model
from tidemill_serving.onnx.graph import Graph
from tidemill_serving.onnx.proof import prove
from tidemill_serving.onnx.session import Scorer, UnusableModelError

_LONGEST_VERDICT = 4096
_FILES = 64
_MIB = 1024 * 1024
NICE = 10
"""Starting it and trying a model take most of a second of processor time, beside a process that answers meanwhile."""
Ask = dict[str, Any]


class Accepted(NamedTuple):
    """`is_quick`: trees of our own give the model's bits."""

    is_quick: bool


def main() -> None:
    """Serve asks until stdin ends."""
    _step_back()
    bitwise.warm_up()  # a child may write no file, so no machine code either
    answers = os.fdopen(os.dup(1), "w", encoding="utf-8")
    nothing = os.open(os.devnull, os.O_RDWR)
    os.dup2(nothing, 1)  # what a model's runtime prints is no verdict
    for line in sys.stdin.buffer:
        ask = json.loads(line)
        answers.write(json.dumps(_examine(ask, answers.fileno())) + "\n")
        answers.flush()


def _step_back() -> None:
    """Least of all: beside its neighbours, and its session beside others where the kernel deals by sessions first."""
    os.nice(NICE)
    if os.getsid(0) == os.getpid():
        with suppress(OSError):
            Path("/proc/self/autogroup").write_text(str(NICE), "ascii")


def _examine(ask: Ask, private: int) -> dict[str, Any]:
    """Fork, watch, kill, reap. `private` is what a child must not hold."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        os.close(private)
        _child(ask, writing)
    os.close(writing)
    verdict, is_late = _listen(reading, float(ask["wall_s"]))
    os.close(reading)
    # A child that has ended keeps the status it ended with; one that only closed the pipe ends now.
    os.kill(pid, signal.SIGKILL)
    _, status, used = os.wait4(pid, 0)
    about: dict[str, Any] = {"late": is_late, "cpu_s": used.ru_utime + used.ru_stime}
    if os.WIFSIGNALED(status):
        return about | {"signal": os.WTERMSIG(status)}
    return about | {"status": os.waitstatus_to_exitcode(status)} | _read(verdict)


def _listen(pipe: int, seconds: float) -> tuple[bytes, bool]:
    """What the child says before its end, and whether its time ran out."""
    deadline, said = time.monotonic() + seconds, b""
    while len(said) <= _LONGEST_VERDICT:
        ready, _, _ = select.select([pipe], [], [], max(0.0, deadline - time.monotonic()))
        if not ready:
            return said, True
        part = os.read(pipe, _LONGEST_VERDICT)
        if not part:
            break
        said += part
    return said, False


def _read(verdict: bytes) -> dict[str, Any]:
    try:
        found = json.loads(verdict)
        return {"accepted": found["accepted"] is True, "reason": str(found["reason"]), "quick": found["quick"] is True}
    except (ValueError, KeyError, TypeError):
        return {"accepted": False, "reason": ""}


def _child(ask: Ask, pipe: int) -> NoReturn:
    """Limit itself, open, run, tell. What the model may have left behind must not run at exit."""
    try:
        data = _load(ask["file"])
        _limit(int(ask["cpu_s"]), int(ask["memory_mib"]))
        os.write(pipe, _told(_try(data, ask["features"])))
    except BaseException as error:  # noqa: BLE001 - the process ends here in any case
        os.write(pipe, _told(f"failed: {type(error).__name__}"))
    finally:
        os._exit(0)


def _told(found: "str | Accepted") -> bytes:
    accepted = found if isinstance(found, Accepted) else None
    reason = found[:500] if isinstance(found, str) else ""
    is_quick = accepted is not None and accepted.is_quick
    return json.dumps({"accepted": accepted is not None, "reason": reason, "quick": is_quick}).encode()


def _load(file: str) -> bytes:
    with Path(file).open("rb") as opened:
        return opened.read(MAXIMUM_BYTES + 1)


def _limit(cpu_s: int, memory_mib: int) -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    memory = pages * resource.getpagesize() + memory_mib * _MIB
    limits = {
        resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
        resource.RLIMIT_NOFILE: _FILES,
    }  # fmt: skip
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _try(data: bytes, features: list[str] | None) -> "str | Accepted":
    """Why the model may not be used, or that it may."""
    try:
        info = inspect_model(data, maximum_bytes=MAXIMUM_BYTES)
        if features is None:
            Graph(data).try_out()
            return Accepted(is_quick=False)
        if info.features is not None and list(info.features) != features:
            return "the model's feature names are not the release's"
        scorer = Scorer(data, len(features))
        prove(scorer)
        return Accepted(is_quick=scorer.quicken(data))
    except (ModelRefusedError, UnusableModelError) as error:
        return str(error)
    except MemoryError:
        return "the model needs too much memory"


if __name__ == "__main__":
    main()
