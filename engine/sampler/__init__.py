"""Samplers: they serve requests with rollouts and know nothing of methods or grading."""
