"""What a run tells its user: metrics, console, diagnostics, plots, report and model card."""
