"""From a DICOM file to pixels as a viewer shows them. Depends on no patient, no cohort and no study."""
