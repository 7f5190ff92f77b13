//! Files of commits: how they come in (an archive that is stored as it arrives), how they are shown and go out. Everything
//! that reads takes the proof that this commit may be read.

pub mod archive_reader;
pub mod archive_writer;
pub mod change;
pub mod chunk_lists;
pub mod delta;
pub mod guard;
#[cfg(test)]
mod hostile_tests;
pub mod listing;
mod portions;
pub mod reads;
pub mod routes;
pub mod samples;
pub mod stored;
pub mod upload;
pub mod writes;
mod zip_records;
pub mod zip_writer;
