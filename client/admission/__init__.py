"""Admission: each file of a folder enters the training cache or is left out with its reason."""
