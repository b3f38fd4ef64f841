"""Where the cluster's news come in: kopf's watches and the sweep that finds what they missed. Enqueue only."""
