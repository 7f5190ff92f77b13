//! Facts about the sources that no compiler checks: which crate may use which, how long files and functions are, that
//! every module says what it owns, that the code map names every folder. Reads files, runs nothing.

mod layers;
mod prose;
mod sizes;
mod sources;
