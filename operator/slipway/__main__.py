"""`python -m slipway`: `slipway`, without the package being installed."""

from slipway.cli import main

if __name__ == "__main__":
    main()
