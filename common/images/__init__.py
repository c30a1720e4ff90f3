"""Images as arrays: windows, resizing, public phantoms, and the feature encoders that compare image sets."""
