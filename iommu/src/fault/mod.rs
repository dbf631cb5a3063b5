//! Faults: what a unit refused, who did it, and when to stop listening (VT-d sections 7.2 and 11.4.7).
//!
//! [`record`] reads and clears the unit's records, [`reason`] names the codes, [`ledger`] counts per device and decides
//! what is reported and who is silenced.

pub mod ledger;
pub mod reason;
pub mod record;

pub use ledger::{Action, Ledger, Limits};
pub use reason::Reason;
pub use record::{Access, Fault, Place};
