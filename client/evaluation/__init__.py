"""The evaluation of a candidate at the site: raw figures for the steward, and one noised verdict that leaves."""
