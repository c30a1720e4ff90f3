"""One hospital's home folder: its rules (site.toml), its place, its owner, its rights. All rooms may use it."""
