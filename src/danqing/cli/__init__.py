"""The command line: one file a verb, argument parsing only."""
