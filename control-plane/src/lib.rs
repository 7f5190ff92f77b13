//! The control plane: who the customers are, what they may do, where their data planes run. One folder per noun, each with
//! `mod.rs` (types, rules), `routes.rs` (handlers) and `queries.rs` (SQL).

pub mod app;
pub mod process;

// What every slice stands on.
pub mod audit;
pub mod authz;
pub mod call;
pub mod database;
pub mod idempotency;
pub mod mac;
pub mod paging;
pub mod peer;
pub mod rate_limits;
pub mod refusal;
pub mod traffic;
pub mod vault;

// Who the customers are.
pub mod account_events;
pub mod accounts;
pub mod ci_trusts;
pub mod deletions;
pub mod device_logins;
pub mod invitations;
pub mod mail;
pub mod mailed_codes;
pub mod members;
pub mod organizations;
pub mod passkeys;
pub mod second_factors;
pub mod service_accounts;
pub mod serving;
pub mod sessions;
pub mod single_sign_on;
pub mod teams;
pub mod token_exchange;
pub mod tokens;

// What they may do.
pub mod access_requests;
pub mod access_tokens;
pub mod domains;
pub mod grants;
pub mod keys;
pub mod notices;
pub mod policy;
pub mod releases;

// Where their planes run.
pub mod gateway;
pub mod planes;
