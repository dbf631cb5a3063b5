//! Registers that no entry or exit switches: a loaded guest's are in the processor, others are kept.

use super::Vmx;
#[cfg(target_os = "none")]
use super::machine;
use super::machine::Resident;

impl Vmx {
    #[cfg(target_os = "none")]
    pub(super) fn resident(&self) -> Resident {
        if self.loaded {
            return Resident { cr2: machine::cr2(), dr6: machine::dr6(), ..self.resident };
        }
        self.resident
    }

    #[cfg(not(target_os = "none"))]
    pub(super) fn resident(&self) -> Resident {
        self.resident
    }

    /// Changes CR2 or DR6.
    pub(super) fn set_resident(&mut self, change: impl FnOnce(&mut Resident)) {
        let before = self.resident();
        let mut after = before;
        change(&mut after);
        #[cfg(target_os = "none")]
        if self.loaded {
            if after.cr2 != before.cr2 {
                machine::set_cr2(after.cr2);
            }
            if after.dr6 != before.dr6 {
                machine::set_dr6(after.dr6);
            }
        }
        self.resident.cr2 = after.cr2;
        self.resident.dr6 = after.dr6;
    }

    pub(super) fn call(&self, at: usize) -> u64 {
        #[cfg(target_os = "none")]
        if self.loaded {
            return Resident::call(at);
        }
        self.resident.calls.get(at).copied().unwrap_or(0)
    }

    pub(super) fn set_call(&mut self, at: usize, value: u64) {
        if let Some(call) = self.resident.calls.get_mut(at) {
            *call = value;
        }
        #[cfg(target_os = "none")]
        if self.loaded {
            self.resident.put_call(at);
        }
    }
}
