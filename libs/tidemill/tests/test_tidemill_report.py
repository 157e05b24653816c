from copy import deepcopy
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

from tidemill.demo.report import render, write_html

DAY = 86_400_000_000
START = 15_706 * DAY
MEASURES = {"log_loss": 0.41, "brier": 0.1, "auc": 0.7, "pr_auc": 0.5, "n": 10}
PAIR = {"loop": MEASURES, "frozen": MEASURES | {"log_loss": 0.46, "auc": None}}
EVIL = "<script>alert(1)</script>"
REPORT: dict[str, Any] = {
    "decisions_digest": "abcdef0123456789",
    "options": {"days": 90, "inject": True, "kill": True},
    "ledger": {"events": {"accepted": 1000, "dead_lettered": 0}, "predictions": {"answered": 900}},
    "ledger_broken": [],
    "quality": {**PAIR, "months": {"2013-02": PAIR}, "recovered": PAIR},
    "counts": {"drifts": 1, "runs": 2, "releases": 2, "swaps": 2},
    "memory_mib": {"total": 2000.0, "kafka": 500.0},
    "memory_samples": {"kafka": [(0.0, 300.0), (2.0, 410.0), (4.0, 420.0)]},
    "kills": [{"victim": "serving", "at_us": START, "back_after_s": 1.5}],
    "phases": {"loop": 12.5},
    "timeline": {
        "change_us": START + DAY,
        "curves": {"day_us": [START, START + DAY], "loop": [0.40, 0.42], "frozen": [0.45, None]},
        "events": {
            "drift": [
                {"at_us": START, "kind": "concept", "subject": EVIL, "effect": 0.1, "before": 0.4, "after": None,
                 "detector": "adwin"},
                *(
                    {"at_us": START, "kind": "input", "subject": f"f{n}", "effect": n / 10, "before": 0.1, "after": 0.2,
                     "detector": "population"} for n in range(6)
                ),
            ],
            "training": [{"at_us": START, "request_id": "r", "cause": {"kind": "drift", "detail": EVIL}}],
            "runs": [],
            "versions": [{"at_us": START, "version": 2, "verdict": "pass"}],
            "releases": [
                {"at_us": START, "effective_at_us": START + DAY, "epoch": 2, "members": [{"version": 2}],
                 "reason": {"kind": "gate"}},
            ],
        },
    },
    "example": {"prediction_id": "p-1", "steps": [{"what": "view <b>", "which": EVIL}]},
}  # fmt: skip
VOID = {"meta", "br", "line", "circle", "polyline"}


class Reader(HTMLParser):
    """Tags, attributes and text of a page."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.tags: list[str] = []
        self.attributes: list[tuple[str, str | None]] = []
        self.text = ""
        self.feed(page)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        self.attributes += attrs

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_shows_both_curves_and_what_happened() -> None:
    page = Reader(render(REPORT))
    assert page.tags.count("polyline") == 2
    assert page.tags.count("circle") == 10
    for part in ("1,000", "0.4100", "abcdef01", "410", "Every equation holds.", "serving (back after 1.5 s)", "2013-02",
                 "tidemill lineage p-1", "version 2: pass", "f3 (0.30), f2 (0.20) and 2 more",
                 "from a week after the change"):  # fmt: skip
        assert part in page.text


def test_text_from_elsewhere_is_escaped() -> None:
    report = deepcopy(REPORT)
    report["ledger_broken"] = [f"a {EVIL}"]
    page = Reader(render(report))
    assert "script" not in page.tags
    assert page.text.count(EVIL) >= 4


def test_the_page_needs_nothing_else() -> None:
    page = Reader(render(REPORT))
    assert not {"script", "link", "img", "iframe"} & set(page.tags)
    assert not [value for name, value in page.attributes if name in {"src", "href"}]
    assert "url(" not in render(REPORT)


def test_a_run_without_labels_has_a_page_too(tmp_path: Path) -> None:
    report = deepcopy(REPORT)
    report["timeline"]["curves"] = {"day_us": [], "loop": [], "frozen": []}
    report["example"] = {"prediction_id": None, "steps": []}
    write_html(report, tmp_path / "report.html")
    page = (tmp_path / "report.html").read_text()
    assert "There are no labelled predictions yet." in page
    assert "There was no labelled prediction to show." in page
