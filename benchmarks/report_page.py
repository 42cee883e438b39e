"""Response time of the event browser with 2,000 events in Chromium, and size of the page.

    PYTHONPATH=tests python benchmarks/report_page.py

The run consists of straight tracks, as in the tests; real events have about 20 times as many pixels, but only those of
the displayed event are decoded. Times are measured inside the page, from the change to the end of the layout: median
and maximum of 20. Writes results/report_page.json beside this file.
"""

import json
import tempfile
from pathlib import Path

from headless import chromium, opened
from report_on_disk import make_report
from run_on_disk import write_run

EVENTS = 2000
MEASURE = """change => {
  const times = [];
  for (let i = 0; i < 20; i++) {
    const begin = performance.now();
    choice.change(change[i % change.length]);
    document.body.offsetHeight; // the layout is part of it
    times.push(performance.now() - begin);
  }
  times.sort((a, b) => a - b);
  return { median_ms: times[10], highest_ms: times[19] };
}"""
CHANGES = {
    "filter": [{"model.vlm": "wrong"}, {"model.vlm": ""}],
    "sort": [{"sort": "energy"}, {"sort": "differ"}, {"sort": ""}],
    "next event": [{"event": "first/1003"}, {"event": "first/1010"}, {"event": "second/2000"}],
}


def main() -> None:
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        _, numbers = make_report(write_run(folder, n=3300), folder, count=EVENTS)
        page_path = folder / "report" / "index.html"
        with chromium() as browser, opened(browser, page_path) as page:
            measured = {what: page.evaluate(MEASURE, changes) for what, changes in CHANGES.items()}
            nodes = page.evaluate("document.querySelectorAll('#browser *').length")
        result = {
            "events": len(numbers["gallery"]),
            "page_mb": page_path.stat().st_size / 1e6,
            "browser_nodes": nodes,
            **measured,
        }
    out = Path(__file__).parent / "results" / "report_page.json"
    out.write_text(json.dumps(result, indent=1) + "\n")
    print(out.read_text())


if __name__ == "__main__":
    main()
