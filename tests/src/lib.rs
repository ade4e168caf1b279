//! Placeholder head, replaced with the first code.
