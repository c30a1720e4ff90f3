"""The model of a study: arrays, nets, weights on disk, and drawing from a released decoder. No DICOM, no network."""
