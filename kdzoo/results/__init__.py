"""Records, and everything that is shown: made from records alone."""
