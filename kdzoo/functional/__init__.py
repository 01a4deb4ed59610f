"""Mathematics that two methods or more share."""
