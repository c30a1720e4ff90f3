"""DICOM studies pulled or received from a hospital's PACS into a folder, bounded in bytes and seconds."""
