//! sdxl.
