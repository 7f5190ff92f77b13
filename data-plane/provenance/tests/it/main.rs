//! Properties of the rules against slow references. Every case grows from one number, the seed, which a failure prints.

mod access;
mod access_random;
mod datums_random;
mod propagation_random;
mod seed;
mod world;
