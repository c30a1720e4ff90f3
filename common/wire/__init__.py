"""What crosses the border between sites and coordinator: messages, signatures, certificates, addresses."""
