"""The model server's speed and size beside its peers: python -m e2e.bench.runtime

    environments   a virtual environment for each peer, once, from its pinned list in locks/bench/
    models         four TorchScript files with seeded weights, which every server loads, and what raw torch answers
    calibration    what the load generators do against a server that does nothing: they must not be the limit
    rounds         in each, every server in turn, alone on the machine, with one model; the order is turned each round
    ourselves      our own server idle, and its memory without torch

Nothing is measured before the server's answer was compared with raw torch's. A cell is a model, a protocol and a number
of clients; its figures are medians over the rounds.
"""
