"""Homes, runs, releases and approvals made by old code, which today's code must open and go on with."""
