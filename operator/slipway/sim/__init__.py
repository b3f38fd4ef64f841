"""Replays traffic against an autoscaler on a virtual clock: ours, by the very decision that the operator takes, or a
rival's algorithm. `slipway simulate --help`.

    traces.py   who asks when, and how much     world.py    replicas, queue, launches, faults
    models.py   how long a request takes        policy.py   the interface; slipway.py: ours behind it
    kpa.py, hpa.py, keda.py, ray.py             rivals, by what their projects publish
    outcome.py  what came of it                 picture.py  of it, as SVG
    command.py  `slipway simulate`              progress.py how far it has come
"""
