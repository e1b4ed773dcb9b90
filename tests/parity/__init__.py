"""The same weights in our modules and in the reference classes."""
