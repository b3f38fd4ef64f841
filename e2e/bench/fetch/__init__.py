"""How fast a model comes from a store, beside the tools that people use. `make bench-fetch`"""
