//! The guest's side of the address types; the host's side is [`iommu::address`].

iommu::address_type! {
    /// An address in a guest's physical address space.
    GuestPhysical
}
