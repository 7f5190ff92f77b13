//! How many datums lists make, without making any: a product of two lists of twenty thousand files is told from their
//! lengths. Asked before each list is made, because it stands in memory.

use super::Datum;

/// So many files and directories may all datums of one plan read together, each counted in each datum: two gigabytes.
pub const INPUTS_MAX: u64 = 4_000_000;

/// Datums and what they read; saturating.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Size {
    /// Datums.
    pub datums: u64,
    /// Files and directories that they read, each counted in each datum.
    pub inputs: u64,
}

/// More than can be planned at once.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error(
    "the input makes up to {} datums that read {} files and directories, and at most {INPUTS_MAX} can be planned at once: \
     narrow a glob, match directories instead of files, or use a group or a join instead of a cross",
    .0.datums,
    .0.inputs
)]
pub struct TooMany(pub Size);

impl Size {
    /// The one combination of nothing.
    pub(super) const ONE: Self = Self { datums: 1, inputs: 0 };

    /// Whether that can be planned.
    ///
    /// # Errors
    /// When it cannot.
    pub fn admit(self) -> Result<(), TooMany> {
        if self.inputs > INPUTS_MAX || self.datums > INPUTS_MAX {
            return Err(TooMany(self));
        }
        Ok(())
    }

    pub(super) fn plus(self, other: Self) -> Self {
        Self {
            datums: self.datums.saturating_add(other.datums),
            inputs: self.inputs.saturating_add(other.inputs),
        }
    }

    /// Of the combinations of both.
    pub(super) fn times(self, other: Self) -> Self {
        let (left, right) = (
            self.inputs.saturating_mul(other.datums),
            other.inputs.saturating_mul(self.datums),
        );
        Self {
            datums: self.datums.saturating_mul(other.datums),
            inputs: left.saturating_add(right),
        }
    }

    /// Of a list.
    pub(super) fn of(datums: &[Datum]) -> Self {
        datums.iter().map(Self::one).fold(Self::default(), Self::plus)
    }

    /// Of a datum.
    pub(super) fn one(datum: &Datum) -> Self {
        Self {
            datums: 1,
            inputs: datum.inputs.len() as u64,
        }
    }
}
