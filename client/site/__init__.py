"""One hospital's home folder: its rules (site.toml), place, owner and rights. All rooms may use it."""
