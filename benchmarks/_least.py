"""A server that does nothing but refuse: what reading a request and writing a short answer cost the kernel here.

It is compiled, so that next to nothing of its processor time is its own: no server can refuse for less.
"""

import ctypes
import select
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import numba
import numpy as np
from _rush_loop import (
    ADD,
    EPOLL_IN,
    EVENTS,
    IDLE_MS,
    NO_SIGNAL,
    WORDS,
    Bytes,
    c_function,
    c_receive,
    c_send,
    epoll_ctl,
    epoll_wait,
)

from tidemill.stack.process import free_port

BODY = b'{"error":"overloaded: more requests arrive than can be answered in time"}'
HEAD = b"HTTP/1.1 503 Service Unavailable\r\ncontent-type: application/json\r\nretry-after: 1\r\n"
ANSWER = b"%bcontent-length: %d\r\n\r\n%b" % (HEAD, len(BODY), BODY)
BACKLOG = 4096
_int, _at = ctypes.c_int, ctypes.c_void_p
c_accept, c_close = c_function("accept", _int, _at, _at), c_function("close", _int)


@numba.njit(nogil=True)
def refuse(epoll: int, listening: int, answer: Bytes) -> None:
    """Accept everybody and answer whatever comes with the same, for ever."""
    events, event = np.zeros((EVENTS, WORDS), dtype=np.uint32), np.zeros(WORDS, dtype=np.uint32)
    buffer = np.empty(1 << 20, dtype=np.uint8)
    event[0], event[WORDS - 2] = EPOLL_IN, listening
    epoll_ctl(epoll, ADD, listening, event.ctypes.data)
    while True:
        for each in range(epoll_wait(epoll, events.ctypes.data, EVENTS, IDLE_MS)):
            fd = int(events[each, WORDS - 2])
            if fd == listening:
                fd = c_accept(listening, 0, 0)
                event[WORDS - 2] = fd
                epoll_ctl(epoll, ADD, fd, event.ctypes.data)
            elif c_receive(fd, buffer.ctypes.data, len(buffer), 0) > 0:
                c_send(fd, answer.ctypes.data, len(answer), NO_SIGNAL)
            else:
                c_close(fd)


@contextmanager
def refuser() -> Iterator[str]:
    """The URL of such a server in a process of its own, on the cores of the caller."""
    port = free_port()
    child = subprocess.Popen([sys.executable, __file__, str(port)], stdout=subprocess.PIPE)
    try:
        assert child.stdout is not None
        child.stdout.readline()
        yield f"http://127.0.0.1:{port}/"
    finally:
        child.terminate()
        child.wait(10)


if __name__ == "__main__":
    with socket.create_server(("127.0.0.1", int(sys.argv[1])), backlog=BACKLOG) as server, select.epoll() as waiting:
        sys.stdout.write("listens\n")
        sys.stdout.flush()
        refuse(waiting.fileno(), server.fileno(), np.frombuffer(ANSWER, dtype=np.uint8))
