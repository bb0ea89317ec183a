//! Findings from evidence that is made by hand.
