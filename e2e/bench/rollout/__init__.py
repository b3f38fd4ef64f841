"""How soon a bad release is off the wire and what a good one costs, on the cluster under load. See `__main__.py`."""
