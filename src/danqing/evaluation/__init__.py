"""How good a checkpoint or a rival system is: benchmarks, runs, statistics, reports."""
