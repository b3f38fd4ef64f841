"""Requests at once to a service, from a pod: `python -c SCRIPT HOST MODEL COUNT`. Runs alone.

The first is sent when its connection is open, the others in the next half second. A line of JSON when all are answered:
for each when it was sent, when the first byte of its answer came (epoch seconds), and its status; 0: none came.
"""

import asyncio
import json
import socket
import sys
import time

HOST, MODEL, COUNT = sys.argv[1], sys.argv[2], int(sys.argv[3])
ADDRESS = socket.gethostbyname(HOST)
WITHIN_S, SPREAD_S = 120.0, 0.5
TENSOR = {"name": "x", "shape": [1, 4], "datatype": "FP32", "data": [1, 2, 3, 4]}
BODY = json.dumps({"inputs": [TENSOR]})
REQUEST = (
    f"POST /v2/models/{MODEL}/infer HTTP/1.1\r\nHost: {HOST}\r\nContent-Type: application/json\r\n"
    f"Content-Length: {len(BODY)}\r\nConnection: close\r\n\r\n{BODY}"
).encode()
Told = tuple[float, float, int]


async def ask(number: int) -> Told:
    await asyncio.sleep(number / COUNT * SPREAD_S)
    sent = first = time.time()
    try:
        async with asyncio.timeout(WITHIN_S):
            reader, writer = await asyncio.open_connection(ADDRESS, 80)
            sent = time.time()
            writer.write(REQUEST)
            begin = await reader.readexactly(12)
            first = time.time()
            await reader.read()
            writer.close()
        return sent, first, int(begin[9:12])
    except (OSError, EOFError, TimeoutError):
        return sent, time.time(), 0


async def main() -> None:
    print(json.dumps(await asyncio.gather(*map(ask, range(COUNT)))))


asyncio.run(main())
