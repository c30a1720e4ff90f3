"""Pulling and receiving studies from a hospital's PACS into a folder."""
