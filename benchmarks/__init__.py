"""How fast modesweep is, beside what people use today: `python -m benchmarks`."""
