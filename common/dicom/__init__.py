"""Synthetic DICOM: which attributes each SOP class must carry, and how marked files are written."""
