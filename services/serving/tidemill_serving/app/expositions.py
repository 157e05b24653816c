"""Several expositions of Prometheus' text format as one: a worker's label on every sample.

Each worker's counters stay its own: a sum over workers would fall when one is started again, and a fall is what
Prometheus takes for a restart of all. Sums are for the query: `sum without (worker) (...)`.
"""

from collections.abc import Mapping


def labelled(texts: Mapping[int, bytes]) -> bytes:
    """The families of all texts, each with its comments once."""
    comments, samples = dict[str, list[str]](), dict[str, list[str]]()
    for worker, text in sorted(texts.items()):
        family = ""
        for line in text.decode("utf-8").splitlines():
            if line.startswith("#"):
                name = line.split(" ", 3)[2]
                if line.startswith("# HELP "):
                    family = name
                    samples.setdefault(family, [])
                known = comments.setdefault(family, [])
                if line not in known:
                    known.append(line)
            elif line:
                samples.setdefault(family, []).append(_with(worker, line))
    lines = [line for family, own in samples.items() for line in (*comments.get(family, ()), *own)]
    return ("\n".join(lines) + "\n").encode()


def _with(worker: int, line: str) -> str:
    name, brace, rest = line.partition("{")
    if brace and " " not in name:
        return f'{name}{{worker="{worker}",{rest}'
    name, _, value = line.partition(" ")
    return f'{name}{{worker="{worker}"}} {value}'
