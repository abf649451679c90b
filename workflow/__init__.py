"""What connects configuration and rules: the plan of runs and stages."""
