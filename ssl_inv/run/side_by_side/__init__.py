"""Many runs: lists, comparisons over seeds, sweeps."""
