"""Who looks at pictures for benchmarks: chosen by name, and compared with one another."""
