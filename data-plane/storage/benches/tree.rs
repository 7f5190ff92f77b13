//! Measures of storage.
fn main() {}
