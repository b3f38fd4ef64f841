"""The loop: a work queue of keys, workers that reconcile them, and a cache of what the cluster looks like."""
