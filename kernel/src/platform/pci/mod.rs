//! The machine's PCI functions: configuration space, enumeration, and what is written about them.

mod access;
mod bars;
mod ecam;
mod function;
mod lists;
mod mechanism;
mod ports;
mod scan;
pub mod tree;

pub use self::access::ConfigurationAccess;
pub use self::ecam::{Ecam, map};
pub use self::function::{
    Acs, Bar, BarKind, Buses, Capability, Class, Express, ExpressKind, ExtendedCapability, Function, capability,
};
pub use self::mechanism::Mechanism;
pub use self::ports::Ports;
pub use self::scan::{Enumeration, PciProblem, enumerate};
