//! The fault decoder and the ledger: no record hurts, nobody floods the log, silence is kept.

use iommu::address::PciAddress;
use iommu::fault::{Action, Fault, Ledger, Limits, Place};

use crate::Input;

const SECOND: u64 = 1_000_000_000;

/// Decodes records of 16 bytes, and counts them as if each came a moment after the other.
pub fn fault(data: &[u8]) {
    let limits = Limits { reports_per_second: 3, faults_per_second: 9 };
    let mut ledger = Ledger::new(limits);
    let mut input = Input(data);
    let (mut now, mut second, mut reports) = (0u64, 0u64, std::collections::BTreeMap::new());
    while !input.is_empty() {
        let (low, high) = (input.word(), input.word());
        let fault = Fault::decode(low, high);
        let said = fault.to_string();
        assert!(said.contains(&fault.source.to_string()) && said.contains("reason"), "{said}");
        match fault.place {
            Place::Memory(page) => assert!(page % 4096 == 0 && !fault.reason.is_of_an_interrupt()),
            Place::Interrupt(index) => {
                assert!(fault.reason.is_of_an_interrupt() && u64::from(index) == low >> 48);
            }
        }
        assert_eq!(u64::from(fault.reason.code()), high >> 32 & 0xff);
        assert_eq!(fault.process.is_some(), high >> 31 & 1 != 0);
        assert!(fault.process.is_none_or(|process| process < 1 << 20));
        let device = PciAddress { segment: 0, source: fault.source };
        now += low >> 12 & 0x0fff_ffff;
        if now / SECOND != second {
            (second, reports) = (now / SECOND, std::collections::BTreeMap::new());
        }
        let was_silenced = ledger.is_silenced(device);
        match ledger.count(device, None, fault.reason, now) {
            Action::Count => {}
            Action::Report { .. } => {
                assert!(!was_silenced, "a silenced device is not reported");
                let made = reports.entry(device).or_insert(0u32);
                *made += 1;
                // Windows start with a fault, so that two of them meet any second.
                assert!(*made <= 2 * limits.reports_per_second, "{device} floods the log");
            }
            Action::Silence { .. } => assert!(!was_silenced && ledger.is_silenced(device)),
        }
        if high >> 20 & 0xff == 0xff {
            ledger.forget(device);
            reports.remove(&device);
            assert!(!ledger.is_silenced(device));
        }
        assert!(ledger.devices().count() <= 128, "the ledger grows");
    }
}
