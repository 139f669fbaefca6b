//! Which columns of a matrix share a scale.

use std::ops::Range;

use crate::weights::{FileTensor, LoadError, Raw};

/// The groups of a row's columns, the same in every row.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Groups {
    /// Runs of so many; the last may be shorter.
    Runs(usize),
    /// Each column has its own say: quantized in the order of their importance, columns of a group lie apart.
    Each(Vec<u32>),
}

impl Groups {
    /// The group of a column.
    pub(super) fn of(&self, column: usize) -> usize {
        match self {
            Groups::Runs(length) => column / length,
            Groups::Each(groups) => groups[column] as usize,
        }
    }

    /// Whether columns `own` of `total` are blocks of `length` that each lie within a group.
    pub(super) fn hold(&self, length: usize, own: &Range<usize>, total: usize) -> bool {
        let Groups::Runs(run) = *self else { return false };
        let within = run >= total || run.is_multiple_of(length) && own.start.is_multiple_of(length);
        within && own.len().is_multiple_of(length)
    }

    /// As many runs as there are scales for a row: of the length that the settings say, if that many fit, or else equal
    /// ones; `None` if neither.
    pub(super) fn runs(columns: usize, count: usize, said: Option<usize>) -> Option<Self> {
        if count == 1 {
            return Some(Groups::Runs(columns.max(1)));
        }
        let said = said.filter(|&length| length > 0 && columns.div_ceil(length) == count);
        let equal = || columns.checked_div(count).filter(|length| *length > 0 && length * count == columns);
        said.or_else(equal).map(Groups::Runs)
    }

    /// As a tensor `g_idx [columns]` says, whose first element is negative where it says nothing.
    pub(super) fn in_order(self, g_idx: &FileTensor, columns: usize, count: usize) -> Result<Self, LoadError> {
        let groups = g_idx.integers(Raw::I32)?;
        if groups.len() != columns {
            let fault = format!("has {} elements, the model's settings ask for {columns}", groups.len());
            return Err(g_idx.fault(fault));
        }
        if groups.first().is_none_or(|first| *first < 0) {
            return Ok(self);
        }
        if groups.iter().enumerate().all(|(column, group)| *group == self.of(column) as i64) {
            return Ok(self);
        }
        let known = |group: &i64| u32::try_from(*group).ok().filter(|group| (*group as usize) < count);
        let each: Option<Vec<u32>> = groups.iter().map(known).collect();
        each.map(Groups::Each).ok_or_else(|| g_idx.fault(format!("names a group beyond the {count} that have scales")))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn runs_are_as_long_as_said_or_equal() {
        let check = |columns, count, said, expected: Option<usize>| {
            assert_eq!(Groups::runs(columns, count, said), expected.map(Groups::Runs), "{count} of {columns}");
        };
        check(192, 2, Some(128), Some(128));
        check(192, 2, Some(64), Some(96));
        check(192, 1, Some(128), Some(192));
        check(192, 7, None, None);
        check(192, 0, None, None);
    }

    #[test]
    fn blocks_lie_within_groups() {
        let check = |run, length, own: Range<usize>, expected| {
            assert_eq!(Groups::Runs(run).hold(length, &own, 256), expected, "{own:?} in runs of {run}");
        };
        check(128, 128, 0..256, true);
        check(128, 32, 96..160, true);
        check(128, 128, 64..192, false);
        check(256, 128, 64..192, true);
        check(64, 128, 0..128, false);
        check(96, 32, 0..64, true);
        check(96, 32, 0..63, false);
        assert!(!Groups::Each(vec![0; 256]).hold(32, &(0..32), 256));
    }
}
