"""What is measured: gateway reports and the like, as values with an age. Decides nothing."""
