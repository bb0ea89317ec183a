//! The least the kernel takes.
