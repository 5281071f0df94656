"""A page in a headless Chromium: what is wrong with it at each width, in light or dark."""

import json
import re
import shutil
import subprocess
from collections.abc import Sequence
from html import escape, unescape
from pathlib import Path
from typing import Any

import pytest

CHROMIUM = next((path for name in ("chromium", "chromium-browser", "google-chrome") if (path := shutil.which(name))), None)
needs_browser = pytest.mark.skipif(CHROMIUM is None, reason="no chromium, chromium-browser or google-chrome on this machine")

FLAGS = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking"]
FLAGS += ["--disable-component-update", "--disable-sync", "--hide-scrollbars", "--enable-logging=stderr", "--dump-dom"]
MEASURE = """
addEventListener("load", () => {
  const seen = frame => {
    const page = frame.contentDocument, root = page.documentElement, here = frame.contentWindow;
    const boxes = [...page.querySelectorAll("svg")].map(svg => [svg, svg.getBoundingClientRect()]);
    const texts = [...page.querySelectorAll("svg text")].map(text => [text, text.getBoundingClientRect()]);
    const shared = (a, b, from, to) => Math.min(a[to], b[to]) - Math.max(a[from], b[from]);
    const meet = (a, b) => shared(a, b, "left", "right") > 1 && shared(a, b, "top", "bottom") > 1;
    const over = ([one, a], n) => texts.slice(n + 1).filter(([two, b]) => one.ownerSVGElement == two.ownerSVGElement && meet(a, b))
      .map(([two]) => one.textContent + " | " + two.textContent);
    const lettered = [...page.querySelectorAll("body *")].filter(e => [...e.childNodes].some(n => n.nodeType == 3 && n.data.trim()));
    const px = e => parseFloat(here.getComputedStyle(e).fontSize) * (e.getScreenCTM ? e.getScreenCTM().a : 1);
    return {
      width: root.clientWidth, needed: root.scrollWidth, dark: here.matchMedia("(prefers-color-scheme: dark)").matches,
      pictures: boxes.length, drawn: boxes.filter(([svg, box]) => box.width > 0 && box.height > 0 && svg.childElementCount > 0).length,
      pairs: texts.flatMap(over),
      small: lettered.filter(e => px(e) > 0 && here.getComputedStyle(e).display != "none").map(e => [px(e), e.textContent.trim()])
    };
  };
  document.body.dataset.seen = JSON.stringify([...document.querySelectorAll("iframe")].map(seen));
});
"""


def faults_of(html: str, folder: Path, *, dark: bool, widths: Sequence[int] = (400, 1400), smallest_px: float = 11) -> list[str]:
    """What a reader of the page would mind at these widths (pixels): sideways scrolling, pictures not drawn,
    labels over one another, letters below smallest_px, errors.

    Each width is that of a frame: a headless Chromium has no window narrower than 500 pixels. The page itself stays as it is.
    """
    frames = [f'<iframe style="border: 0; height: 900px; width: {width}px" srcdoc="{escape(html)}"></iframe>' for width in widths]
    # a frame takes its colours from the page around it, which therefore has to know both
    head = '<!doctype html><meta charset="utf-8"><meta name="color-scheme" content="light dark">'
    page = folder / "framed.html"
    page.write_text(f"{head}<script>{MEASURE}</script><body>{''.join(frames)}</body>")
    own = [f"--user-data-dir={folder}/browser", f"--blink-settings=preferredColorScheme={int(not dark)}", "--window-size=1600,900"]
    process = subprocess.run([CHROMIUM or "", *FLAGS, *own, page.as_uri()], capture_output=True, text=True, timeout=120, check=True)
    found = re.search(r'data-seen="([^"]*)"', process.stdout)
    assert found, process.stderr
    errors = [line for line in process.stderr.splitlines() if "CONSOLE" in line]
    seen: list[dict[str, Any]] = json.loads(unescape(found[1]))
    assert len(seen) == len(widths)
    return errors + [fault for width, one in zip(widths, seen, strict=True) for fault in _faults(width, one, dark, smallest_px)]


def _faults(width: int, seen: dict[str, Any], dark: bool, smallest_px: float) -> list[str]:
    assert (seen["width"], seen["dark"]) == (width, dark)  # else something else was looked at
    faults = [f"{width} px: needs {seen['needed']}"] if seen["needed"] != width else []
    if seen["drawn"] != seen["pictures"]:
        faults.append(f"{width} px: {seen['drawn']} of {seen['pictures']} pictures drawn")
    faults += [f"{width} px: {pair} meet" for pair in seen["pairs"]]
    return faults + [f"{width} px: letters of {px:.1f} px: {text}" for px, text in seen["small"] if px < smallest_px - 0.05]
