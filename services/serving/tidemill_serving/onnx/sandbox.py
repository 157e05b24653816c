"""Opens a model in a disposable child process first: bytes can crash, hang or bloat whatever opens them.

`python -m tidemill_serving.onnx.sandbox FILE` reads the expected feature names as JSON on stdin and writes a verdict on
stdout. CPU time, address space and files are limited there, wall-clock time by the parent, which kills it.
"""

import asyncio
import json
import os
import resource
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

from tidemill_engine.onnx import MAXIMUM_BYTES, ModelRefusedError, inspect_model
from tidemill_serving.onnx.session import Scorer, UnusableModelError

_LONGEST_VERDICT = 64 * 1024
_MIB = 1024 * 1024


@dataclass(frozen=True, slots=True)
class SandboxLimits:
    """What one model may use to be opened and to answer the golden inputs."""

    cpu_s: int = 20
    wall_s: float = 30.0
    memory_mib: int = 1024


async def examine(file: Path, features: list[str], limits: SandboxLimits) -> None:
    """Return when the model in a file opened and answered well in a child; raises UnusableModelError with why not."""
    arguments = (str(file), str(limits.cpu_s), str(limits.memory_mib))
    child = await asyncio.create_subprocess_exec(
        sys.executable, "-m", __name__, *arguments,
        stdin=asyncio.subprocess.PIPE, stdout=asyncio.subprocess.PIPE, stderr=asyncio.subprocess.DEVNULL,
        start_new_session=True, env={"PATH": os.environ.get("PATH", ""), "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    try:
        async with asyncio.timeout(limits.wall_s):
            verdict = await _converse(child, json.dumps(features).encode())
            status = await child.wait()
    except TimeoutError:
        raise UnusableModelError(f"no verdict within {limits.wall_s:g} s") from None
    finally:
        if child.returncode is None:
            child.kill()
            await child.wait()
    _judge(status, verdict)


async def _converse(child: asyncio.subprocess.Process, features: bytes) -> bytes:
    if child.stdin is None or child.stdout is None:
        raise UnusableModelError("the sandbox has no pipes")
    try:
        child.stdin.write(features)
        await child.stdin.drain()
    except (BrokenPipeError, ConnectionResetError):
        pass  # it died early; its status says how
    child.stdin.close()
    return await child.stdout.read(_LONGEST_VERDICT)


def _judge(status: int, verdict: bytes) -> None:
    if status < 0:
        raise UnusableModelError(f"the sandbox was ended by {signal.Signals(-status).name}")
    try:
        answer = json.loads(verdict)
        accepted, reason = answer["accepted"] is True, str(answer["reason"])
    except (ValueError, KeyError, TypeError):
        raise UnusableModelError(f"the sandbox gave no verdict (status {status})") from None
    if status or not accepted:
        raise UnusableModelError(reason[:500])


def main() -> None:
    """The child: limit itself, open, run, tell."""
    file, cpu_s, memory_mib = sys.argv[1:4]
    features = json.loads(sys.stdin.buffer.read())
    _limit(int(cpu_s), int(memory_mib))
    reason = _try(Path(file), features)
    sys.stdout.write(json.dumps({"accepted": reason is None, "reason": reason or ""}))
    sys.stdout.flush()
    os._exit(0)  # what the model may have left behind must not run at exit


def _limit(cpu_s: int, memory_mib: int) -> None:
    pages = int(Path("/proc/self/statm").read_text("ascii").split()[0])
    memory = pages * resource.getpagesize() + memory_mib * _MIB
    limits = {
        resource.RLIMIT_CPU: cpu_s, resource.RLIMIT_AS: memory, resource.RLIMIT_FSIZE: 0, resource.RLIMIT_CORE: 0,
    }  # fmt: skip
    for kind, most in limits.items():
        resource.setrlimit(kind, (most, most))


def _try(file: Path, features: list[str]) -> str | None:
    """Why the model may not be used, None when it may."""
    try:
        data = file.read_bytes()
        info = inspect_model(data, maximum_bytes=MAXIMUM_BYTES)
        if info.features is not None and list(info.features) != features:
            return "the model's feature names are not the release's"
        Scorer(data, len(features))
    except (ModelRefusedError, UnusableModelError) as error:
        return str(error)
    except MemoryError:
        return "the model needs too much memory"
    return None


if __name__ == "__main__":
    main()
