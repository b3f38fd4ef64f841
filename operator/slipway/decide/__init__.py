"""The functional core: from what is observed to what is to be done. No clock, no randomness, no I/O.

`plan.plan` is the door; every rule it follows is a function of one of the modules beside it.
"""
