"""privcode: private code in, a synthetic data set and a tuned model out, under (ε, δ)-DP."""
