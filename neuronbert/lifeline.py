"""What ties a process to the one that started it.

Owns: end_with_parent. Knows nothing of what either of them does.
"""

from __future__ import annotations

import os
import signal
import threading


def end_with_parent() -> None:
    """End this process, and everything in its process group, once its stdin closes.

    The parent holds the other end and never writes: when it is gone, however it ended, nobody waits for this process.
    """

    def watch() -> None:
        while os.read(0, 1):
            pass
        os.killpg(0, signal.SIGKILL)

    threading.Thread(target=watch, daemon=True).start()
