"""Ctrl-C during training: not at once, in the middle of an update, but after the step that is running."""

import contextlib
import signal
import threading


class StopRequest:
    """Whether somebody has asked for an end."""

    made = False


@contextlib.contextmanager
def ctrl_c_asks():
    """Within this context the first Ctrl-C is noted in the `StopRequest` that it gives; a second one ends the process.

    Only the main thread hears Ctrl-C. In another one, such as a notebook server's, nothing changes.
    """
    request = StopRequest()
    if threading.current_thread() is not threading.main_thread():
        yield request
        return
    before = signal.getsignal(signal.SIGINT)

    def note(*_):
        request.made = True
        signal.signal(signal.SIGINT, before)

    signal.signal(signal.SIGINT, note)
    try:
        yield request
    finally:
        signal.signal(signal.SIGINT, before)
