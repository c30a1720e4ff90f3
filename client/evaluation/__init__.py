"""Judging a candidate at the site: figures for the steward's eyes, and one noised verdict for everybody else's."""
