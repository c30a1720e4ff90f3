"""From a DICOM file to pixels as a viewer shows them. Knows no patient, no cohort and no study."""
