//! This processor: descriptor tables, local APIC, per-CPU data, bring-up of the other CPUs, clock.

pub mod cache;
pub mod interrupts;
