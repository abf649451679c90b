"""Words, exploration, sampling, grading, the DeepSpeed update: one engine for all methods, none of which it knows by name."""
