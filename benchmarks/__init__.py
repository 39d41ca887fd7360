"""One script a claim: each prints a table and writes ``benchmarks/results/NAME.json``, with versions and hardware."""
