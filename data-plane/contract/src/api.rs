//! The JSON shapes of the public API that both planes, workers and the command line share. Fields are what scripts rely
//! on: add, never rename.

mod access;
mod accounts;
mod audit;
mod data;
mod deletions;
mod evidence;
mod history;
mod notices;
mod pipelines;
mod reproductions;
mod secrets;
mod statistics;

pub use access::*;
pub use accounts::*;
pub use audit::*;
pub use data::*;
pub use deletions::*;
pub use evidence::*;
pub use history::*;
pub use notices::*;
pub use pipelines::*;
pub use reproductions::*;
pub use secrets::*;
pub use statistics::*;
