"""One Apache Kafka broker in KRaft mode as a child process: for `tidemill up`, the demo and the tests."""

import socket
import struct
import subprocess
from base64 import urlsafe_b64encode
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self
from uuid import uuid4

from tidemill.stack.errors import StartFailedError
from tidemill.stack.jars import java, kafka_jars
from tidemill.stack.process import Child, Program, free_port

_READY_S = 60.0
# One node, so every internal topic has one replica; the session times make a killed broker's return take 4 s, not 11.
_PROPERTIES = {
    "process.roles": "broker,controller",
    "node.id": "1",
    "controller.listener.names": "CONTROLLER",
    "listener.security.protocol.map": "PLAINTEXT:PLAINTEXT,CONTROLLER:PLAINTEXT",
    "auto.create.topics.enable": "false",
    "num.partitions": "1",
    "default.replication.factor": "1",
    "offsets.topic.num.partitions": "1",
    "offsets.topic.replication.factor": "1",
    "transaction.state.log.num.partitions": "1",
    "transaction.state.log.replication.factor": "1",
    "transaction.state.log.min.isr": "1",
    "share.coordinator.state.topic.num.partitions": "1",
    "share.coordinator.state.topic.replication.factor": "1",
    "share.coordinator.state.topic.min.isr": "1",
    "group.initial.rebalance.delay.ms": "0",
    "broker.session.timeout.ms": "3000",
    "broker.heartbeat.interval.ms": "500",
    "log.cleaner.dedupe.buffer.size": "1048577",
    # Few clients on few cores: more threads would only hand requests on.
    "num.network.threads": "1",
    "num.io.threads": "2",
}
_LOGGING = """
status = warn
appender.console.type = Console
appender.console.name = console
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{ISO8601} %-5p %c{1} %m%n
rootLogger.level = warn
rootLogger.appenderRef.console.ref = console
"""
_JVM = ("-Xms64m", "-Xmx512m", "-XX:+UseSerialGC", "-XX:TieredStopAtLevel=1", "-Djava.awt.headless=true")
_QUIET = "--sun-misc-unsafe-memory-access=allow"  # Java 24 and later warn about what Kafka does at each start
_UNSAFE_SINCE = 24


class LocalKafka:
    """A broker whose data lives in `folder`.

    Use it as a context manager (starts, waits until it serves, stops), or take `program()` and run that yourself.
    Ports are the given ones if free, else others; `bootstrap` tells.
    """

    def __init__(
        self,
        folder: Path,
        *,
        port: int | None = None,
        log: Path | None = None,
        properties: Mapping[str, str] | None = None,
    ) -> None:
        """Choose ports; nothing runs yet. `properties` override the broker's settings."""
        self.folder = folder
        self.port = free_port(port)
        self.log = log or folder / "kafka.log"
        self._properties = dict(properties or {})
        self._child: Child | None = None

    @property
    def bootstrap(self) -> str:
        """Host and port for clients."""
        return f"127.0.0.1:{self.port}"

    @property
    def pid(self) -> int | None:
        """The broker's process id while this object runs it."""
        return None if self._child is None else self._child.pid

    def prepare(self) -> Program:
        """Fetch the jars, write the settings, format the storage once; return what to run.

        Raises:
            StackError: the jars cannot be had, or the storage cannot be formatted.
        """
        self.folder.mkdir(parents=True, exist_ok=True)
        executable, jars = java(), kafka_jars()
        settings = self._write_settings()
        base = (str(executable), "-cp", ":".join(str(jar) for jar in jars))
        if not (self.folder / "data" / "meta.properties").exists():
            self._format(base, settings)
        logging = f"-Dlog4j2.configurationFile={self.folder / 'log4j2.properties'}"
        command = (*base[:1], *_JVM, *_quiet(executable), logging, *base[1:], "kafka.Kafka", str(settings))
        return Program(name="kafka", command=command, log=self.log)

    def ready(self) -> bool:
        """True once the broker answers a metadata request with itself: an open port is not enough."""
        return broker_count("127.0.0.1", self.port) > 0

    def start(self) -> Self:
        """Run the broker and wait until clients can use it.

        Raises:
            StartFailedError: it ended or took longer than a minute.
        """
        self._child = Child(self.prepare())
        self._child.start()
        self._child.wait_until(self.ready, _READY_S)
        return self

    def stop(self) -> None:
        """Stop the broker; its data stays."""
        if self._child is not None:
            self._child.stop()

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

    def _write_settings(self) -> Path:
        controller = free_port()
        settings = {
            **_PROPERTIES,
            "listeners": f"PLAINTEXT://127.0.0.1:{self.port},CONTROLLER://127.0.0.1:{controller}",
            "controller.quorum.bootstrap.servers": f"127.0.0.1:{controller}",
            "log.dirs": str(self.folder / "data"),
            **self._properties,
        }
        path = self.folder / "server.properties"
        path.write_text("".join(f"{key}={value}\n" for key, value in settings.items()), encoding="utf-8")
        (self.folder / "log4j2.properties").write_text(_LOGGING, encoding="utf-8")
        return path

    def _format(self, base: tuple[str, ...], settings: Path) -> None:
        # A leading "-" would be taken for an option.
        cluster = urlsafe_b64encode(uuid4().bytes).decode().rstrip("=").replace("-", "_")
        tool = ("kafka.tools.StorageTool", "format", "--standalone", "-t", cluster, "-c", str(settings))
        done = subprocess.run([*base, *tool], capture_output=True, text=True, check=False, timeout=_READY_S)
        if done.returncode:
            raise StartFailedError(f"kafka: cannot format {self.folder}\n{done.stdout[-2000:]}{done.stderr[-2000:]}")


def _quiet(executable: Path) -> tuple[str, ...]:
    release = executable.parent.parent / "release"
    text = release.read_text(encoding="utf-8") if release.exists() else ""
    version = next((line.split('"')[1] for line in text.splitlines() if line.startswith("JAVA_VERSION=")), "0")
    return (_QUIET,) if int(version.split(".")[0]) >= _UNSAFE_SINCE else ()


def broker_count(host: str, port: int, timeout_s: float = 2.0) -> int:
    """How many brokers the one at `host:port` knows; 0 if it does not answer.

    One Metadata request, version 1 (https://kafka.apache.org/protocol#The_Messages_Metadata), written by hand so that
    asking needs no client, no event loop and no log lines while the broker is still starting.
    """
    client = b"tidemill"
    body = struct.pack(">hhih", 3, 1, 1, len(client)) + client + struct.pack(">i", 0)  # no topics: brokers only
    try:
        with socket.create_connection((host, port), timeout=timeout_s) as connection:
            connection.settimeout(timeout_s)
            connection.sendall(struct.pack(">i", len(body)) + body)
            answer = _receive(connection, 12)  # size, correlation id, length of the broker array
    except OSError:
        return 0
    return int(struct.unpack(">iii", answer)[2])


def _receive(connection: socket.socket, size: int) -> bytes:
    received = b""
    while len(received) < size:
        part = connection.recv(size - len(received))
        if not part:
            raise ConnectionError("closed before the answer")
        received += part
    return received
