"""What a person reads: terminal output, HTML pages, text files; data is escaped here."""
