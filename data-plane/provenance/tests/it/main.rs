//! Properties of the rules against slow references. Every case grows from one number, the seed, which a failure prints.

#![expect(clippy::unwrap_used, reason = "a broken fixture must fail the test")]

mod access;
mod access_random;
mod datums_random;
mod propagation_random;
mod seed;
mod sponsors;
mod world;
