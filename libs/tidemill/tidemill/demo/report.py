"""The report as one self-contained page: a picture of the loop over time, the counts, the quality, what was decided."""

import html
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tidemill.demo.picture import picture

SHOWN = 4
STYLE = """
:root{--ink:#16202a;--soft:#5b6875;--line:#dde3e8}
:root{--loop:#0b6e99;--frozen:#c2571a;--drift:#b3261e;--training:#7a5cc2;--releases:#2e7d32;--change:#16202a}
*{box-sizing:border-box}
body{font:15px/1.5 system-ui,sans-serif;color:var(--ink);margin:0;background:#f6f8f9}
main{max-width:1180px;margin:0 auto;padding:28px 24px 60px}
h1{font-size:26px;margin:0 0 4px}
h2{font-size:17px;margin:34px 0 10px}
p.lead{color:var(--soft);margin:0 0 20px}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(170px,1fr));gap:12px}
.card,figure,table{background:#fff;border:1px solid var(--line);border-radius:8px}
.card{padding:12px 14px}
.card b{display:block;font-size:22px;font-weight:600}
.card span{color:var(--soft);font-size:13px}
figure{margin:0;padding:12px}
svg{width:100%;height:auto;display:block}
svg text{font:12px system-ui,sans-serif;fill:var(--soft)}
table{border-collapse:collapse;width:100%;font-size:14px}
th,td{text-align:left;padding:6px 12px;border-bottom:1px solid var(--line)}
td:first-child,th:first-child{white-space:nowrap}
td.n,th.n{text-align:right;font-variant-numeric:tabular-nums}
tr:last-child td{border-bottom:0}
.ok{color:#2e7d32}
.bad{color:#b3261e}
code{font-size:13px}
.legend span{margin-right:18px;font-size:13px}
.legend i{display:inline-block;width:12px;height:12px;border-radius:3px;margin-right:6px;vertical-align:-1px}
"""


def write_html(report: dict[str, Any], path: Path) -> None:
    """Write the page beside the JSON report."""
    path.write_text(render(report), encoding="utf-8")


def render(report: dict[str, Any]) -> str:
    """The page: no script, no other file, no address of a third party."""
    sections = [
        _cards(report),
        "<h2>The loop over time</h2>",
        picture(report["timeline"]),
        "<h2>Quality by month</h2>",
        _quality(report["quality"]),
        "<h2>Nothing lost, nothing twice</h2>",
        _ledger(report),
        "<h2>What was decided</h2>",
        _decisions(report["timeline"]["events"]),
        "<h2>Lineage of one prediction</h2>",
        _example(report["example"]),
        "<h2>Time and memory</h2>",
        _resources(report),
    ]
    days = report["options"]["days"]
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content='width=device-width'>"
        f"<title>Tidemill: {days} days of flights</title><style>{STYLE}</style><main>"
        f"<h1>A model kept good over {days} days of flights</h1>"
        "<p class=lead>Arrival delays of flights leaving New York in 2013, predicted at scheduled departure and "
        "learned hours later. "
        "<b>Loop</b> is what was answered; <b>frozen</b> is the January model, scoring the very same vectors.</p>"
        + "".join(sections)
        + "</main></html>"
    )


def _cards(report: dict[str, Any]) -> str:
    loop, frozen = report["quality"]["loop"], report["quality"]["frozen"]
    ledger, counts = report["ledger"], report["counts"]
    items = [
        (f"{ledger['events']['accepted']:,}", "events accepted"),
        (f"{ledger['predictions']['answered']:,}", "predictions answered"),
        (_number(loop["log_loss"]), f"log-loss of the loop (frozen {_number(frozen['log_loss'])})"),
        (f"{counts['drifts']} / {counts['runs']} / {counts['releases']}", "drifts / runs / releases"),
        ("yes" if not report["ledger_broken"] else "NO", "every count adds up"),
        (report["decisions_digest"][:8], "digest of all decisions"),
    ]
    return (
        "<div class=cards>"
        + "".join(f"<div class=card><b>{b}</b><span>{html.escape(t)}</span></div>" for b, t in items)
        + "</div>"
    )


def _quality(quality: dict[str, Any]) -> str:
    rows = [("all", quality), *quality["months"].items()]
    if "recovered" in quality:
        rows.append(("from a week after the change", quality["recovered"]))
    body = []
    for name, pair in rows:
        loop, frozen = pair["loop"], pair["frozen"]
        better = loop["log_loss"] is not None and loop["log_loss"] <= frozen["log_loss"]
        cells = [_number(pair[who][m]) for m in ("log_loss", "brier", "auc", "pr_auc") for who in ("loop", "frozen")]
        body.append(
            [
                name,
                f"{loop['n']:,}",
                *cells,
                f"<span class={'ok' if better else 'bad'}>{'better' if better else 'worse'}</span>",
            ]
        )
    header = ["month", "n", "log-loss", "frozen", "Brier", "frozen", "AUC", "frozen", "PR-AUC", "frozen", ""]
    return _table(header, body)


