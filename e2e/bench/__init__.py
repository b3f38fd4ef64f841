"""What Slipway costs and how fast it is, measured on real control planes. Each benchmark ends with a RESULT line."""
