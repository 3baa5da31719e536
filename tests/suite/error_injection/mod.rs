//! Failures that cannot be had otherwise.
