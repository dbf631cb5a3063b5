//! The machine's PCI functions: configuration space, enumeration, and what is written about them.

mod access;
mod ecam;
mod function;

pub use self::access::ConfigurationAccess;
pub use self::ecam::Ecam;
pub use self::function::{
    Acs, Bar, BarKind, Buses, Capability, Class, Express, ExpressKind, ExtendedCapability, Function, capability,
};
