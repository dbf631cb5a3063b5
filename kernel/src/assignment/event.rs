//! What `passthrough` calls an event: a token for one vector of one vCPU of one VM.

use passthrough::door::Event;

/// Where a device's interrupt goes in the end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Target {
    /// The VM's number: its place in the configuration.
    pub vm: u16,
    /// Which of its vCPUs.
    pub vcpu: u16,
    /// The vector that the guest chose, 16 to 255.
    pub vector: u8,
}

impl Target {
    /// The token.
    pub fn to_event(self) -> Event {
        Event(u64::from(self.vm) << 32 | u64::from(self.vcpu) << 16 | u64::from(self.vector))
    }

    /// The target behind a token; `None` for a number that [`to_event`](Self::to_event) cannot have made.
    pub fn from_event(event: Event) -> Option<Self> {
        Some(Self {
            vm: u16::try_from(event.0 >> 32).ok()?,
            vcpu: (event.0 >> 16) as u16,
            vector: u8::try_from(event.0 & 0xffff).ok().filter(|vector| *vector >= 16)?,
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tokens_round_trip_and_made_up_ones_do_not() {
        let target = Target { vm: 3, vcpu: 0xfffe, vector: 0xef };
        assert_eq!(Target::from_event(target.to_event()), Some(target));
        for wild in [0, 15, 0x100, 1 << 48, u64::MAX] {
            assert_eq!(Target::from_event(Event(wild)), None, "{wild:#x}");
        }
    }
}
