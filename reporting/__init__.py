"""What looks at finished runs: tables, plots, the choice of settings, trained networks and their exports."""
