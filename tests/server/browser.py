"""A headless Chromium, asked through its DevTools protocol."""

from __future__ import annotations

import base64
import itertools
import json
import re
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Final
from urllib.request import urlopen

from websockets.sync.client import connect
from websockets.sync.connection import Connection

_BOUND: Final = 60.0
_FLAGS: Final = (
    "--headless --no-sandbox --disable-gpu --disable-quic --no-first-run --disable-sync"
    " --disable-background-networking --disable-component-update --window-size=1400,1000"
    " --remote-debugging-port=0"
).split()


class Browser:
    """One page of it."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._ids = itertools.count(1)

    def call(self, method: str, **params: Any) -> Any:
        """The result of a command of the protocol."""
        id = next(self._ids)
        self._connection.send(json.dumps({"id": id, "method": method, "params": params}))
        while True:
            answer = json.loads(self._connection.recv(_BOUND))
            if answer.get("id") == id:
                assert "error" not in answer, answer
                return answer["result"]

    def value(self, expression: str) -> Any:
        """What a JavaScript expression is on the page."""
        answer = self.call("Runtime.evaluate", expression=expression, returnByValue=True)
        return answer["result"].get("value")

    def wait_for(self, expression: str) -> None:
        """Wait until a JavaScript expression is true on the page."""
        deadline = time.monotonic() + _BOUND
        while not self.value(expression):
            assert time.monotonic() < deadline, f"never: {expression}\n{self.text()}"
            time.sleep(0.1)

    def open(self, url: str) -> None:
        """Go to a page, and wait until it is there."""
        self.call("Page.navigate", url=url)
        self.wait_for(f"location.href == {url!r} && document.readyState == 'complete'")

    def text(self) -> str:
        """The text that the page shows."""
        return str(self.value("document.body.innerText"))

    def screenshot(self, path: Path) -> None:
        """Save what the page looks like, as PNG."""
        path.write_bytes(base64.b64decode(self.call("Page.captureScreenshot")["data"]))


@contextmanager
def chromium(folder: Path) -> Iterator[Browser]:
    """A browser with a profile of its own, gone after the block."""
    program = shutil.which("chromium") or shutil.which("google-chrome")
    assert program, "no Chromium: apt-get install chromium"
    log = folder / "chromium.log"
    with log.open("wb") as output:
        process = subprocess.Popen(
            [program, *_FLAGS, f"--user-data-dir={folder / 'profile'}", "about:blank"],
            stdin=subprocess.DEVNULL,
            stdout=output,
            stderr=output,
        )
    try:
        with urlopen(f"http://127.0.0.1:{_port(process, log)}/json/list", timeout=_BOUND) as found:
            (page,) = [each for each in json.load(found) if each["type"] == "page"]
        with connect(page["webSocketDebuggerUrl"], max_size=None) as connection:
            yield Browser(connection)
    finally:
        process.terminate()
        process.wait(_BOUND)


def _port(process: subprocess.Popen[bytes], log: Path) -> str:
    deadline = time.monotonic() + _BOUND
    while True:
        found = re.search(r"DevTools listening on ws://127\.0\.0\.1:(\d+)/", log.read_text())
        if found:
            return found[1]
        assert process.poll() is None, log.read_text()
        assert time.monotonic() < deadline, log.read_text()
        time.sleep(0.05)
