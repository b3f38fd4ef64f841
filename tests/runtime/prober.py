"""A healthy client in a process of its own: asks `hello` every few milliseconds until its input ends.

`python prober.py PORT` prints a line when it has its first answer, and at the end the milliseconds that each answer
took, two of them at least, as a JSON list; anything but the right answer is an error.
"""

import http.client
import json
import select
import sys
import time

BODY = json.dumps({"inputs": [{"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}]})
PAUSE_S = 0.005


def main() -> None:
    connection = http.client.HTTPConnection("127.0.0.1", int(sys.argv[1]), timeout=60)
    took: list[float] = []
    while len(took) < 2 or not select.select([sys.stdin], [], [], PAUSE_S)[0]:
        began_s = time.perf_counter()
        connection.request("POST", "/v2/models/hello/infer", BODY)
        answer = json.loads(connection.getresponse().read())
        took.append(round(1000 * (time.perf_counter() - began_s), 3))
        assert answer["outputs"][0]["data"] == [3, 5, 7, 9], answer
        if len(took) == 1:
            sys.stdout.write("begun\n")
            sys.stdout.flush()
    sys.stdout.write(json.dumps(took))


if __name__ == "__main__":
    main()
