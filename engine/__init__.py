"""What every method shares: words, exploration, sampling, grading, the DeepSpeed update. It knows no method by name."""
