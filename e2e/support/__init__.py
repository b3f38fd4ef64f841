"""What scenarios stand on: the cluster, an installation, a namespace, and ways to see what happened in it."""
