//! The user interface of Linux's VFIO: numbers and structures, byte for byte.
//!
//! Nothing of the machine depends on this room. It is the vocabulary in which the objects can be compared with
//! VFIO's, and in which a front end that speaks VFIO's calls would speak.

mod irq_set;
pub mod numbers;
mod structures;

pub use irq_set::{DataKind, IrqSetHeader};
pub use structures::{
    CapabilityHeader, DeviceInfo, DmaMap, DmaUnmap, Feature, GroupStatus, HotReset, IoEvent, IovaRange, IrqInfo,
    IrqSet, RegionInfo, SparseArea, Type1Info,
};
