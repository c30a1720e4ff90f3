"""The start of a model: closed forms from noised sums, and training on public images. It costs no budget."""
