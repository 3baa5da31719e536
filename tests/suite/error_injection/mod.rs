//! Failures that can't be had otherwise, made by fake tools that are real programs.

mod creators;