def _ledger(report: dict[str, Any]) -> str:
    rows = [
        [part, ", ".join(f"{name.replace('_', ' ')} {count:,}" for name, count in counts.items())]
        for part, counts in report["ledger"].items()
    ]
    broken = report["ledger_broken"]
    verdict = (
        "<p class=ok>Every equation holds.</p>"
        if not broken
        else "<p class=bad>" + "<br>".join(map(html.escape, broken)) + "</p>"
    )
    return verdict + _table(["", "counted in durable rows and topics"], rows)


def _decisions(events: dict[str, list[dict[str, Any]]]) -> str:
    lines = _drifts(events["drift"])
    lines += [(e["at_us"], "training", f"{e['cause']['kind']} {e['cause']['detail']}") for e in events["training"]]
    lines += [
        (e["at_us"], "gate", f"version {e['version']}: {e['verdict']}") for e in events["versions"] if "verdict" in e
    ]
    lines += [
        (
            e["effective_at_us"] or e["at_us"],
            "release",
            f"epoch {e['epoch']}, version {e['members'][0]['version']}: {e['reason']['kind']}",
        )
        for e in events["releases"]
    ]
    rows = [[_when(us), kind, html.escape(text)] for us, kind, text in sorted(lines)]
    return _table(["event time", "", ""], rows)


def _drifts(events: list[dict[str, Any]]) -> list[tuple[int, str, str]]:
    """A line for each drift; inputs that drift at the same moment share one."""
    lines, inputs = [], dict[int, list[dict[str, Any]]]()
    for e in events:
        if e["kind"] == "input":
            inputs.setdefault(e["at_us"], []).append(e)
        else:
            change = f"{_number(e['before'])} to {_number(e['after'])}"
            lines.append((e["at_us"], "drift", f"{e['kind']} of {e['subject']}: {change} ({e['detector']})"))
    for at_us, found in inputs.items():
        by_effect = sorted(found, key=lambda e: -float(e["effect"]))
        names = ", ".join(f"{e['subject']} ({e['effect']:.2f})" for e in by_effect[:SHOWN])
        more = f" and {len(found) - SHOWN} more" if len(found) > SHOWN else ""
        lines.append((at_us, "drift", f"inputs, by stability index: {names}{more}"))
    return lines


def _example(example: dict[str, Any]) -> str:
    if not example.get("prediction_id"):
        return "<p>There was no labelled prediction to show.</p>"
    steps = [
        [html.escape(str(step["what"])), f"<code>{html.escape(str(step['which']))}</code>"] for step in example["steps"]
    ]
    command = f"tidemill lineage {example['prediction_id']}"
    return f"<p id=lineage><code>{html.escape(command)}</code> prints this chain:</p>" + _table(["", ""], steps)


def _resources(report: dict[str, Any]) -> str:
    phases = _table(["phase", "seconds"], [[name, f"{seconds:.1f}"] for name, seconds in report["phases"].items()])
    memory = _table(
        ["process", "peak MiB", "half-way", "at the end"],
        [
            [name, f"{mib:,.0f}", *_course(report["memory_samples"].get(name, []))]
            for name, mib in report["memory_mib"].items()
        ],
    )
    kills = report["kills"]
    killed = (
        ""
        if not kills
        else "<p>Killed on the way: "
        + ", ".join(f"{k['victim']} (back after {k['back_after_s']} s)" for k in kills)
        + ".</p>"
    )
    return f"{killed}<div class=cards style='grid-template-columns:1fr 1fr'>{phases}{memory}</div>"


def _course(samples: Sequence[tuple[float, float]]) -> list[str]:
    """What a process held half-way and at the end: flat, unless something leaks."""
    return ["", ""] if not samples else [f"{samples[i][1]:,.0f}" for i in (len(samples) // 2, -1)]


def _table(header: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{cell}</th>" for cell in header)
    body = "".join("<tr>" + "".join(f"<td>{cell}</td>" for cell in row) + "</tr>" for row in rows)
    return f"<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.4f}"  # noqa: RUF001 - an en dash stands for no value


def _when(us: int) -> str:
    return datetime.fromtimestamp(us / 1_000_000, UTC).strftime("%d %b %H:%M")
