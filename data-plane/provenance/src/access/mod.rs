//! The access rule: who may do what with a commit, given its origins and the policy. There is one function that weighs
//! a question; `decide`, `explain`, `who_can_read` and `impact` all ask it, so that what is enforced and what is
//! explained cannot differ.

mod cache;
mod decide;
mod explain;
mod policy;
mod questions;
mod sponsors;
mod what_if;

pub use cache::DecisionCache;
pub use decide::{Access, Cause, Denial, Permit, Readable, Subject, Verb, can, can_in_project, decide, read};
pub use explain::{Lineage, LineageNode, explain, in_words, shown_name};
pub use policy::{PermissionSet, Policy};
pub use questions::{Loss, guard, impact, required_for_egress, required_for_new_pipeline, who_can_read};
pub use sponsors::{Grants, Ground, Grounds, Standing, revokes_nothing};
pub use what_if::{Change, Pair, Shift, shifts};
