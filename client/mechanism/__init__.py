"""The mechanisms that touch patients: clipped sums, DP-SGD, noise. Called after a booking, never before."""
