//! What every long-running process has: its environment (clock, entropy), configuration from its parent, shutdown,
//! telemetry, problems as HTTP responses, extractors that answer problems, signed tokens, searches of audit trails. Knows no noun of the product
//! but those of `contract`.

pub mod audit;
pub mod environment;
pub mod etag;
pub mod http;
pub mod idempotency;
pub mod openapi;
pub mod process;
pub mod signed;
pub mod telemetry;

pub use environment::Environment;
