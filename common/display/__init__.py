"""What a person reads: terminal output, HTML pages, text files. Data is escaped here and nowhere else."""
