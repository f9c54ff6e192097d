"""One headless Chromium for tests, driven over its DevTools socket.

A test that opens it is marked ``browser``. Where there is no Chromium such a test is skipped, and
the last lines of the run say what to install; with ``INTERP_REQUIRE_BROWSER=1``, as in ``.ci/run``,
it fails instead.
"""

import itertools
import json
import os
import shutil
import subprocess
import time
from contextlib import contextmanager
from urllib.request import urlopen

import pytest
from websocket import create_connection

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
MISSING = f"no Chromium on PATH ({', '.join(NAMES)})"
INSTALL = "apt-get install -y chromium"


def program():
    """The path of the first Chromium on PATH, or None."""
    return next((path for name in NAMES if (path := shutil.which(name))), None)


def pytest_runtest_setup(item):
    """Skip tests marked ``browser`` where there is none; fail them where one is required."""
    if item.get_closest_marker("browser") is None or program() is not None:
        return
    if os.environ.get("INTERP_REQUIRE_BROWSER", "") not in ("", "0"):
        pytest.fail(f"{MISSING}, and INTERP_REQUIRE_BROWSER is set: {INSTALL}", pytrace=False)
    pytest.skip(MISSING)


def pytest_terminal_summary(terminalreporter):
    """Say how many browser tests were skipped, and what to install."""
    skipped = [
        report
        for report in terminalreporter.stats.get("skipped", [])
        if MISSING in str(report.longrepr)
    ]
    if skipped:
        terminalreporter.ensure_newline()
        terminalreporter.write_line(
            f"browser tests skipped: {len(skipped)}, {MISSING}; to run them: {INSTALL}"
        )


class Page:
    """A page: commands go in and answers come out, events are kept in ``events``."""

    def __init__(self, socket):
        self._socket, self._numbers, self.events = socket, itertools.count(1), []
        for domain in ("Runtime", "Log", "Network", "Page"):
            self.send(f"{domain}.enable")

    def send(self, method, **parameters):
        number = next(self._numbers)
        self._socket.send(json.dumps({"id": number, "method": method, "params": parameters}))
        while True:
            message = json.loads(self._socket.recv())
            if message.get("id") == number:
                assert "error" not in message, message
                return message["result"]
            self.events.append(message)

    def evaluate(self, expression):
        answer = self.send(
            "Runtime.evaluate", expression=expression, returnByValue=True, awaitPromise=True
        )
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def wait(self, expression, seconds=60):
        end = time.monotonic() + seconds
        while not self.evaluate(expression):
            assert time.monotonic() < end, f"never came true: {expression}"
            time.sleep(0.05)

    def open(self, url):
        self.events.clear()
        self.send("Page.navigate", url=url)
        self.wait("document.readyState === 'complete'")

    def size(self, width, height=900):
        self.send(
            "Emulation.setDeviceMetricsOverride",
            width=width,
            height=height,
            deviceScaleFactor=1,
            mobile=width < 600,
        )

    def scheme(self, name, media=""):
        self.send(
            "Emulation.setEmulatedMedia",
            media=media,
            features=[{"name": "prefers-color-scheme", "value": name}],
        )

    def complaints(self):
        """Console errors and warnings, uncaught exceptions, and dialogs that opened."""
        self.evaluate("new Promise(done => setTimeout(done, 50))")
        return [
            event for event in self.events if _complains(event["method"], event.get("params", {}))
        ]

    def requests(self):
        return [
            e["params"]["request"]["url"]
            for e in self.events
            if e["method"] == "Network.requestWillBeSent"
        ]


def _complains(method, parameters):
    if method == "Log.entryAdded":
        return parameters["entry"]["level"] in ("error", "warning")
    if method == "Runtime.consoleAPICalled":
        return parameters["type"] in ("error", "warning", "assert")
    return method in ("Runtime.exceptionThrown", "Page.javascriptDialogOpening")


@contextmanager
def browser(profile):
    """A ``Page`` of a Chromium that keeps its profile in ``profile`` and ends with the block."""
    process = subprocess.Popen(
        [
            program(),
            "--headless",
            "--no-sandbox",
            "--disable-gpu",
            "--disable-dev-shm-usage",
            "--no-first-run",
            "--disable-background-networking",
            "--disable-component-update",
            "--remote-allow-origins=*",
            "--remote-debugging-port=0",
            f"--user-data-dir={profile}",
            "about:blank",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        port, _ = _told(profile / "DevToolsActivePort", process)
        with urlopen(f"http://127.0.0.1:{port}/json/list", timeout=30) as answer:
            target = next(tab for tab in json.load(answer) if tab["type"] == "page")
        socket = create_connection(target["webSocketDebuggerUrl"], timeout=60)
        try:
            yield Page(socket)
        finally:
            socket.close()
    finally:
        process.terminate()
        process.communicate(timeout=30)


def _told(path, process, seconds=60):
    end = time.monotonic() + seconds
    while not path.exists() or len(lines := path.read_text().split()) < 2:
        if process.poll() is not None:
            pytest.fail(f"Chromium ended at once: {process.stderr.read()[-800:]}")
        assert time.monotonic() < end, "Chromium did not start"
        time.sleep(0.05)
    return lines[0], lines[1]
