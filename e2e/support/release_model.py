"""A user's own model whose faults are chosen by its environment. Runs in a pod, alone.

y = 2x + OFFSET, after WORK_MS. Asked for zeros, as warm-up asks, it is quick and well; else FAULT, if set, is one of

    errors   a fifth of the requests fail
    slow     three times WORK_MS
    crash    the process ends CRASH_AFTER_S after it was loaded, each time
    never    it never loads
    hungry   takes memory until it is killed
    nan      answers are no numbers; its own metric counts them
    rejects  its input has another name, so that it will not have what the others take
"""

import os
import random
import threading
import time
from typing import Any

import numpy as np
import prometheus_client

FAULT = os.environ.get("FAULT", "")
OFFSET = float(os.environ.get("OFFSET", "1"))
WORK_S = float(os.environ.get("WORK_MS", "10")) / 1000 * (3 if FAULT == "slow" else 1)
INPUT = "z" if FAULT == "rejects" else "x"
CRASH_AFTER_S = float(os.environ.get("CRASH_AFTER_S", "30"))
ERRORS = 0.2


class Model:
    def load(self, context: Any) -> None:
        words = "Requests that were answered with something else than numbers."
        self.wrong = prometheus_client.Counter("answers_not_numbers", words, registry=context.metrics)
        if FAULT == "crash":
            timer = threading.Timer(CRASH_AFTER_S, os._exit, [70])
            timer.daemon = True
            timer.start()
        elif FAULT == "never":
            threading.Event().wait()
        elif FAULT == "hungry":
            held = []
            while True:
                held.append(np.ones(1 << 21))  # 16 MiB, written to, so that they are really taken

    def infer(self, batch: Any) -> dict[str, Any]:
        x = batch[INPUT]
        if x.any():
            time.sleep(WORK_S)
        if FAULT == "errors":
            for request in batch.requests:
                if x[request.rows].any() and random.random() < ERRORS:  # noqa: S311 - not a secret
                    request.fail("this version fails now and then")
        y = x * np.nan if FAULT == "nan" and x.any() else x * 2 + OFFSET
        self.wrong.inc(sum(bool(np.isnan(y[request.rows]).any()) for request in batch.requests))
        return {"y": y}
