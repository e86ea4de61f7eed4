"""Trained networks: predictions, other priors, exports."""
