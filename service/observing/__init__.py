"""What is told of requests: lines in the log, figures for Prometheus, spans."""
