"""From a picture, and often its prompt, to a number."""
