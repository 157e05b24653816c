"""The embedded stack: Kafka, Postgres and the services as child processes of one supervisor."""

from tidemill.stack.control import Stack
from tidemill.stack.errors import AlreadyRunningError, NotRunningError, StackError, StartFailedError
from tidemill.stack.files import Endpoints, Process, Service
from tidemill.stack.kafka import LocalKafka
from tidemill.stack.paths import Home
from tidemill.stack.postgres import LocalPostgres

__all__ = [
    "AlreadyRunningError",
    "Endpoints",
    "Home",
    "LocalKafka",
    "LocalPostgres",
    "NotRunningError",
    "Process",
    "Service",
    "Stack",
    "StackError",
    "StartFailedError",
]
