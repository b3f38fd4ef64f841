"""The cache of models on a node: what one pod has fetched, the next one of its ServiceAccount need not fetch again.

A pod that has fetched a model hands its files over; who asks for them by the same key gets them. Whose pod it is, is
told by a token that the API server is asked about (`tokens`), never by an address. What a pod has brought is shown to
pods of its own ServiceAccount alone, so that who lies to the cache lies to itself.
"""
