"""The accountant: from booked mechanisms to (epsilon, delta). No torch, no file, no network."""
