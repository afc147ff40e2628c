//! Time as a plain number: the protocol is told what time it is and never asks.
//!
//! An [`Instant`] counts nanoseconds since an epoch chosen by its engine. Because it is a number, a
//! simulator, a fuzzer or a test can create one as easily as a clock.

use std::num::NonZeroU64;
use std::ops::{Add, AddAssign, Sub};

pub use std::time::Duration;

/// A point in time: nanoseconds since the epoch of its engine, for 584 years.
///
/// Stored as one more than that, so that an `Option` of it takes no more space: every transfer has several.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Instant(NonZeroU64);

impl Instant {
    /// The epoch itself.
    pub const ZERO: Self = Self(NonZeroU64::MIN);

    /// The point `nanos` nanoseconds after the epoch.
    #[must_use]
    pub const fn from_nanos(nanos: u64) -> Self {
        Self(NonZeroU64::MIN.saturating_add(nanos))
    }

    /// Nanoseconds since the epoch.
    #[must_use]
    pub const fn as_nanos(self) -> u64 {
        self.0.get() - 1
    }

    /// Time since `earlier`; zero if it is in the future.
    #[must_use]
    pub const fn since(self, earlier: Self) -> Duration {
        Duration::from_nanos(self.0.get().saturating_sub(earlier.0.get()))
    }
}

impl Default for Instant {
    fn default() -> Self {
        Self::ZERO
    }
}

impl Add<Duration> for Instant {
    type Output = Self;

    fn add(self, rhs: Duration) -> Self {
        let nanos = rhs.as_secs().saturating_mul(1_000_000_000);
        let nanos = nanos.saturating_add(u64::from(rhs.subsec_nanos()));
        Self(self.0.saturating_add(nanos))
    }
}

impl AddAssign<Duration> for Instant {
    fn add_assign(&mut self, rhs: Duration) {
        *self = *self + rhs;
    }
}

impl Sub for Instant {
    type Output = Duration;

    fn sub(self, rhs: Self) -> Duration {
        self.since(rhs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arithmetic_saturates_at_both_ends() {
        let one = Instant::from_nanos(1);
        assert_eq!(Instant::ZERO - one, Duration::ZERO);
        assert_eq!(one + Duration::MAX, Instant::from_nanos(u64::MAX));
        assert_eq!(one + Duration::from_nanos(2) - one, Duration::from_nanos(2));
    }
}
