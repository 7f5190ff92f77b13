//! The JSON shapes of the public API that both planes, workers and the command line share. Fields are what scripts rely
//! on: add, never rename.

mod access;
mod accounts;
mod ci;
mod data;
mod evidence;
mod history;
mod identity;
mod pipelines;
mod reproductions;
mod secrets;
mod statistics;
mod tokens;
mod triggers;

pub use access::*;
pub use accounts::*;
pub use ci::*;
pub use data::*;
pub use evidence::*;
pub use history::*;
pub use identity::*;
pub use pipelines::*;
pub use reproductions::*;
pub use secrets::*;
pub use statistics::*;
pub use tokens::*;
pub use triggers::*;
