//! What runs user code in a container that is the user's: the worker is in another container of the pod, and asks this program,
//! over a unix socket on a volume that both see, to run one command after the other.
//!
//! The binary `howdah-shim` is the first process of the container (`serve`), and was copied there by an init container
//! (`install`), so it must run in any image: it is linked statically, by `make shim`, which is
//! `cargo rustc --release -p shim --bin howdah-shim -- -C target-feature=+crt-static` (glibc; the program looks up no names and no
//! users, which is all that glibc could not do so). How a command is started, limited, timed, killed and reported is the
//! sandbox's, without namespaces: the container is one. What is here:
//! - [`wire`]: the words, for both ends.
//! - [`serve`]: one connection controls, others are turned away. When it ends, everything is killed before the next is let in.
//!   Nothing of one command is left for the next: no process, nothing in `/tmp` and `/dev/shm`, no secret.
//! - [`install`]: copies this program.
//!
//! Callers must know: user code runs under the id of this program. It could stop it, never speak for it: before the next
//! connection the socket is made anew.

mod command;
mod emptied;
mod install;
mod outputs;
mod server;
pub mod wire;

pub use install::install;
pub use server::{Settings, serve};
