"""The explorer's page in a browser: first paint, and how fast it answers a pointer.

The record has 12 layers of 12 heads over 128 tokens, the size of BERT base. The page is opened from
a file in headless Chromium. A hover is measured from the event to the end of style and layout.

    python benchmarks/explorer.py
"""

import copy
import os
import platform
import statistics
import tempfile
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from qkv.explorer.look import look, make_view
from qkv.explorer.saved import PAGE, page_with
from qkv.tasks.console import show_table
from qkv.tasks.task import find_task

CHROMIUM = "/usr/bin/chromium"
TOKENS = 128
HOVER = """
async ([selector, n]) => {
  const times = [];
  const all = [...document.querySelectorAll(selector)];
  for (let x = 0; x < n; x++) {
    const one = all[(x * 7) % all.length];
    const box = one.getBoundingClientRect();
    const at = {clientX: box.left + box.width * ((x * 37) % 101) / 101,
                clientY: box.top + box.height * ((x * 53) % 103) / 103, bubbles: true};
    await new Promise(requestAnimationFrame);
    const start = performance.now();
    one.dispatchEvent(new PointerEvent(all.length > 1 ? "pointerenter" : "pointermove", at));
    await Promise.resolve();
    await Promise.resolve();
    document.body.offsetHeight;
    times.push(performance.now() - start);
  }
  return times;
}
"""


def large_page() -> str:
    """Return a page with 12 x 12 heads over 128 tokens."""
    pipeline = find_task("classify").pipeline.load("sentiment-small")
    blocks = pipeline.model.encoder.stack.blocks
    blocks.extend(copy.deepcopy(list(blocks)))
    sentence = "the film was a wonderful surprise although it began very badly "
    text = " ".join((sentence * TOKENS).split()[: TOKENS - 2])
    view = make_view(pipeline, "classify", {"text": text})
    record = look(pipeline.model, view, name="large", effects=True).record
    shapes = [record.tensors[a["tensors"]["weights"]].shape for a in record.header["attention"]]
    assert shapes == [(12, TOKENS, TOKENS)] * 12, shapes
    return page_with(record)


def measure(page: Page, address: str) -> dict[str, float]:
    """Return milliseconds: first paint, the whole page, and hovers over matrix and tokens."""
    page.goto(address + "#picture=matrix")
    page.locator("[data-picture=matrix]").wait_for()
    shown = page.evaluate("performance.now()")
    paint = page.evaluate("performance.getEntriesByName('first-contentful-paint')[0].startTime")
    hovers = {
        what: page.evaluate(HOVER, [selector, 120])
        for what, selector in (("matrix", "[data-picture=matrix]"), ("token", ".tokens .token"))
    }
    results = {"first paint": paint, "all regions": shown}
    for what, times in hovers.items():
        results[f"hover over {what}, median"] = statistics.median(times)
        results[f"hover over {what}, 95 %"] = sorted(times)[int(0.95 * len(times))]
    return results


def main() -> None:
    """Measure five times, and print medians."""
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as started:
        path = Path(folder, "page.html")
        path.write_text(large_page(), encoding="utf-8")
        browser = started.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        runs = []
        for _ in range(5):
            context = browser.new_context(offline=True, viewport={"width": 1280, "height": 900})
            runs.append(measure(context.new_page(), path.as_uri()))
            context.close()
        rows = [
            {"what": what, "median, ms": f"{statistics.median(run[what] for run in runs):.1f}"}
            for what in runs[0]
        ]
        title = (
            f"page {PAGE.stat().st_size / 1000:.1f} kB, with the record "
            f"{path.stat().st_size / 1e6:.1f} MB; Chromium {browser.version}, "
            f"{platform.machine()}, {os.cpu_count()} cores"
        )
        show_table(title, rows)
        browser.close()


if __name__ == "__main__":
    main()
