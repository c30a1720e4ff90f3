"""Admission: what a radiology archive holds goes into the training cache, or is left out with its reason."""
