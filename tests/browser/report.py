"""Opens the page of `atedm report` in headless Chromium.

The script makes a small ablation of a tiny checkpoint with random weights, writes its page and opens it. It checks that nothing is
fetched, that the console stays clean, that columns sort and that the before/after slider moves. It also checks that what users wrote
stays text. At 1300 and at 390 pixels, the page fits, and no two texts of a chart overlap. It takes screenshots for a person to look at.

Usage: python3 tests/browser/report.py [--atedm target/debug/atedm] [--out target/browser]

It needs Chromium (Debian: apt-get install chromium) and only Python's standard library. It speaks the DevTools protocol over a pair of
pipes.
"""

import argparse
import base64
import json
import os
import pathlib
import select
import shutil
import subprocess
import sys
import tempfile
import time

HOSTILE = "<img src=http://127.0.0.1:9/x onerror=alert(1)> & \"quotes\" </script><script>alert(2)</script>"

CONFIG = f"""
title = {json.dumps("Recovery <b>and</b> ratio")}
steps = 4
width = 128
height = 128
guidance_scale = 3

[prompts]
fox = "a red fox in the snow, photograph, early morning light"
hostile = {json.dumps(HOSTILE)}
lighthouse = "a lighthouse on a cliff"
owl = "an owl"

[[grid]]
method = "none"
[[grid]]
name = "at-edm"
method = "at-edm"
options = {{ tau = 1 }}
each = {{ recovery = ["similarity", "zero"], ratio = [0.3, 0.5, 0.7] }}
[[grid]]
method = "tome-c"
"""


