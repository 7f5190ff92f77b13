//! The JSON shapes of the public API that both planes, workers and the command line share. Fields are what scripts rely
//! on: add, never rename.

mod access;
mod accounts;
mod audit;
mod ci;
mod data;
mod deletions;
mod evidence;
mod history;
mod identity;
mod notices;
mod pipelines;
mod reproductions;
mod secrets;
mod statistics;
mod tokens;
mod triggers;

pub use access::*;
pub use accounts::*;
pub use audit::*;
pub use ci::*;
pub use data::*;
pub use deletions::*;
pub use evidence::*;
pub use history::*;
pub use identity::*;
pub use notices::*;
pub use pipelines::*;
pub use reproductions::*;
pub use secrets::*;
pub use statistics::*;
pub use tokens::*;
pub use triggers::*;
