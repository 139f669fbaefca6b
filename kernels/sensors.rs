//! What a device measures of itself: how hot it is, how busy, what it draws, what slows it down.

use crate::Result;

/// A device's sensors. They may answer late, and those of a device in trouble may never: whoever asks them waits on a
/// thread of its own.
pub trait Sensors: Send {
    /// What they say now; an error where the device cannot be asked at all.
    fn read(&mut self) -> Result<Reading>;
}

/// What a device's sensors said at one moment. None: the device does not tell.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Reading {
    /// Memory in use, by whichever process, bytes.
    pub memory_used_bytes: Option<u64>,
    /// All the memory that can be used, bytes.
    pub memory_total_bytes: Option<u64>,
    /// Degrees Celsius.
    pub temperature_c: Option<u64>,
    /// For which part of the last moment (up to a second) anything was computed, percent.
    pub utilization_percent: Option<u64>,
    /// Milliwatts.
    pub power_mw: Option<u64>,
    /// What it may draw at most, milliwatts.
    pub power_limit_mw: Option<u64>,
    /// Why its clocks are lower than they could be.
    pub throttle: Option<Throttle>,
    /// Memory errors that could not be corrected, since the driver was loaded.
    pub ecc_errors: Option<u64>,
}

/// A reason for lower clocks.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum ThrottleReason {
    /// It draws what it may: ordinary under full load.
    PowerCap = 0,
    /// It is too hot.
    Heat = 1,
    /// The machine's power supply asks for it.
    PowerBrake = 2,
    /// The hardware protects itself, for one of these reasons or for another.
    Hardware = 3,
}

/// The reasons that hold at one moment; none, mostly.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Throttle(u8);

impl ThrottleReason {
    /// All there are.
    pub const ALL: [Self; 4] = [Self::PowerCap, Self::Heat, Self::PowerBrake, Self::Hardware];

    /// As programs know it.
    pub fn name(self) -> &'static str {
        match self {
            Self::PowerCap => "power_cap",
            Self::Heat => "heat",
            Self::PowerBrake => "power_brake",
            Self::Hardware => "hardware",
        }
    }
}

impl Throttle {
    /// As one number.
    pub fn bits(self) -> u64 {
        self.0.into()
    }

    /// Out of that number; what it may say besides is left out.
    pub fn from_bits(bits: u64) -> Self {
        ThrottleReason::ALL.into_iter().filter(|reason| bits >> (*reason as u8) & 1 == 1).collect()
    }

    /// Whether this reason holds.
    pub fn has(self, reason: ThrottleReason) -> bool {
        self.0 >> (reason as u8) & 1 == 1
    }

    /// Those that hold.
    pub fn reasons(self) -> impl Iterator<Item = ThrottleReason> {
        ThrottleReason::ALL.into_iter().filter(move |reason| self.has(*reason))
    }
}

impl FromIterator<ThrottleReason> for Throttle {
    fn from_iter<I: IntoIterator<Item = ThrottleReason>>(reasons: I) -> Self {
        Self(reasons.into_iter().fold(0, |bits, reason| bits | 1 << (reason as u8)))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_survive_as_a_number_and_strangers_do_not() {
        let throttle: Throttle = [ThrottleReason::Heat, ThrottleReason::Hardware].into_iter().collect();
        assert_eq!(Throttle::from_bits(throttle.bits()), throttle);
        assert_eq!(throttle.reasons().map(ThrottleReason::name).collect::<Vec<_>>(), ["heat", "hardware"]);
        assert_eq!(Throttle::from_bits(u64::MAX).bits(), 15);
        assert_eq!(Throttle::from_bits(1 << 40), Throttle::default());
    }
}