class Browser:
    """A headless Chromium with one page, driven over the DevTools protocol."""

    def __init__(self, program, profile):
        to_browser, self.commands = os.pipe()
        self.answers, from_browser = os.pipe()

        def fds():  # Chromium reads commands from descriptor 3 and answers on 4
            kept = [os.dup(to_browser), os.dup(from_browser)]
            high = [os.dup2(fd, 100 + index) for index, fd in enumerate(kept)]
            os.dup2(high[0], 3)
            os.dup2(high[1], 4)

        flags = ["--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run",
                 "--disable-background-networking", "--disable-component-update", "--disable-sync",
                 "--hide-scrollbars", "--force-device-scale-factor=1", "--remote-debugging-pipe",
                 f"--user-data-dir={profile}", "about:blank"]
        self.process = subprocess.Popen([program, *flags], preexec_fn=fds, close_fds=False,
                                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        os.close(to_browser)
        os.close(from_browser)
        self.buffer, self.number, self.events = b"", 0, []
        target = self.ask("Target.createTarget", url="about:blank", session=None)["targetId"]
        self.session = self.ask("Target.attachToTarget", targetId=target, flatten=True, session=None)["sessionId"]
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.ask(f"{domain}.enable")
        self.resize(1300)

    def resize(self, width):
        self.width = width
        self.ask("Emulation.setDeviceMetricsOverride", width=width, height=900, deviceScaleFactor=1, mobile=False)

    def receive(self, seconds):
        """The next message, or None if there is none within that time."""
        end = time.monotonic() + seconds
        while b"\0" not in self.buffer:
            left = end - time.monotonic()
            if left <= 0 or not select.select([self.answers], [], [], left)[0]:
                return None
            more = os.read(self.answers, 1 << 20)
            if not more:
                raise SystemExit("error: chromium ended early")
            self.buffer += more
        message, self.buffer = self.buffer.split(b"\0", 1)
        return json.loads(message)

    def ask(self, method, session="own", **parameters):
        """Sends a command and gives its result. It keeps the events that arrive before it."""
        self.number += 1
        command = {"id": self.number, "method": method, "params": parameters}
        if session == "own":
            command["sessionId"] = self.session
        os.write(self.commands, json.dumps(command).encode() + b"\0")
        while True:
            message = self.receive(60)
            if message is None:
                raise SystemExit(f"error: chromium does not answer {method}")
            if message.get("id") == self.number:
                if "error" in message:
                    raise SystemExit(f"error: {method}: {message['error']['message']}")
                return message["result"]
            self.events.append(message)

    def settle(self, seconds=0.5):
        """Waits until nothing has happened for that time."""
        while (message := self.receive(seconds)) is not None:
            self.events.append(message)

    def open(self, path):
        self.events.clear()
        self.ask("Page.navigate", url=path.resolve().as_uri())
        self.settle()

    def run(self, script):
        """The value of an expression in the page."""
        answer = self.ask("Runtime.evaluate", expression=script, returnByValue=True, awaitPromise=True)
        if "exceptionDetails" in answer:
            raise SystemExit(f"error: {script}: {answer['exceptionDetails']}")
        return answer["result"].get("value")

    def screenshot(self, clip=None):
        more = {"clip": {**clip, "scale": 1}} if clip else {}
        return base64.b64decode(self.ask("Page.captureScreenshot", captureBeyondViewport=True, **more)["data"])

    def whole_page(self):
        height = self.run("document.documentElement.scrollHeight")
        return self.screenshot({"x": 0, "y": 0, "width": self.width, "height": min(height, 12000)})

    def press(self, key):
        code = {"End": 35, "Home": 36, "ArrowRight": 39, "Escape": 27, "Enter": 13}[key]
        for kind in ("keyDown", "keyUp"):
            self.ask("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)

    def troubles(self, page):
        """Requests for anything but the page itself, and errors of its console."""
        found = []
        for event in self.events:
            name, what = event.get("method"), event.get("params", {})
            if name == "Network.requestWillBeSent":
                url = what["request"]["url"]
                if url != page.resolve().as_uri() and not url.startswith("data:"):
                    found.append(f"request: {url}")
            elif name == "Runtime.exceptionThrown":
                found.append(f"exception: {what['exceptionDetails'].get('text')}")
            elif name == "Runtime.consoleAPICalled" and what["type"] in ("error", "assert"):
                found.append(f"console: {what['args']}")
            elif name == "Log.entryAdded" and what["entry"]["level"] in ("error", "warning"):
                found.append(f"log: {what['entry']['text']}")
        return found

    def close(self):
        self.ask("Browser.close", session=None)
        self.process.wait(timeout=20)


CHECKS = []


def check(name, found, expected):
    CHECKS.append(found == expected)
    print(f"{'ok  ' if found == expected else 'FAIL'} {name}" + ("" if found == expected else f": {found!r}, not {expected!r}"))


def column(browser, title):
    """The values of a column of the table of points, top to bottom. They are numbers, or None if there is none."""
    return browser.run(f"""(() => {{
        const table = document.querySelector("#results table");
        const at = [...table.tHead.rows[0].cells].findIndex(head => head.querySelector("button").textContent === {title!r});
        return [...table.tBodies[0].rows].map(row => row.cells[at].dataset.value).map(value => value === undefined ? null : Number(value));
    }})()""")


def click_head(browser, title):
    browser.run(f"""[...document.querySelectorAll("#results thead button")].find(b => b.textContent === {title!r}).click()""")


# Pairs of texts of one chart that overlap, and texts that leave their chart, with the number of texts that are shown.
OVERLAPS = """(() => {
    const found = [];
    let shown = 0;
    for (const svg of document.querySelectorAll("#curves svg")) {
        const frame = svg.getBoundingClientRect();
        if (!frame.width) continue;
        const boxes = [...svg.querySelectorAll("text")].map(text => [text.textContent, text.getBoundingClientRect()]);
        shown += boxes.length;
        boxes.forEach(([words, box], index) => {
            if (box.left < frame.left - 0.5 || box.right > frame.right + 0.5 || box.bottom > frame.bottom + 0.5) found.push(words + " leaves");
            for (const [other, second] of boxes.slice(0, index))
                if (box.left < second.right && second.left < box.right && box.top + 2 < second.bottom && second.top + 2 < box.bottom)
                    found.push(words + " over " + other);
        });
    }
    return [found, shown > 100];
})()"""


def both_widths(browser, out):
    for width in (390, 1300):
        browser.resize(width)
        check(f"nothing sticks out at {width} pixels", browser.run("document.documentElement.scrollWidth"), width)
        check(f"no two texts of a chart overlap at {width} pixels", browser.run(OVERLAPS), [[], True])
        check(f"one drawing a chart at {width} pixels", browser.run(
            "[...document.querySelectorAll('#curves figure')].every(figure => [...figure.querySelectorAll('svg')]"
            ".filter(svg => svg.getBoundingClientRect().width).length === 1)"), True)
        (out / f"report-{width}.png").write_bytes(browser.whole_page())


def finished_page(browser, page, out):
    browser.open(page)
    check("all images are there", browser.run("document.querySelector('.state').textContent"),
          "All 32 images are finished.")
    check("the title is text", browser.run("[document.title, document.querySelector('h1').textContent, document.querySelectorAll('h1 b').length]"),
          ["Recovery <b>and</b> ratio", "Recovery <b>and</b> ratio", 0])
    check("one script, no foreign element", browser.run(
        "[document.scripts.length, document.querySelectorAll('[onerror], iframe, object, embed').length, "
        "[...document.images].filter(image => image.id !== 'before' && image.id !== 'after' && !image.src.startsWith('data:')).length]"),
        [1, 0, 0])
    check("the hostile prompt is shown as it was written", browser.run(
        f"document.querySelector('#images').textContent.includes({json.dumps(HOSTILE)})"), True)
    check("every picture was decoded", browser.run(
        "[...document.querySelectorAll('main img')].filter(image => !image.naturalWidth).length"), 0)
    check("a picture a finished image", browser.run("document.querySelectorAll('#images img').length"), 32)
    check("mask overlays", browser.run("document.querySelectorAll('#masks img').length") > 10, True)
    check("curves", browser.run("document.querySelectorAll('#curves figure').length"), 13)
    check("a line a recovery", browser.run(
        "['similarity', 'zero'].map(name => [...document.querySelectorAll('#curves figure:first-child .at-wide > text')]"
        ".filter(text => text.textContent === `at-edm recovery=${name} by ratio`).length)"), [1, 1])
    both_widths(browser, out)

    before = column(browser, "PSNR")
    click_head(browser, "PSNR")
    numbers = sorted(value for value in before if value is not None)
    check("a click sorts upwards, empty cells last", column(browser, "PSNR"), numbers + [None] * before.count(None))
    check("the order is told", browser.run("document.querySelectorAll('#results [aria-sort=ascending]').length"), 1)
    click_head(browser, "PSNR")
    check("a second click turns it round", column(browser, "PSNR"), numbers[::-1] + [None] * before.count(None))
    click_head(browser, "point")
    check("names sort by the grid's order", column(browser, "point"), list(range(8)))

    browser.run("document.querySelectorAll('button.compare')[5].click()")
    check("the viewer opens", browser.run("[document.querySelector('#viewer').open, document.activeElement.id]"), [True, "share"])
    box = browser.run("(({x, y, width, height}) => ({x, y, width, height}))(document.querySelector('#stage').getBoundingClientRect())")
    (out / "viewer.png").write_bytes(browser.screenshot({"x": 0, "y": 0, "width": 1300, "height": 900}))
    pictures = {}
    for key, share in (("Home", "0"), ("End", "100")):
        browser.press(key)
        browser.settle(0.2)
        check(f"{key} moves the slider", browser.run("document.querySelector('#share').value"), share)
        pictures[key] = browser.screenshot(box)
    check("the slider shows another picture", pictures["Home"] != pictures["End"], True)
    middle = {"x": box["x"] + box["width"] / 4, "y": box["y"] + box["height"] / 2}
    for kind, buttons in (("mousePressed", 1), ("mouseReleased", 0)):
        browser.ask("Input.dispatchMouseEvent", type=kind, button="left", buttons=buttons, clickCount=1, **middle)
    check("the picture is dragged too", browser.run("document.querySelector('#share').value"), "25")
    check("it is cut off there", browser.run("getComputedStyle(document.querySelector('#before')).clipPath"),
          "inset(0px 75% 0px 0px)")
    browser.press("Escape")
    check("Escape closes the viewer", browser.run("document.querySelector('#viewer').open"), False)
    check("a link opens its configuration", browser.run(
        "(async () => { document.querySelector('#results tbody a').click(); await new Promise(done => setTimeout(done, 100)); "
        "return document.querySelector('details.config[open] pre').textContent.includes('\"guidance_scale\": 3') })()"), True)
    browser.settle()
    check("no request, no error", browser.troubles(page), [])


def empty_page(browser, page, out):
    browser.open(page)
    check("nothing finished is said", browser.run("document.querySelector('.state').textContent"),
          "No image is finished yet, of 32.")
    check("nothing finished, a line a point", browser.run("document.querySelectorAll('#results tbody tr').length"), 8)
    click_head(browser, "PSNR")
    check("nothing finished, no request, no error", browser.troubles(page), [])
    (out / "empty.png").write_bytes(browser.whole_page())


def main():
    parser = argparse.ArgumentParser(description="The page of `atedm report` in headless Chromium.")
    parser.add_argument("--atedm", default="target/debug/atedm", help="the program")
    parser.add_argument("--out", default="target/browser", type=pathlib.Path, help="folder for screenshots")
    args = parser.parse_args()
    program = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)
    if program is None:
        sys.exit("error: chromium: not found (Debian: apt-get install chromium)")
    atedm = shutil.which(args.atedm)
    if atedm is None:
        sys.exit(f"error: {args.atedm}: not found (cargo build)")
    atedm = os.path.abspath(atedm)
    args.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as work:
        work = pathlib.Path(work)

        def run(*words):
            subprocess.run([atedm, *words], cwd=work, check=True)

        (work / "run.toml").write_text(CONFIG)
        run("init-tiny", "tiny")
        run("ablate", "run.toml", "--model", "tiny", "--output", "run", "--quiet")
        seed = next(json.loads(line)["seed"] for line in open(work / "run/prompts.jsonl") if '"fox"' in line)
        point = next(p["id"] for p in json.load(open(work / "run/run.json"))["points"] if p["label"] == "at-edm ratio=0.5 recovery=similarity")
        (work / "run/masks" / point).mkdir(parents=True)
        run("generate", "--model", "tiny", "--prompt", "a red fox in the snow, photograph, early morning light",
            "--steps", "4", "--width", "128", "--height", "128", "--guidance-scale", "3", "--seed", str(seed),
            "--prune", "at-edm", "--prune-opt", "tau=1,ratio=0.5", "--masks-out", f"run/masks/{point}/fox.safetensors",
            "--output", "fox.png", "--quiet")
        run("report", "run", "--quiet")
        shutil.copytree(work / "run", work / "begun")
        (work / "begun/results.jsonl").write_text("")
        run("report", "begun", "--quiet")
        shutil.copy(work / "run/report.html", args.out / "report.html")
        browser = Browser(program, work / "profile")
        try:
            finished_page(browser, work / "run/report.html", args.out)
            empty_page(browser, work / "begun/report.html", args.out)
        finally:
            browser.close()
    failed = CHECKS.count(False)
    print(f"screenshots: {args.out}\n{len(CHECKS) - failed} passed, {failed} failed")
    sys.exit(1 if failed else 0)


if __name__ == "__main__":
    main()
