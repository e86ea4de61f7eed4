"""What looks at finished runs: tables, charts, verdicts, the page."""
