"""The study's report: one HTML page, its charts and tables."""
