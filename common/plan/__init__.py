"""The study plan: its tables, reader, canonical form and the rounds that follow. Imports `common` alone."""
