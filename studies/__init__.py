"""What the shipped sweeps found, beside what is known without them; `python -m studies` writes results/studies/."""
