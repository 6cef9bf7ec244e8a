"""A headless Chromium that opens one page: its DevTools protocol over a pipe, which needs no package."""

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
# Flags without which it would look for its maker's hosts, and could not start as root.
FLAGS = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync", "--no-first-run", "--remote-debugging-pipe"),
)


def chromium() -> str | None:
    """Where it is, if it is."""
    return next(filter(None, map(shutil.which, NAMES)), None)


class Page:
    """One tab: calls of the protocol, and the events that came meanwhile."""

    def __init__(self, read: int, write: int) -> None:
        self._read, self._write, self._rest, self._calls = read, write, b"", 0
        self._session: str | None = None
        self.events: list[dict[str, Any]] = []
        (target,) = self.call("Target.getTargets")["targetInfos"]
        asked = {"targetId": target["targetId"], "flatten": True}
        self._session = self.call("Target.attachToTarget", **asked)["sessionId"]
        for domain in ("Page", "Runtime", "Log", "Network"):
            self.call(f"{domain}.enable")

    def _next(self) -> dict[str, Any]:
        while b"\0" not in self._rest:
            data = os.read(self._read, 1 << 16)
            assert data, "Chromium is gone"
            self._rest += data
        message, self._rest = self._rest.split(b"\0", 1)
        found: dict[str, Any] = json.loads(message)
        return found

    def call(self, method: str, /, **params: Any) -> Any:
        """The result of one call."""
        self._calls += 1
        message = {"id": self._calls, "method": method, "params": params}
        if self._session:
            message["sessionId"] = self._session
        os.write(self._write, json.dumps(message).encode() + b"\0")
        while (answer := self._next()).get("id") != self._calls:
            self.events.append(answer)
        assert "error" not in answer, answer
        return answer["result"]

    def wait(self, event: str) -> None:
        """Until it has come."""
        while not any(e["method"] == event for e in self.events):
            self.events.append(self._next())

    def open(self, path: Path) -> None:
        self.events.clear()
        self.call("Page.navigate", url=path.as_uri())
        self.wait("Page.loadEventFired")

    def value(self, script: str) -> Any:
        """What JavaScript makes of it."""
        answer = self.call("Runtime.evaluate", expression=script, returnByValue=True)
        assert "exceptionDetails" not in answer, answer
        return answer["result"].get("value")

    def hover(self, selector: str) -> None:
        """Move the pointer to the middle of an element."""
        script = f"""(e => {{ e.scrollIntoView({{ block: "center", inline: "center" }});
            const b = e.getBoundingClientRect(); return [b.x + b.width / 2, b.y + b.height / 2] }})
            (document.querySelector({json.dumps(selector)}))"""
        x, y = self.value(script)
        self.call("Input.dispatchMouseEvent", type="mouseMoved", x=x, y=y)

    def press(self, key: str, code: int) -> None:
        for kind in ("keyDown", "keyUp"):
            self.call("Input.dispatchKeyEvent", type=kind, key=key, code=key, windowsVirtualKeyCode=code)


def _high(descriptor: int) -> int:
    """The same beyond those that the child gets."""
    new = fcntl.fcntl(descriptor, fcntl.F_DUPFD_CLOEXEC, 10)
    os.close(descriptor)
    return new


@contextmanager
def opened(binary: str) -> Iterator[Page]:
    """A browser of its own, closed afterwards. It reads calls from 3 and answers to 4."""
    (its_read, write), (read, its_write) = (tuple(map(_high, os.pipe())) for _ in range(2))
    actions: list[Any] = [(os.POSIX_SPAWN_OPEN, i, os.devnull, os.O_RDWR, 0) for i in range(3)]
    actions += [(os.POSIX_SPAWN_DUP2, its_read, 3), (os.POSIX_SPAWN_DUP2, its_write, 4)]
    with tempfile.TemporaryDirectory(ignore_cleanup_errors=True) as folder:
        words = [binary, *FLAGS, f"--user-data-dir={folder}", "about:blank"]
        process = os.posix_spawn(binary, words, os.environ, file_actions=actions)
        os.close(its_read)
        os.close(its_write)
        try:
            page = Page(read, write)
            yield page
        finally:
            with suppress(OSError):
                os.write(write, json.dumps({"id": 0, "method": "Browser.close"}).encode() + b"\0")
            os.close(write)
            os.waitpid(process, 0)
            os.close(read)
