//! The commands that the documentation shows, found so that a test can run each of them.
