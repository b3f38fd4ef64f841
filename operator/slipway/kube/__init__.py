"""The imperative shell around the API server: a thin client on dicts, its errors, and the leader's Lease."""
