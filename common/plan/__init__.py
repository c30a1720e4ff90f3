"""The study plan: its tables, its reader, its canonical form and the rounds that follow from it. Sees common alone."""
