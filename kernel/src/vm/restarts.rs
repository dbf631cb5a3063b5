//! What becomes of a VM that ended: the configuration's `on_reset` and `restarts`.

use configuration::OnReset;

use crate::vcpu::End;

/// What to do with a VM that ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Next {
    /// Build it again.
    Restart,
    /// It is over.
    Over,
}

/// How often a VM may still begin again.
#[derive(Clone, Copy, Debug)]
pub struct Restarts {
    on_reset: OnReset,
    /// `None`: without limit.
    left: Option<u32>,
}

impl Restarts {
    /// As the configuration says: `limit` restarts at most, `None` without limit.
    pub const fn new(on_reset: OnReset, limit: Option<u32>) -> Self {
        Self { on_reset, left: limit }
    }

    /// Judges an end. Only a reset leads to a restart: a crash, a power-off and a debug exit are final.
    pub fn judge(&mut self, end: End) -> Next {
        if !matches!((end, self.on_reset), (End::Reset(_), OnReset::Restart)) {
            return Next::Over;
        }
        match &mut self.left {
            None => Next::Restart,
            Some(0) => Next::Over,
            Some(left) => {
                *left -= 1;
                Next::Restart
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vcpu::ResetCause;

    const RESET: End = End::Reset(ResetCause::TripleFault);

    #[test]
    fn a_reset_restarts_until_the_limit() {
        let mut restarts = Restarts::new(OnReset::Restart, Some(2));
        let judged: Vec<_> = (0..4).map(|_| restarts.judge(RESET)).collect();
        assert_eq!(judged, [Next::Restart, Next::Restart, Next::Over, Next::Over]);
        let mut endless = Restarts::new(OnReset::Restart, None);
        assert!((0..1000).all(|_| endless.judge(RESET) == Next::Restart));
    }

    #[test]
    fn other_ends_are_final() {
        let mut restarts = Restarts::new(OnReset::Restart, None);
        assert_eq!(restarts.judge(End::PowerOff), Next::Over);
        assert_eq!(restarts.judge(End::DebugExit(3)), Next::Over);
        assert_eq!(Restarts::new(OnReset::Stop, None).judge(RESET), Next::Over);
    }
}
