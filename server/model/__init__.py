"""How the model starts: closed forms from noised sums, and training on public images."""
