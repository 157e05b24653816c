"""Ids that are drawn many at a time are what the standards ask for, each once, and another in every process."""

import os
from uuid import RFC_4122, UUID

from tidemill_runtime.drawn import drawn
from tidemill_runtime.telemetry import is_traceparent


def test_uuids_are_of_version_4_and_each_is_given_once() -> None:
    found = [drawn.uuid() for _ in range(10_000)]
    assert len(set(found)) == len(found)
    for text in found:
        read = UUID(text)
        assert (read.version, read.variant, str(read)) == (4, RFC_4122, text)
    assert {text[19] for text in found} == set("89ab")
    assert {text[0] for text in found} == set("0123456789abcdef")


def test_traces_are_new_and_sampled() -> None:
    found = [drawn.traceparent() for _ in range(1000)]
    assert all(is_traceparent(text) and text.endswith("-01") for text in found)
    assert len({text[3:35] for text in found}) == len({text[36:52] for text in found}) == len(found)


def test_a_forked_process_draws_others() -> None:
    drawn.uuid()
    drawn.traceparent()
    read, write = os.pipe()
    child = os.fork()
    if child == 0:
        os.write(write, f"{drawn.uuid()} {drawn.traceparent()} {drawn.take(8)}".encode())
        os._exit(0)
    os.waitpid(child, 0)
    theirs = os.read(read, 1000).decode().split()
    assert len(theirs) == 3
    assert not {drawn.uuid(), drawn.traceparent(), drawn.take(8)}.intersection(theirs)
