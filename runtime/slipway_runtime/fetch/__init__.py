"""Brings a model's files into a folder of a pod, whole or not at all: `python -m slipway_runtime.fetch URI DEST`.

    uri ──► policy ──► source (what files there are) ──► download (parallel, resumed) ──► digest ──► unpack ──► publish

The init container runs this, with what the service and the administrator chose in `SLIPWAY_FETCH` (`settings.py`) and
credentials in variables of its own. Imports no torch. What fails ends as one JSON object in the termination message.
"""
