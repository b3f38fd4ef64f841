"""The model server and the model fetcher that run in Slipway's pods. Imports nothing of `slipway`."""

__version__ = "0.1.0"
