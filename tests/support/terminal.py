"""A program in a terminal of its own, into which a test types."""

import contextlib
import os
import pty
import select
import subprocess
import sys
import time

# The program takes its standard input for its terminal, from which Ctrl-C then comes.
LAUNCHER = ("import fcntl, os, sys, termios; fcntl.ioctl(0, termios.TIOCSCTTY, 0); "
            "os.execv(sys.executable, [sys.executable, *sys.argv[1:]])")
CTRL_C, CTRL_D = "\x03", "\x04"


class Terminal:
    """Runs `python ARGUMENTS` in a terminal. `shown` is all that it has written so far."""

    def __init__(self, *arguments, cwd=None, patience=60):
        self.shown, self.patience, self._seen = "", patience, 0
        self._ours, theirs = pty.openpty()
        environment = os.environ | {"TERM": "dumb", "COLUMNS": "100", "LINES": "40", "PYTHONIOENCODING": "utf-8"}
        self.process = subprocess.Popen([sys.executable, "-c", LAUNCHER, *map(str, arguments)], stdin=theirs,
                                        stdout=theirs, stderr=theirs, cwd=cwd, env=environment, start_new_session=True)
        os.close(theirs)

    def __enter__(self):
        return self

    def __exit__(self, *_):
        with contextlib.suppress(ProcessLookupError):
            self.process.kill()
        self.process.wait()
        os.close(self._ours)

    def type(self, text):
        """Press some keys."""
        os.write(self._ours, text.encode())

    def wait_for(self, text):
        """What is written from here on until `text` has been, that included."""
        end = time.monotonic() + self.patience
        while text not in self.shown[self._seen:]:
            assert time.monotonic() < end, f"expected {text!r}, got {self.shown[self._seen:]!r}"
            self._read()
        start, self._seen = self._seen, self.shown.index(text, self._seen) + len(text)
        return self.shown[start:self._seen]

    def press_until(self, key, text):
        """Press a key, again and again until `text` has been written, as a person would.

        Python notices a Ctrl-C that comes just before it begins to wait for a key only with the next key.
        """
        end = time.monotonic() + self.patience
        while text not in self.shown[self._seen:] and time.monotonic() < end:
            self.type(key)
            pause = time.monotonic() + 2
            while text not in self.shown[self._seen:] and time.monotonic() < pause:
                self._read()
        return self.wait_for(text)

    def wait_for_something(self):
        """Wait until anything is written."""
        end = time.monotonic() + self.patience
        while len(self.shown) == self._seen:
            assert time.monotonic() < end, "expected the program to write something"
            self._read()

    def wait_for_the_end(self):
        """The exit code, and what is written until then."""
        while self._read():
            pass
        return self.process.wait(self.patience), self.shown[self._seen:]

    def _read(self):
        """Whether the program may write more."""
        if not select.select([self._ours], [], [], 0.1)[0]:
            return self.process.poll() is None
        try:
            data = os.read(self._ours, 1 << 16)
        except OSError:             # Linux: nobody has the other end any more
            return False
        self.shown += data.decode(errors="replace")
        return bool(data)
