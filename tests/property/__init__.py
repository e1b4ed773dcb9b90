"""Laws that hold for every input, searched with hypothesis."""
