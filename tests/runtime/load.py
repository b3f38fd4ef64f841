"""Clients that keep a server busy while something happens to it, and what they saw."""

import concurrent.futures
import http.client
import json
import threading
import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import tritonclient.grpc as grpc_client
from tritonclient.utils import InferenceServerException

from tests.runtime.process import DEADLINE_S, ServerProcess

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})


def get(server: ServerProcess, path: str) -> int:
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", path)
    status = connection.getresponse().status
    connection.close()
    return status


class Load:
    """Clients that ask `hello` as fast as they can, over HTTP (kept alive, as long as the server likes) and gRPC.

    `counts`: "ok", a status that is an answer ("503", "StatusCode.UNAVAILABLE"), or what went wrong.
    """

    def __init__(self, server: ServerProcess, clients: int) -> None:
        self.counts: Counter[str] = Counter()
        self.sentences: set[str] = set()
        self.closes = 0
        self._server = server
        self._lock = threading.Lock()
        self._stop = threading.Event()
        self._pool = concurrent.futures.ThreadPoolExecutor(2 * clients)
        self._done = [self._pool.submit(ask) for ask in [self._http, self._grpc] * clients]

    def stop(self) -> None:
        self._stop.set()
        for future in self._done:
            future.result(DEADLINE_S)
        self._pool.shutdown()

    def _count(self, outcome: str) -> None:
        with self._lock:
            self.counts[outcome] += 1

    def _refused(self, status: str, sentence: str) -> None:
        self._count(status)
        with self._lock:
            self.sentences.add(sentence)

    def _http(self) -> None:
        connection = http.client.HTTPConnection("127.0.0.1", self._server.http_port, timeout=20)
        while not self._stop.is_set():
            try:
                connection.request("POST", "/v2/models/hello/infer", BODY)
                response = connection.getresponse()
                answer = json.loads(response.read())
                if response.status == 200:
                    data = answer["outputs"][0]["data"]
                    self._count("ok" if data == [3, 5, 7, 9] else f"wrong {data}")
                else:
                    self._refused(str(response.status), answer["error"])
                self.closes += response.headers["connection"] == "close"
            except (OSError, http.client.HTTPException) as error:
                self._count(f"http {error!r}")
                return
        connection.close()

    def _grpc(self) -> None:
        item = grpc_client.InferInput("x", [1, 4], "FP32")
        item.set_data_from_numpy(np.array([[1, 2, 3, 4]], np.float32))
        with grpc_client.InferenceServerClient(self._server.grpc) as client:
            while not self._stop.is_set():
                try:
                    data = client.infer("hello", [item]).as_numpy("y").tolist()
                    self._count("ok" if data == [[3, 5, 7, 9]] else f"wrong {data}")
                except InferenceServerException as error:
                    self._refused(str(error.status()), str(error.message()))


def waiting(server: ServerProcess) -> int:
    """How many requests wait, from /metrics."""
    connection = http.client.HTTPConnection("127.0.0.1", server.http_port, timeout=20)
    connection.request("GET", "/metrics")
    lines = connection.getresponse().read().decode().splitlines()
    connection.close()
    return next(int(line.split()[1]) for line in lines if line.startswith("nv_inference_pending_request_count{"))


def until(condition: Callable[[], bool]) -> None:
    ends = time.monotonic() + DEADLINE_S
    while not condition():
        assert time.monotonic() < ends
        time.sleep(0.005)
