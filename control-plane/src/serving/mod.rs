//! The address of services, a listener of its own: pages that user code makes must not share an origin with the API, nor two
//! services with each other. A browser reaches a service at a host of its own (`hosts`) by a cookie that `open` begins
//! (`entries`); a program below `/{organization}/{project}/{name}/` by a bearer token, never by a cookie. Either way the
//! request goes on with an access token of that person, and the data plane decides (R1, R7). Nobody wakes a plane, or learns
//! what there is, before he is known.

mod entries;
mod hosts;
mod lasting;
mod listener;
mod open;
mod queries;

pub use hosts::Hosts;
pub use listener::serve;
pub use open::router;
pub use queries::forget_expired;
