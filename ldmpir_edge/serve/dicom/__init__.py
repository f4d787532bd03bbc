"""The DICOM door, and the PACS that images are sent to."""
