"""The embedded stack: Kafka, Postgres and the services as child processes of one supervisor."""

from tidemill.stack.errors import AlreadyRunningError, NotRunningError, StackError, StartFailedError
from tidemill.stack.kafka import LocalKafka
from tidemill.stack.postgres import LocalPostgres

__all__ = ["AlreadyRunningError", "LocalKafka", "LocalPostgres", "NotRunningError", "StackError", "StartFailedError"]
