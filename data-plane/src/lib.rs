//! One tenant's data plane: versioned data under the access rule, and the pipelines that are run on it. Each folder is a
//! noun with its types and rules in `mod.rs`, its handlers in `routes.rs` and its SQL in `queries.rs`. A handler takes a
//! [`call::Call`] (who), gets proofs from [`permissions`] (may they), and passes them to what shows or changes something.
//! Start reading at `commits/mod.rs`, then `files/upload.rs`.

pub use chassis::Environment;

pub mod activity;
pub mod audit;
pub mod branches;
pub mod call;
pub mod commits;
pub mod control;
pub mod cron;
pub mod cursor;
pub mod defaults;
pub mod egress;
pub mod executor;
pub mod failure;
pub mod files;
pub mod fsck;
pub mod garbage;
pub mod history;
pub mod idempotency;
pub mod images;
pub mod imports;
pub mod jobs;
pub mod lineage;
pub mod permissions;
pub mod pipelines;
pub mod plane;
pub mod policy;
pub mod projects;
pub mod readings;
pub mod repos;
pub mod scheduler;
pub mod secrets;
pub mod server;
pub mod serving;
pub mod spouts;
pub mod statistics;
pub mod stores;
pub mod uploads;
pub mod worker;
